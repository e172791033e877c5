"""Predictions of a trained model for videos."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, cast, overload

import numpy as np

from t3d.data.catalog import open_index
from t3d.data.clips import numpy_pixels
from t3d.data.clips.arrays import OneVideo, is_tensor, open_one
from t3d.data.clips.frames import FrameStore, resize_with_torch
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import ConfigError, Failed, VideoError
from t3d.evaluation.exported import scored_videos
from t3d.evaluation.loaded_pair import LoadedPair, load_pair
from t3d.evaluation.part_results import predictions_of, timelines_of
from t3d.evaluation.parts import Part, as_manifest
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.result import Prediction
from t3d.evaluation.scores import ScoredPart
from t3d.evaluation.timeline import Timeline, TimelineConfig
from t3d.progress import Bar, progress
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import Runtime, exported_format
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits

if TYPE_CHECKING:
    import torch

    from t3d.models.net import VideoNet

_COMPUTE = Compute(workers=0)


class Predictor:
    """Classify videos with a trained model.

    Scores come from the same function as those of `t3d test`. They are bit-equal for the same batches of
    videos, and equal within 1e-6 (fp32) when other videos share the batches; see `t3d.evaluation.scoring`.

    A file that `t3d export` wrote is computed without torch, which is not even imported. Its probabilities
    agree with those of the network within 1e-4 in fp32; see `t3d.evaluation.exported`.

    Args:
        model: Weights file, the folder of a finished training run, a file that `t3d export` wrote, or what
            `t3d.load` returned.
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
        >>> predictor("holiday.mp4").label  # doctest: +SKIP
        'Surfing'
        >>> predictor(frames).label  # uint8 [T, H, W, 3] or [T, 3, H, W]  # doctest: +SKIP
        'Surfing'
        >>> predictor.embed("holiday.mp4").shape  # doctest: +SKIP
        torch.Size([1024])
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | LoadedPair,
        *,
        compute: Compute = _COMPUTE,
        index: str | None = None,
        allow_unfinished: bool = False,
        per_clip: bool = False,
        limits: ReadLimits = DEFAULT_LIMITS,
        image_fps: float | None = None,
        runtime: Runtime = "auto",
    ) -> None:
        if not isinstance(model, LoadedPair):
            model = load_pair(
                LoadedPair, model, runtime=runtime, compute=compute, allow_unfinished=allow_unfinished
            )
        self.model, self.card = model
        self.store = FrameStore(
            self.card.clip,
            index=open_index(index),
            limits=limits,
            image_fps=image_fps,
            resize=numpy_pixels.resize if isinstance(self.model, ExportedModel) else resize_with_torch,
        )
        self._given, self._allow_unfinished = model.path, model.allow_unfinished
        self.compute = compute
        self.per_clip = per_clip

    def __call__(self, video: OneVideo, *, fps: float | None = None, bar: Bar | None = None) -> Prediction:
        """Classify one video.

        Args:
            video: The path of a file, an open `Video`, or RGB frames in memory, uint8 [T, H, W, 3] or
                [T, 3, H, W]. Strides count frames, so such frames need the frame rate of the videos that the
                model was trained on, unless the model samples by time (`clip.fps`).
            fps: Frames per second of frames in memory. Needed if the model samples by time.
            bar: Progress to advance, from 0 to 1. Default: a new one, see `t3d.progress`.

        Raises:
            ConfigError: Another type, frames of another shape or type, or their rate is needed and missing.
            VideoError: The video cannot be read.
        """
        (prediction,) = self._one(video, fps, bar)
        return _readable(prediction)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path is also a sequence of letters
        self, videos: OneVideo | Part, *, fps: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, videos: Sequence[OneVideo | Part], *, fps: float | None = None) -> list[Prediction]: ...

    def predict(
        self, videos: OneVideo | Part | Sequence[OneVideo | Part], *, fps: float | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one video, or a list of videos.

        Args:
            videos: One video, see `__call__`, or a time span of one; or a list of those. In a list, a folder
                stands for the videos in it.
            fps: Frames per second of frames in memory. Needed if the model samples by time.

        Returns:
            The prediction of one video; for a list, the predictions in its order. There, a video that cannot
            be read has its reason in `error`.

        Raises:
            ConfigError: See `__call__`.
            VideoError: The one video cannot be read.
            ManifestError: A folder of the list has no video.
        """
        if isinstance(videos, Part):
            (prediction,) = self.many([videos])
            return _readable(prediction)
        if not isinstance(videos, list | tuple):
            return self(cast(OneVideo, videos), fps=fps)
        if all(isinstance(video, str | os.PathLike | Part) for video in videos):
            return list(self.many(videos)) if videos else []
        return [
            prediction
            for video in videos
            for prediction in (
                self.many([video]) if isinstance(video, str | os.PathLike | Part) else self._one(video, fps)
            )
        ]

    def _one(self, video: OneVideo, fps: float | None, bar: Bar | None = None) -> Iterator[Prediction]:
        """Yield the prediction of one video, also if it cannot be read."""
        manifest, store = open_one(video, self.store, fps=fps)
        yield from self._predictions(manifest.with_classes(self.card.classes), store, bar)

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
        network = self.network
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
    def network(self) -> VideoNet:
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

    def predict_timeline(
        self, video: OneVideo, rules: TimelineConfig | None = None, *, fps: float | None = None
    ) -> Timeline:
        """Find the segments of one video in which a class happens, see `timelines`.

        Args:
            video: See `__call__`.
            rules: Rules that turn the scores of clips into segments.
            fps: Frames per second of frames in memory, which they need.

        Raises:
            ConfigError: The model does not have a class of `rules.background`, or frames in memory are given
                without `fps`.
            VideoError: The video cannot be read.

        Example:
            >>> print(predictor.predict_timeline("match.mp4"))  # doctest: +SKIP
            match.mp4
              0:00.000 to 0:07.620  Diving 69%
              0:10.180 to 0:17.860  Punch 83%
        """
        rules = rules or TimelineConfig()
        rules.background_rows(self.card.classes)  # before any video is read
        if fps is None and (isinstance(video, np.ndarray) or is_tensor(video)):
            raise ConfigError(
                "a timeline has times in seconds, and frames in memory do not say their rate; give their "
                "frames per second as `fps`"
            )
        manifest, store = open_one(video, self.store, fps=fps)
        (timeline,) = self._timelines(manifest.with_classes(self.card.classes), store, rules)
        if isinstance(timeline, Failed):
            raise VideoError(timeline.path, timeline.reason)
        return timeline

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
        yield from self._timelines(manifest, self.store, rules)

    def _timelines(
        self, manifest: Manifest, store: FrameStore, rules: TimelineConfig
    ) -> Iterator[Timeline | Failed]:
        with (
            progress("Classifying videos", len(manifest)) as bar,
            closing(self._scored(manifest, store, bar)) as scored,
        ):
            for part in scored:
                yield from timelines_of(part, self.card, rules)

    def many(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Part],
        *,
        title: str = "Classifying videos",
    ) -> Iterator[Prediction]:
        """Classify videos, in their order; one that cannot be read says so in `error`.

        Args:
            paths: Files, and folders, which stand for the videos in them; parts of videos; or a single one.
            title: Name of the task in progress, see `t3d.progress`.

        Returns:
            One prediction per video, with its absolute path, as soon as it is known.

        Raises:
            ManifestError: No path, or a folder without video.
        """
        if isinstance(paths, str | os.PathLike):  # else the letters of a path would be taken for files
            paths = [paths]
        manifest = as_manifest(paths).with_classes(self.card.classes)
        return self._predictions(manifest, self.store, title=title)

    def _predictions(
        self,
        manifest: Manifest,
        store: FrameStore,
        bar: Bar | None = None,
        *,
        title: str = "Classifying videos",
    ) -> Iterator[Prediction]:
        with (
            progress(title, len(manifest), bar=bar) as shown,
            closing(self._scored(manifest, store, shown)) as scored,
        ):
            for part in scored:
                yield from predictions_of(part, self.card, per_clip=self.per_clip)

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


def _readable(prediction: Prediction) -> Prediction:
    """Return a prediction.

    Raises:
        VideoError: The video cannot be read.
    """
    if prediction.error is not None:
        raise VideoError(prediction.path, prediction.error)
    return prediction
