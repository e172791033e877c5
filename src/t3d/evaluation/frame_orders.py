"""Does a model use the order of frames? Its accuracy with frames in other orders, paired by video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from t3d.data.clips.views import FrameOrder
from t3d.errors import CheckpointError, ConfigError, ManifestError, one_of
from t3d.evaluation.config import TestConfig
from t3d.evaluation.difference import Difference, difference, right_answers
from t3d.evaluation.figures import Interval, accuracy_interval
from t3d.evaluation.metrics import known_rows
from t3d.evaluation.run_test import TestResult, run_test
from t3d.runtime.load import read_model_card

OTHER_ORDERS: tuple[FrameOrder, ...] = ("shuffled", "reversed", "static")
"""Orders that a test can be compared with."""
_FRAMES = {
    "shuffled": "shuffled frames",
    "reversed": "reversed frames",
    "static": "one frame repeated (static)",
}
_USES = {
    "shuffled": "the model uses the order of the frames",
    "reversed": "the model uses the direction of time",
    "static": "the model uses more than single frames",
}
_UNCLEAR = {
    "shuffled": "these videos do not show that the model uses the order of the frames",
    "reversed": "these videos do not show that the model uses the direction of time",
    "static": "these videos do not show that the model needs more than single frames",
}


@dataclass(frozen=True)
class OrderAccuracy:
    """Accuracy with the frames of each clip in one order.

    Args:
        order: The order.
        correct: Number of right videos.
        accuracy: Their share.
        interval: 95 % interval of the accuracy.
        difference: Difference from the normal order, on the same videos. None for the normal order.
    """

    order: FrameOrder
    correct: int
    accuracy: float
    interval: Interval
    difference: Difference | None = None


@dataclass(frozen=True)
class FrameOrders:
    """Accuracies of a model with frames in several orders, on the same videos.

    Args:
        rows: The orders, the normal one first.
        videos: Number of videos that could be read in every order.
    """

    rows: tuple[OrderAccuracy, ...]
    videos: int

    def sentences(self) -> list[str]:
        """Say for each order what its accuracy means."""
        return [self._sentence(row, row.difference) for row in self.rows if row.difference is not None]

    def to_json(self) -> dict[str, Any]:
        """Return the accuracies for `metrics.json`, by order."""
        rows = {row.order: asdict(row) for row in self.rows}
        return {"frame_orders": {"videos": self.videos, **rows}}

    def _sentence(self, row: OrderAccuracy, paired: Difference) -> str:
        change = f"from {self.rows[0].accuracy:.0%} to {row.accuracy:.0%}"
        start = f"With {_FRAMES[row.order]} the accuracy"
        if paired.clear and paired.points < 0:
            return f"{start} falls {change}: {_USES[row.order]}."
        if paired.clear:
            return f"{start} rises {change}: the model does better without the normal order."
        if not paired.points:
            return f"{start} stays at {row.accuracy:.0%}: {_UNCLEAR[row.order]}."
        return f"{start} goes {change}, which may be chance (p {paired.p:.2g}): {_UNCLEAR[row.order]}."


def check_orders(config: TestConfig, orders: Sequence[str]) -> tuple[FrameOrder, ...]:
    """Refuse orders that cannot be compared, before the model runs.

    Args:
        config: The test with the normal order.
        orders: Names of the other orders.

    Returns:
        The other orders, each once.

    Raises:
        ConfigError: An order is unknown or `normal`, or the test itself has another order.
        CheckpointError: The model gives several labels per video.
    """
    for order in orders:
        one_of("frame_orders", order, OTHER_ORDERS)
    if config.frame_order != "normal":
        raise ConfigError(
            f"frame_order is {config.frame_order}; `frame_orders` compares other orders with the normal one: "
            "leave out `frame_order`"
        )
    card = read_model_card(config.model, allow_unfinished=config.allow_unfinished)
    if card is not None and card.targets != "single":
        raise CheckpointError(
            f"{config.model}: this model gives several labels per video; `frame_orders` counts right "
            "answers, which only models with one label per video have. Test each order with `frame_order`"
        )
    return tuple(order for order in OTHER_ORDERS if order in orders)


def frame_order_study(
    config: TestConfig, normal: TestResult, orders: Sequence[str] = ("shuffled", "static")
) -> FrameOrders:
    """Test a model with frames in other orders, and compare with the normal order video by video.

    Each order costs as much as the test itself.

    Args:
        config: The test with the normal order.
        normal: Its result.
        orders: The other orders.

    Raises:
        ConfigError: See `check_orders`.
        CheckpointError: See `check_orders`, or the weights cannot be used.
        ManifestError: See `run_test`, or no video could be read in every order.
    """
    others = check_orders(config, orders)
    results = {order: run_test(replace(config, frame_order=order)) for order in others}
    return compare_orders(normal, results, name=config.videos)


def compare_orders(
    normal: TestResult, others: dict[FrameOrder, TestResult], *, name: str = "videos"
) -> FrameOrders:
    """Compare tests of the same model and videos with frames in several orders.

    Args:
        normal: Test with the normal order.
        others: Tests with the other orders.
        name: The videos, for messages.

    Raises:
        ManifestError: No video could be read in every order.
    """
    scores = normal.scores
    known = known_rows(scores)
    for other in others.values():
        known &= np.isfinite(other.scores.video_probs).all(1)
    if not known.any():
        raise ManifestError(f"{name}: no video could be read in every order of frames")
    groups = [scores.groups[row] for row in np.flatnonzero(known)] if scores.groups else None
    first = right_answers(scores)[known]
    rows = [OrderAccuracy("normal", int(first.sum()), float(first.mean()), accuracy_interval(first, groups))]
    for order, other in others.items():
        right = right_answers(other.scores)[known]
        rows.append(
            OrderAccuracy(
                order,
                int(right.sum()),
                float(right.mean()),
                accuracy_interval(right, groups),
                difference(right, first, groups),
            )
        )
    return FrameOrders(tuple(rows), int(known.sum()))
