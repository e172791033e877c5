"""A loaded model and its card, and what they were loaded from."""

from __future__ import annotations

import os
from typing import NamedTuple, TypeVar

from t3d.card import ModelCard
from t3d.device import Compute
from t3d.runtime.formats import Runtime
from t3d.runtime.load import ScoringModel, load


class _Pair(NamedTuple):
    model: ScoringModel
    card: ModelCard


class LoadedPair(_Pair):
    """A model and its card: `model, card = pair`.

    Args:
        model: The network, in evaluation mode, or the exported model.
        card: Its classes and clip settings.

    Attributes:
        path: What it was loaded from.
        compute: Device and precision.
        allow_unfinished: Whether the folder of an unfinished run is accepted.
    """

    path: str | os.PathLike[str]
    compute: Compute
    allow_unfinished: bool


PairT = TypeVar("PairT", bound=LoadedPair)


def load_pair(
    kind: type[PairT],
    path: str | os.PathLike[str],
    *,
    runtime: Runtime,
    compute: Compute,
    allow_unfinished: bool,
) -> PairT:
    """Load a model and its card.

    Args:
        kind: Class of the result.
        path: See `t3d.runtime.load.load`.
        runtime: See `t3d.runtime.load.load`.
        compute: Device and precision.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.

    Raises:
        CheckpointError: See `t3d.runtime.load.load`.
        ConfigError: See `t3d.runtime.load.load`.
    """
    pair = kind(*load(path, runtime=runtime, compute=compute, allow_unfinished=allow_unfinished))
    pair.path, pair.compute, pair.allow_unfinished = path, compute, allow_unfinished
    return pair
