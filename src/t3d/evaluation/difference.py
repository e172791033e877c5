"""Paired difference between two tests of the same videos.

Legend: V videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t3d.evaluation.scores import Scores

_CLEAR = 0.05  # probability of a difference this large between equally good models


@dataclass(frozen=True)
class Difference:
    """Accuracy of a model minus that of the first, on the same videos.

    Args:
        points: Difference in percentage points.
        standard_error: Its standard error over groups (column `source`), in points. None for a single group.
        only_this: Videos that only this model gets right.
        only_first: Videos that only the first model gets right.
        p: Probability of such an uneven split of these videos, or of a more uneven one, if both models were
            equally good (exact McNemar test). It takes videos as independent.
    """

    points: float
    standard_error: float | None
    only_this: int
    only_first: int
    p: float

    @property
    def clear(self) -> bool:
        """True if the difference is more than chance: by the test, and twice its standard error."""
        wide = self.standard_error is not None and abs(self.points) > 2 * self.standard_error
        return wide and self.p < _CLEAR

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.1f}"
        return f"{self.points:+.1f}{error} points (p {self.p:.2g})"


def difference(
    these: npt.NDArray[np.bool_], first: npt.NDArray[np.bool_], groups: Sequence[str] | None = None
) -> Difference:
    """Compare which of the same videos two models get right.

    Args:
        these: Videos that this model gets right, bool [V].
        first: Videos that the other gets right, bool [V].
        groups: Group of each video, V. None: every video is its own group.

    Example:
        >>> mine = np.array([True, True, True, False])
        >>> theirs = np.array([True, False, False, False])
        >>> difference(mine, theirs).points
        50.0
    """
    from scipy.stats import binomtest

    paired = these.astype(np.float64) - first
    only_this, only_first = int((these & ~first).sum()), int((first & ~these).sum())
    p = float(binomtest(only_this, only_this + only_first).pvalue) if only_this + only_first else 1.0
    _, group = np.unique(range(len(paired)) if groups is None else list(groups), return_inverse=True)
    number = int(group.max()) + 1
    error = None
    if number > 1:
        sums = np.bincount(group, weights=paired - paired.mean())
        error = 100 * float(np.sqrt(number / (number - 1) * np.square(sums).sum())) / len(paired)
    return Difference(100 * float(paired.mean()), error, only_this, only_first, p)


def right_answers(scores: Scores) -> npt.NDArray[np.bool_]:
    """Return which videos of a test are right, bool [V]. False for a video that could not be read."""
    readable = np.isfinite(scores.video_probs).all(1)
    probs = np.nan_to_num(scores.video_probs, nan=-1.0)
    return np.asarray(readable & (probs.argmax(1) == scores.labels))
