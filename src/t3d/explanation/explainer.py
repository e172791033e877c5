"""Explain why a model gives a class to a video.

Legend: S segments, T frames of a segment, C channels, H height, W width.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from t3d.data.clips.arrays import OneVideo, open_one
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import ConfigError, Failed, VideoError, did_you_mean
from t3d.evaluation.loaded_pair import LoadedPair
from t3d.evaluation.parts import Part, as_manifest
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.result import Prediction
from t3d.evaluation.scoring import IN_PROCESS, clip_scores
from t3d.explanation.clips import SeenClip, seen_clips
from t3d.explanation.config import ExplainOptions
from t3d.explanation.depths import contributions_of, depth_shares, mean_depths
from t3d.explanation.gates import measured_steps
from t3d.explanation.grad_cam import Layer, check_stage, class_activation, layers_of
from t3d.explanation.network import ExplainedNet
from t3d.explanation.occlusion import importance_of
from t3d.explanation.result import ClipExplanation, Explanation, frame_distance
from t3d.progress import Bar
from t3d.runtime.formats import exported_format
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits

_COMPUTE = Compute(workers=0)


class Explainer:
    """Explain the decisions of a trained model.

    Class and probability are those of `Predictor`. Everything else is computed in float32 by a copy of the
    network that shares its weights. Several threads may call an explainer; it explains one video at a time.

    Args:
        model: Weights file, the folder of a finished training run, or what `t3d.load` returned for one.
        compute: Where and how the model computes the prediction. By default videos are read in this process.
        options: How a decision is explained.
        index: See `Predictor`.
        allow_unfinished: See `Predictor`.
        limits: See `Predictor`.
        image_fps: See `Predictor`.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: The model is an exported file or has no such stage, or there is no such device.
        ManifestError: The index cannot be read.

    Example:
        >>> explainer = Explainer("runs/mine")  # doctest: +SKIP
        >>> print(explainer.explain("holiday.mp4"))  # doctest: +SKIP
        /home/me/holiday.mp4: Surfing 82.5%
          transition1, depth 1: +1.36 (49%)
          transition1, depth 3: +0.91 (33%)
          transition1, depth 6: +0.50 (18%)
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | LoadedPair,
        *,
        compute: Compute = _COMPUTE,
        options: ExplainOptions | None = None,
        index: str | None = None,
        allow_unfinished: bool = False,
        limits: ReadLimits = DEFAULT_LIMITS,
        image_fps: float | None = None,
    ) -> None:
        path = model.path if isinstance(model, LoadedPair) else model
        if exported_format(path) is not None:
            raise ConfigError(
                f"{os.fspath(path)}: an exported file has no gradients and no separate layers, so it cannot "
                "be explained. Give the run folder or the .safetensors file that it was exported from"
            )
        self.predictor = Predictor(
            model,
            compute=compute,
            index=index,
            allow_unfinished=allow_unfinished,
            per_clip=True,
            limits=limits,
            image_fps=image_fps,
        )
        self.card = self.predictor.card
        self.options = options or ExplainOptions()
        self._net = ExplainedNet(self.predictor.network, self.card.clip)
        check_stage(self._net.net, self.options.stage)  # before any video is read
        self._store = FrameStore(
            self.card.clip, index=self.predictor.store.index, limits=limits, image_fps=image_fps
        )
        self._layers: list[Layer] | None = None
        self._steps: dict[str, float] = {}  # frames of a clip per time step of each TTL
        self._lock = threading.Lock()

    def explain(
        self,
        video: OneVideo | Part,
        *,
        label: str | None = None,
        fps: float | None = None,
        bar: Bar | None = None,
    ) -> Explanation:
        """Explain the decision for one video.

        Args:
            video: The path of a file, an open `Video`, RGB frames in memory, or a time span of a file; see
                `Predictor.predict`.
            label: Class to explain. Default: the predicted class.
            fps: Frames per second of frames in memory. Needed if the model samples by time.
            bar: Progress to advance: half of it to classify the video, half to explain. Default: none.

        Raises:
            ConfigError: The model has no such class, or see `Predictor.predict`.
            VideoError: The video cannot be read.
        """
        self.check_label(label)
        manifest, store = self._opened(video, fps)
        if bar is None or isinstance(video, Part):
            prediction = self.predictor.predict(video, fps=fps)
        else:
            bar.move(0, 2)
            prediction = self.predictor(video, fps=fps, bar=bar)
        return self._explained(prediction, manifest, store, label, detailed=True, bar=bar)

    def many(
        self,
        parts: Iterable[Part],
        *,
        label: str | None = None,
        detailed: int | None = None,
        listed: Mapping[Part, tuple[str, ...]] | None = None,
    ) -> Iterator[Explanation | Failed]:
        """Explain the decisions for videos, in their order.

        Args:
            parts: Videos, or time spans of videos.
            label: Class to explain. Default: the predicted class of each video.
            detailed: Number of videos that are explained completely. The others have depths only. Default:
                all.
            listed: Classes of videos in a labeled list, see `Explanation.listed`.

        Yields:
            The explanation, or why the video cannot be read.

        Raises:
            ConfigError: The model has no such class.
        """
        self.check_label(label)
        parts = list(parts)
        done = 0
        predictions = self.predictor.many(parts, title="Explaining videos")
        for part, prediction in zip(parts, predictions, strict=True):
            if prediction.error is not None:
                yield Failed(prediction.path, prediction.error)
                continue
            complete = detailed is None or done < detailed
            try:
                result = self._explained(
                    prediction, as_manifest([part]), self._store, label, detailed=complete
                )
                yield replace(result, listed=(listed or {}).get(part, ()))
            except VideoError as error:
                yield Failed(error.path, error.reason)
            else:
                done += 1

    def check_label(self, label: str | None) -> None:
        """Refuse a class that the model does not have.

        Raises:
            ConfigError: The model has no such class.
        """
        if label is not None and label not in self.card.classes:
            hint = did_you_mean(label, self.card.classes)
            raise ConfigError(f"`label` is {label!r}, which is not a class of the model; {hint}")

    def _opened(self, video: OneVideo | Part, fps: float | None) -> tuple[Manifest, FrameStore]:
        if isinstance(video, Part):
            return as_manifest([video]), self._store
        return open_one(video, self._store, fps=fps)

    def _explained(
        self,
        prediction: Prediction,
        manifest: Manifest,
        store: FrameStore,
        label: str | None,
        *,
        detailed: bool,
        bar: Bar | None = None,
    ) -> Explanation:
        assert prediction.per_clip is not None
        label = prediction.label if label is None else label
        probs = [dict(zip(clip.classes, clip.probs, strict=True))[label] for clip in prediction.per_clip]
        chosen = sorted(range(len(probs)), key=lambda number: -probs[number])[: self.options.most_clips]
        row = self.card.classes.index(label)
        clips = []
        if bar is not None:
            bar.move(len(chosen), 2 * len(chosen))
        with self._lock:
            for clip in seen_clips(manifest[0], store, chosen):
                clips.append(self._clip(clip, row, probs[clip.number], detailed=detailed))
                if bar is not None:
                    bar.advance()
            remarks = self._remarks(len(probs), len(clips), detailed=detailed)
        if clips[0].heat is not None and not any(clip.heat.any() for clip in clips if clip.heat is not None):
            remarks += ("No place of this map speaks for the class, so there is no heat.",)
        clips = _scaled(clips)
        depths = mean_depths([clip.depths for clip in clips]) if self._net.branches else ()
        distance = frame_distance(clips[0].times)
        steps = {stage: frames * distance for stage, frames in self._steps.items()} if distance else {}
        return Explanation(prediction, label, tuple(clips), depths, remarks, step_seconds=steps)

    def _clip(self, clip: SeenClip, row: int, probability: float, *, detailed: bool) -> ClipExplanation:
        net, x = self._net, self._net.input_of(clip.frames)
        with torch.no_grad(), measured_steps(net.net, net.branches, x.shape[2], self._steps):
            score = float(net.score(x, row))
        depths = depth_shares(net.branches, contributions_of(net.scores(x, row), net.branches))
        explained = ClipExplanation(
            clip.number,
            clip.start,
            clip.end,
            probability,
            score,
            clip.times,
            np.ascontiguousarray(clip.frames.permute(0, 2, 3, 1).numpy()),
            clip.box,
            depths=depths,
        )
        if not detailed:
            return explained
        if self._layers is None:
            self._layers = layers_of(net.net, x, self.options.stage)
        heat = class_activation(net, x, row, self._layers).numpy() if self._layers else None
        importance = None
        if self.card.clip.num_frames > 1:
            with clip_scores(net.net, self.card.clip, IN_PROCESS) as scores:
                importance = importance_of(
                    lambda clips: scores(clips)[:, row], clip.frames, segments=self.card.clip.segments
                )
        return replace(explained, heat=heat, importance=importance)

    def _remarks(self, clips: int, explained: int, *, detailed: bool) -> tuple[str, ...]:
        remarks = []
        if explained < clips:
            remarks.append(
                f"{explained} of {clips} clips are explained: those in which the class is most probable."
            )
        if not self._net.branches:
            remarks.append(
                f"{self.card.architecture} has no Temporal Transition Layer, so it has no temporal depths."
            )
        if detailed and not self._layers:
            remarks.append(f"{self.card.architecture} has no map of places, so there is no heat.")
        elif detailed and self._layers:
            names = " and ".join(layer.name for layer in self._layers)
            remarks.append(f"The heat is computed from this map of the network: {names}.")
        return tuple(remarks)


def _scaled(clips: list[ClipExplanation]) -> list[ClipExplanation]:
    """Return clips whose heat is 1 at its strongest place."""
    strongest = max((float(clip.heat.max()) for clip in clips if clip.heat is not None), default=0.0)
    return [
        clip if clip.heat is None else replace(clip, heat=clip.heat / (strongest or 1.0)) for clip in clips
    ]


def explain(
    model: str | os.PathLike[str] | LoadedPair,
    video: OneVideo | Part,
    *,
    label: str | None = None,
    fps: float | None = None,
) -> Explanation:
    """Explain the decision of a model for one video. `Explainer` has more options.

    Args:
        model: Weights file, the folder of a finished training run, or what `t3d.load` returned for one.
        video: See `Explainer.explain`.
        label: Class to explain. Default: the predicted class.
        fps: Frames per second of frames in memory. Needed if the model samples by time.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: See `Explainer` and `Explainer.explain`.
        VideoError: The video cannot be read.

    Example:
        >>> explain("runs/mine", "holiday.mp4").depths[0].share  # doctest: +SKIP
        0.49
    """
    return Explainer(model).explain(video, label=label, fps=fps)
