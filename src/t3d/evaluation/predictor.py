"""Predictions of a trained model for videos."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from t3d.clip import Targets
from t3d.data.catalog import open_index
from t3d.data.clips import numpy_pixels
from t3d.data.clips.arrays import OneVideo, open_one
from t3d.data.clips.frames import FrameStore, resize_with_torch
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import ConfigError, Failed, VideoError
from t3d.evaluation.exported import scored_videos
from t3d.evaluation.parts import Part, as_manifest
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import ClipTimes, ScoredPart, Scores
from t3d.evaluation.timeline import Timeline, TimelineConfig, make_timeline
from t3d.progress import Bar, progress
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import Runtime, exported_format
from t3d.runtime.load import load
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits

if TYPE_CHECKING:
    import torch

    from t3d.models.net import VideoNet

_COMPUTE = Compute(workers=0)


@dataclass(frozen=True)
class ClipPrediction:
    """Classes and probabilities of one clip.

    Args:
        start: Time of its first frame, in seconds from the first frame of the file.
        end: Time at which its last frame ends.
        classes: Every class name, most probable first.
        probs: Their probabilities.
    """

    start: float
    end: float
    classes: tuple[str, ...]
    probs: tuple[float, ...]

    def likely(self, top: int) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities."""
        return list(zip(self.classes, self.probs, strict=True))[:top]


@dataclass(frozen=True)
class Prediction:
    """Classes and probabilities of a video.

    Args:
        path: The file, from the root.
        classes: Every class name, most probable first.
        probs: Their probabilities, mean over the clips.
        clips: Clips the video was cut into.
        targets: `single`: the probabilities sum to 1. `multi`: each is of that class alone.
        error: Why the video could not be read; then the other fields are empty.
        start: Start of the time span that was classified, in seconds; None for the file's beginning.
        end: End of the time span; None for the file's end.
        per_clip: The clips in their order; None if they were not asked for.
    """

    path: str
    classes: tuple[str, ...] = ()
    probs: tuple[float, ...] = ()
    clips: int = 0
    targets: Targets = "single"
    error: str | None = None
    start: float | None = None
    end: float | None = None
    per_clip: tuple[ClipPrediction, ...] | None = None

    @property
    def span(self) -> tuple[float | None, float | None] | None:
        """Return start and end of the time span; None for a whole file."""
        return None if self.start is None and self.end is None else (self.start, self.end)


class Predictor:
    """Classify videos with a trained model.

    Scores come from the same function as those of `t3d test`. They are bit-equal for the same batches of
    videos, and equal within 1e-6 (fp32) when other videos share the batches; see `t3d.evaluation.scoring`.

    A file that `t3d export` wrote is computed without torch, which is not even imported. Its probabilities
    agree with those of the network within 1e-4 in fp32; see `t3d.evaluation.exported`.

    Args:
        model: Weights file, the folder of a finished training run, or a file that `t3d export` wrote.
        compute: Where and how the model computes. By default videos are read in this process. For an exported
            file, `workers` is the number of threads that read, instead of processes.
        index: File that `t3d prepare index` or `t3d prepare shards` wrote about the videos; videos in shards
            need theirs.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        per_clip: Also return the times and probabilities of each clip.
        limits: Limits of reading one file.
        image_fps: Frames per second of videos that are folders of images. Default: the rate in the index,
            else 25.
        runtime: Program that computes the model, see `t3d.load`. Features always come from PyTorch.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: There is no such device, or the runtime does not compute this file or is not installed.
        ManifestError: The index cannot be read.

    Example:
        >>> predictor = Predictor("runs/mine")  # doctest: +SKIP
        >>> predictor("holiday.mp4").classes[0]  # doctest: +SKIP
        'Surfing'
        >>> predictor(frames).classes[0]  # uint8 [T, H, W, 3] or [T, 3, H, W]  # doctest: +SKIP
        'Surfing'
        >>> predictor.embed("holiday.mp4").shape  # doctest: +SKIP
        torch.Size([1024])
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        compute: Compute = _COMPUTE,
        index: str | None = None,
        allow_unfinished: bool = False,
        per_clip: bool = False,
        limits: ReadLimits = DEFAULT_LIMITS,
        image_fps: float | None = None,
        runtime: Runtime = "auto",
    ) -> None:
        self.model, self.card = load(
            model, runtime=runtime, compute=compute, allow_unfinished=allow_unfinished
        )
        self.store = FrameStore(
            self.card.clip,
            index=open_index(index),
            limits=limits,
            image_fps=image_fps,
            resize=numpy_pixels.resize if isinstance(self.model, ExportedModel) else resize_with_torch,
        )
        self._given, self._allow_unfinished = model, allow_unfinished
        self.compute = compute
        self.per_clip = per_clip

    def __call__(self, video: OneVideo, *, fps: float | None = None) -> Prediction:
        """Classify one video.

        Args:
            video: The path of a file, an open `Video`, or RGB frames in memory, uint8 [T, H, W, 3] or
                [T, 3, H, W]. Strides count frames, so such frames need the frame rate of the videos that the
                model was trained on, unless the model samples by time (`clip.fps`).
            fps: Frames per second of frames in memory. Needed if the model samples by time.

        Raises:
            ConfigError: Another type, frames of another shape or type, or their rate is needed and missing.
            VideoError: The video cannot be read.
        """
        manifest, store = open_one(video, self.store, fps=fps)
        (prediction,) = self._predictions(manifest.with_classes(self.card.classes), store)
        if prediction.error is not None:
            raise VideoError(prediction.path, prediction.error)
        return prediction

    def embed(self, video: OneVideo, *, fps: float | None = None) -> torch.Tensor:
        """Return the features of one video: what the classifier sees, averaged over the clips.

        Args:
            video: As for a prediction.
            fps: As for a prediction.

        Returns:
            float32 [D] on the CPU, with D features of the network.

        Raises:
            ConfigError: Another type, frames of another shape or type, or their rate is needed and missing;
                or the model is an exported file, which computes scores only.
            VideoError: The video cannot be read.
        """
        import torch

        from t3d.evaluation.scoring import each_clip, pooled_features

        manifest, store = open_one(video, self.store, fps=fps)
        network = self._network
        device = next(network.parameters()).device
        rows, bad = each_clip(
            pooled_features(network, self.card.clip, bf16=self.compute.use_bf16(device)),
            manifest,
            Protocol(self.card.clip),
            store=store,
            compute=replace(self.compute, workers=0),
        )
        if bad:
            raise VideoError(bad[0].path, bad[0].reason)
        return torch.from_numpy(np.mean([vector for _, _, vector in rows], axis=0)).float()

    @cached_property
    def _network(self) -> VideoNet:
        """The network, even if an exported file computes its scores.

        Raises:
            ConfigError: Only an exported file was given.
        """
        if not isinstance(self.model, ExportedModel):
            return self.model
        if exported_format(self._given) is not None:
            raise ConfigError(
                f"{self.model.path}: an exported file computes scores, not features. Create the Predictor "
                "with the run folder or a .safetensors file"
            )
        from t3d.models.weights import load_classifier

        return load_classifier(
            self._given, device=self.compute.pick_device(), allow_unfinished=self._allow_unfinished
        )[0]

    def timelines(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Part],
        rules: TimelineConfig | None = None,
    ) -> Iterator[Timeline | Failed]:
        """Find the segments of videos in which a class happens, see `t3d.evaluation.timeline`.

        Only the scores of the clips of a few videos are in memory, so a video may be hours long.

        Args:
            paths: See `many`.
            rules: Rules that turn the scores of clips into segments.

        Yields:
            The timeline of each video in their order, or why it cannot be read.

        Raises:
            ConfigError: The model does not have a class of `rules.background`.
            ManifestError: No path, or a folder without video.

        Example:
            >>> for timeline in predictor.timelines("match.mp4"):  # doctest: +SKIP
            ...     for segment in timeline.segments:
            ...         print(segment.label, segment.start, segment.end)
        """
        rules = rules or TimelineConfig()
        rules.background_rows(self.card.classes)  # before any video is read
        if isinstance(paths, str | os.PathLike):
            paths = [paths]
        manifest = as_manifest(paths).with_classes(self.card.classes)
        with (
            progress("Classifying videos", len(manifest)) as bar,
            closing(self._scored(manifest, self.store, bar)) as scored,
        ):
            for part in scored:
                yield from self._timelines_of(part, rules)

    def _timelines_of(self, part: ScoredPart, rules: TimelineConfig) -> Iterator[Timeline | Failed]:
        scores = part.scores
        bad = {failed.row: failed for failed in scores.bad}
        spans: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
        for (video, _), span in sorted(part.times.items()):
            spans[video].append(span)
        for row, path in enumerate(scores.paths):
            if row in bad:
                yield bad[row]
                continue
            probs = scores.clip_probs[scores.clip_video == row]
            yield make_timeline(
                path, np.array(spans[row]), probs, self.card.classes, rules, targets=self.card.targets
            )

    def many(
        self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Part]
    ) -> Iterator[Prediction]:
        """Classify videos, in their order; one that cannot be read says so in `error`.

        Args:
            paths: Files, and folders, which stand for the videos in them; parts of videos; or a single one.

        Returns:
            One prediction per video, with its absolute path, as soon as it is known.

        Raises:
            ManifestError: No path, or a folder without video.
        """
        if isinstance(paths, str | os.PathLike):  # else the letters of a path would be taken for files
            paths = [paths]
        manifest = as_manifest(paths).with_classes(self.card.classes)
        return self._predictions(manifest, self.store)

    def _predictions(self, manifest: Manifest, store: FrameStore) -> Iterator[Prediction]:
        with (
            progress("Classifying videos", len(manifest)) as bar,
            closing(self._scored(manifest, store, bar)) as scored,
        ):
            for part in scored:
                yield from self._of_part(part)

    def _scored(self, manifest: Manifest, store: FrameStore, bar: Bar) -> Generator[ScoredPart, None, None]:
        """Return the scores of the next videos, part by part."""
        if isinstance(self.model, ExportedModel):
            return scored_videos(self.model, manifest, store=store, compute=self.compute, bar=bar)
        from t3d.evaluation.scoring import score_parts

        parts = -(-len(manifest) // self.compute.batch_size)  # each is read by one process
        return score_parts(
            self.model,
            manifest,
            Protocol(self.card.clip, self.card.targets),
            store=store,
            compute=replace(self.compute, workers=min(self.compute.workers, parts)),
            shown=bar,
        )

    def _of_part(self, part: ScoredPart) -> Iterator[Prediction]:
        scores = part.scores
        reasons = {failed.row: failed.reason for failed in scores.bad}
        clips = np.bincount(scores.clip_video, minlength=len(scores.paths))
        for row, path in enumerate(scores.paths):
            start, end = scores.spans[row]
            if row in reasons:
                yield Prediction(path, error=reasons[row], start=start, end=end)
                continue
            classes, probs = self._ranked(scores.video_probs[row])
            yield Prediction(
                path,
                classes=classes,
                probs=probs,
                clips=int(clips[row]),
                targets=self.card.targets,
                start=start,
                end=end,
                per_clip=self._clips(scores, row, part.times) if self.per_clip else None,
            )

    def _clips(self, scores: Scores, row: int, times: ClipTimes) -> tuple[ClipPrediction, ...]:
        """Return the clips of a video, in their order."""
        numbers = sorted(clip for video, clip in times if video == row)
        probs = scores.clip_probs[scores.clip_video == row]
        return tuple(
            ClipPrediction(*times[row, number], *self._ranked(clip))
            for number, clip in zip(numbers, probs, strict=True)
        )

    def _ranked(self, probs: npt.NDArray[np.float64]) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """Return all classes and their probabilities, most probable first."""
        order = np.argsort(-probs, kind="stable")
        return tuple(self.card.classes[i] for i in order), tuple(float(probs[i]) for i in order)
