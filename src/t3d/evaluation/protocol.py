"""Protocol of scoring videos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from t3d.clip import ClipSpec, Targets
from t3d.data.clips.views import PAPER_VIEWS, FrameOrder, Views
from t3d.errors import one_of


@dataclass(frozen=True)
class Protocol:
    """Protocol of scoring a video: the clips that a model sees, and the meaning of its scores.

    The default is the paper's protocol: all clips that do not overlap, and the center crop of each.

    Args:
        spec: What a clip is.
        targets: `single` turns scores into probabilities that sum to 1 (softmax), `multi` into one
            probability per class (sigmoid).
        views: Which clips of a video are scored, and which crops of each clip.
        order: Order of the frames within each clip.
        seed: Seed of the shuffled order.

    Raises:
        ConfigError: Targets or an order that do not exist.
    """

    spec: ClipSpec
    targets: Targets = "single"
    views: Views = PAPER_VIEWS
    order: FrameOrder = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("targets", self.targets, get_args(Targets))
        one_of("order", self.order, get_args(FrameOrder))
