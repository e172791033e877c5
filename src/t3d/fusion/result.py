"""Result of fusing models, in figures and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.evaluation.figures import Interval, accuracy_interval
from t3d.fusion.fit import Floats, mean_loss

_DOUBT = 0.05


@dataclass(frozen=True)
class Line:
    """Figures of one model.

    Args:
        name: Weights file or run folder.
        accuracy: Accuracy on videos, in [0, 1].
        interval: Its 95 % interval.
        loss: Mean negative log-likelihood per video, in nats. With a temperature, if there is one.
        raw_loss: The same without a temperature.
        weight: Weight in the average.
        temperature: Temperature of the scores.
    """

    name: str
    accuracy: float
    interval: Interval
    loss: float
    raw_loss: float
    weight: float
    temperature: float


@dataclass(frozen=True)
class FusionResult:
    """Figures of some models and of their average, on the videos that weights were chosen on.

    Weights and temperatures for the figures of a video were chosen on videos of other groups.

    Args:
        members: Each model.
        fused: The average.
        videos: Number of videos.
        gained: Videos that only the average classifies correctly, not the best model.
        lost: Videos that only the best model classifies correctly.
        notes: Remarks about the videos.
        bad: Number of videos left out because a model could not read them.
    """

    members: tuple[Line, ...]
    fused: Line
    videos: int
    gained: int
    lost: int
    notes: tuple[str, ...] = field(default=())
    bad: int = 0

    @property
    def best(self) -> Line:
        """The most accurate model; among equals, the one with the smallest loss."""
        return max(self.members, key=lambda line: (line.accuracy, -line.loss))

    @property
    def p_value(self) -> float:
        """Probability of such a difference to the best model, or a larger one, by chance (sign test)."""
        from scipy.stats import binomtest

        changed = self.gained + self.lost
        return float(binomtest(self.gained, changed).pvalue) if changed else 1.0

    def sentences(self) -> list[str]:
        """Return whether the average is better than the best model, in plain sentences."""
        best, fused = self.best, self.fused
        net = self.gained - self.lost
        changes = f"gained {self.gained}, lost {self.lost}"
        loss = f"NLL {fused.loss:.3f} compared with {best.loss:.3f}"
        if net > 0:
            first = (
                f"The fused model classifies {net} more of {self.videos:,} videos correctly than the best "
                f"single model, {best.name} ({changes})."
            )
            if self.p_value > _DOUBT:
                first += (
                    f" Such a difference may be chance (sign test, p = {self.p_value:.2f}); check it on "
                    "other videos."
                )
        else:
            first = (
                f"Fusion does not pay in accuracy: the fused model is not more accurate than {best.name} "
                f"alone ({changes})."
            )
        if fused.loss < best.loss:
            second = f"Its probabilities are better: {loss}."
        else:
            second = f"Its probabilities are not better either: {loss}. Use {best.name}."
            if net > 0:
                second = f"Its probabilities are not better: {loss}."
        return [first, second, *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self) | {"best": self.best.name, "p_value": self.p_value}


def line(
    name: str,
    probs: Floats,
    raw: Floats,
    labels: npt.NDArray[np.int64],
    groups: Sequence[str],
    *,
    weight: float,
    temperature: float,
) -> Line:
    """Measure a model.

    Args:
        name: Its name.
        probs: Probabilities of each video, float64 [V, K].
        raw: The same without temperature.
        labels: Class of each video, int64 [V].
        groups: Group of each video, V.
        weight: Its weight.
        temperature: Its temperature.
    """
    correct = probs.argmax(1) == labels
    return Line(
        name,
        float(correct.mean()),
        accuracy_interval(correct, groups),
        mean_loss(probs, labels),
        mean_loss(raw, labels),
        weight,
        temperature,
    )
