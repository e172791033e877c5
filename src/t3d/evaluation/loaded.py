"""Load a model that classifies videos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, overload

from t3d.data.clips.arrays import OneVideo
from t3d.device import Compute
from t3d.evaluation.loaded_pair import LoadedPair, load_pair
from t3d.evaluation.parts import Part
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.result import Prediction
from t3d.evaluation.timeline import Timeline, TimelineConfig
from t3d.runtime.formats import Runtime

if TYPE_CHECKING:
    import torch


class LoadedModel(LoadedPair):
    """A model and its card, which also classifies videos: `model, card = loaded`, or `loaded.predict(…)`.

    Args:
        model: The network, in evaluation mode, or the exported model. It is called with normalized clips,
            B C T H W, and returns scores.
        card: Its classes and clip settings.

    Example:
        >>> loaded = load("runs/mine")  # doctest: +SKIP
        >>> print(loaded.predict("holiday.mp4"))  # doctest: +SKIP
        /home/me/holiday.mp4
          Surfing   82.5%
          Diving     9.1%
          Swing      4.0%
    """

    @cached_property
    def predictor(self) -> Predictor:
        """The predictor with default options. `Predictor` has more."""
        return Predictor(self, compute=self.compute, allow_unfinished=self.allow_unfinished)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path is also a sequence of letters
        self, videos: OneVideo | Part, *, fps: float | None = None
    ) -> Prediction: ...

    @overload
    def predict(self, videos: Sequence[OneVideo | Part], *, fps: float | None = None) -> list[Prediction]: ...

    def predict(
        self, videos: OneVideo | Part | Sequence[OneVideo | Part], *, fps: float | None = None
    ) -> Prediction | list[Prediction]:
        """Classify videos, see `Predictor.predict`."""
        return self.predictor.predict(videos, fps=fps)

    def predict_timeline(
        self, video: OneVideo, rules: TimelineConfig | None = None, *, fps: float | None = None
    ) -> Timeline:
        """Find the segments of a video in which a class happens, see `Predictor.predict_timeline`."""
        return self.predictor.predict_timeline(video, rules, fps=fps)

    def embed(self, video: OneVideo, *, fps: float | None = None) -> torch.Tensor:
        """Return the features of a video, see `Predictor.embed`."""
        return self.predictor.embed(video, fps=fps)


def load(
    path: str | os.PathLike[str],
    *,
    runtime: Runtime = "auto",
    compute: Compute | None = None,
    allow_unfinished: bool = False,
) -> LoadedModel:
    """Load a model that scores classes, see `t3d.runtime.load.load`.

    Args:
        path: A weights file, the folder of a training run, a file that `t3d export` wrote (.xml or .onnx), a
            folder that `t3d push` wrote, or a model on the Hub (`hf-hub:org/name`).
        runtime: Program that computes the model, see `t3d.runtime.load.load`.
        compute: Device and precision. Default: as for `Predictor`.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.

    Returns:
        The model and its card. Unpack them with `model, card = load(path)`.

    Raises:
        CheckpointError: The file is missing or damaged, has no classifier, or is of another program or
            version.
        ConfigError: The runtime does not compute such files or is not installed, or there is no such device.

    Example:
        >>> print(load("runs/mine").predict("holiday.mp4").label)  # doctest: +SKIP
        Surfing
    """
    return load_pair(
        LoadedModel,
        path,
        runtime=runtime,
        compute=compute or Compute(workers=0),
        allow_unfinished=allow_unfinished,
    )
