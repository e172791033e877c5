"""Probabilities of one clip at a time, with the numbers of `t3d predict`.

Legend: T frames, H height, W width, C channels (RGB), K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from t3d.card import ModelCard
from t3d.data.clips import numpy_pixels
from t3d.device import Compute
from t3d.errors import DivergedError
from t3d.evaluation.exported import sigmoid, softmax
from t3d.evaluation.protocol import Protocol
from t3d.runtime.exported import ExportedModel
from t3d.runtime.load import ScoringModel
from t3d.video.video import Images

Probabilities: TypeAlias = "npt.NDArray[np.float64]"
Scorer: TypeAlias = Callable[[Images], Probabilities]
"""From one clip, uint8 [T, H, W, C], to probabilities, float64 [K]."""


@contextmanager
def clip_scorer(model: ScoringModel, card: ModelCard, compute: Compute) -> Iterator[Scorer]:
    """Yield a function that scores one clip.

    The function raises a `DivergedError` if the scores are infinite or NaN.

    Args:
        model: The model.
        card: Its card.
        compute: Precision of a network.
    """
    if isinstance(model, ExportedModel):

        def exported(clip: Images) -> Probabilities:
            scores = model.scores(numpy_pixels.normalize([clip], card.clip)).astype(np.float64)
            _check(scores)
            return (sigmoid if card.targets == "multi" else softmax)(scores)[0]

        yield exported
        return
    import torch

    from t3d.evaluation.scoring import clip_probabilities

    with clip_probabilities(model, Protocol(card.clip, card.targets), compute) as probabilities:

        def network(clip: Images) -> Probabilities:
            frames = torch.from_numpy(clip).permute(0, 3, 1, 2)[None]  # B T C H W
            values: Probabilities = probabilities(frames).double().cpu().numpy()
            _check(values)
            return values[0]

        yield network


def _check(values: npt.NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise DivergedError("the model's outputs are not finite numbers, so its weights have diverged")
