"""Intervals of measured figures, and the figures to compare them with.

Console, log, JSON and report show the same numbers, and all of them are computed here.

Legend: V videos, N items (videos or clips), K classes, G groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from t3d.progress import progress

CONFIDENCE = 0.95
"""Probability that an interval covers the true value."""
TOP5_CLASSES = 6
"""Smallest number of classes for which a top-5 accuracy says anything."""
RECALL_GAP = 0.3
"""Difference between the recalls of two classes from which on both are shown."""
RESAMPLES = 1000
"""Resamples of the interval of a mean average precision."""
FEW_RESAMPLES = 200
"""Resamples of long lists, and of each validation during a training."""
_NARROW = 0.1
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_OPERATIONS = 5e8  # a bootstrap takes R · V · K of them: fewer resamples for long lists
_BLOCK = 500_000  # resamples · videos at a time: 2 MB per table, and frequent progress


class Interval(NamedTuple):
    """A 95 % interval; both ends in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True)
class Majority:
    """The most frequent class of a list, and the accuracy of always answering it.

    Args:
        name: The class.
        share: Its share of the videos, in [0, 1].
    """

    name: str
    share: float


def interval_text(interval: Interval) -> str:
    """Return an interval in percent, with a decimal if it is narrow.

    Example:
        >>> interval_text(Interval(0.542, 0.792)), interval_text(Interval(0.612, 0.648))
        ('54–79%', '61.2–64.8%')
    """
    digits = 1 if interval.high - interval.low < _NARROW else 0
    return f"{100 * interval.low:.{digits}f}–{100 * interval.high:.{digits}f}%"


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with the figures to compare it with.

    Args:
        share: Accuracy, in [0, 1].
        count: Number of items that it is measured on.
        interval: 95 % interval, see `accuracy_interval`.
        chance: Accuracy of guessing.

    Example:
        >>> str(Accuracy(0.68, 50, Interval(0.542, 0.792), 0.5))
        '68.0% of 50 (95% interval 54–79%, guessing 50.0%)'
    """

    share: float
    count: int
    interval: Interval
    chance: float

    def __str__(self) -> str:
        return (
            f"{self.share:.1%} of {self.count:,} (95% interval {interval_text(self.interval)}, "
            f"guessing {self.chance:.1%})"
        )


def majority_of(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> Majority:
    """Return the most frequent class, the first of them in class order if several are.

    Args:
        counts: Videos of each class, int64 [K].
        classes: Names, K.

    Example:
        >>> majority_of(np.array([3, 9]), ["fight", "walk"])
        Majority(name='walk', share=0.75)
    """
    best = int(counts.argmax())
    return Majority(classes[best], float(counts[best] / counts.sum()))


def accuracy_interval(correct: npt.ArrayLike, groups: Sequence[Any] | None = None) -> Interval:
    """Return the 95 % interval of an accuracy (Wilson's score interval).

    Items of one group (clips of one video, videos cut from one recording) are not independent: 50 videos of
    five recordings say less than 50 videos of 50 recordings. With groups, the number of items is therefore
    divided by the design effect: the cluster-robust variance of the mean over the binomial variance.
    Student's t corrects for the number of groups, as Korn and Graubard do for surveys. If all items are
    right, or all are wrong, the variance is unknown, and each group counts as one item. A single group of
    several items gives no information about other groups: the interval is from 0 to 1.

    The interval describes videos like those of the list. It does not cover another camera or place, nor
    test videos that were used to choose the model.

    Args:
        correct: Which items are right, bool [N], N ≥ 1.
        groups: The group of each item, N; None if all are independent.

    Example:
        >>> low, high = accuracy_interval([True] * 34 + [False] * 16)
        >>> round(low, 3), round(high, 3)
        (0.542, 0.792)
        >>> low, high = accuracy_interval([True] * 34 + [False] * 16, groups=[i // 5 for i in range(50)])
        >>> round(low, 3), round(high, 3)
        (0.337, 0.899)
    """
    right = np.asarray(correct, dtype=np.float64)
    share, count = float(right.mean()), len(right)
    if groups is None:
        return _wilson(share, count)
    group, number = _numbered(groups)
    if number == count:
        return _wilson(share, count)
    if number == 1:
        return Interval(0.0, 1.0)
    from scipy.special import stdtrit  # here: importing it takes longer than most commands need

    binomial = share * (1 - share) / count
    effective = float(number)
    if binomial > 0:
        residuals = np.bincount(group, weights=right - share)
        robust = number / (number - 1) * float((residuals**2).sum()) / count**2
        effective = count * min(1.0, binomial / robust) if robust > 0 else float(count)
    student = float(stdtrit(number - 1, (1 + CONFIDENCE) / 2))
    return _wilson(share, effective * (_Z / student) ** 2)


def _wilson(share: float, count: float) -> Interval:
    """Return Wilson's score interval for a share of `count` independent items, which need not be whole."""
    square = _Z**2 / count
    middle = (share + square / 2) / (1 + square)
    half = _Z / (1 + square) * float(np.sqrt(share * (1 - share) / count + square / (4 * count)))
    # At 0 and 1 the ends are exact; elsewhere rounding must not move them past the share.
    return Interval(
        0.0 if share == 0 else max(0.0, middle - half), 1.0 if share == 1 else min(1.0, middle + half)
    )


def average_precisions(
    probs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int8],
    weights: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the average precision of one class: precision over recall, in steps at each threshold.

    Args:
        probs: Probabilities, float64 [N].
        labels: 1 where the class applies, else 0, int8 [N].
        weights: How often each item counts, float64 [R, N]; None counts each once.

    Returns:
        One value for each row of weights, float64 [R]; NaN where no item has the class.

    Example:
        >>> average_precisions(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1], np.int8)).round(3).tolist()
        [0.833]
    """
    each_once = np.ones((len(probs), 1))
    return _ranked(probs, labels).precisions(each_once if weights is None else weights.T)


class _Ranking(NamedTuple):
    """Videos of one class by falling probability, in runs that each end at a threshold with a positive.

    Other thresholds add nothing to the average precision. Only the sums over runs depend on the weights.
    """

    items: npt.NDArray[np.int64]  # down to the last threshold with a positive
    starts: npt.NDArray[np.int64]  # of each run in `items`
    positives: npt.NDArray[np.int64]  # items of the class
    positive_starts: npt.NDArray[np.int64]  # of each run in `positives`

    def precisions(self, weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the average precision of each column of weights [N, R], float64 [R]."""
        if not len(self.positives):
            return np.full(weights.shape[1], np.nan)
        seen = np.add.reduceat(weights[self.items], self.starts).cumsum(0, dtype=np.float64)
        gained = np.add.reduceat(weights[self.positives], self.positive_starts).astype(np.float64)
        right = gained.cumsum(0)
        precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
        total = np.where(right[-1] > 0, right[-1], np.nan)
        return np.asarray((gained * precision).sum(0) / total)


def _ranked(probs: npt.NDArray[np.float64], labels: npt.NDArray[np.int8]) -> _Ranking:
    """Rank the videos by the probability of one class."""
    order = np.argsort(-probs, kind="stable")
    ranked, positive = probs[order], labels[order] == 1
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal probabilities: one threshold
    right = positive.cumsum()[ends]  # positives down to each threshold
    gains = np.diff(right, prepend=0) > 0
    ends, right = ends[gains], right[gains]
    starts, positive_starts = (np.append(0, each[:-1]).astype(np.int64) for each in (ends + 1, right))
    last = ends[-1] + 1 if len(ends) else 0
    return _Ranking(order[:last], starts, order[positive], positive_starts)


def map_interval(
    probs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int8],
    groups: Sequence[Any] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the 95 % interval of a mean average precision, by a bootstrap over groups of videos.

    Whole groups are drawn with replacement, and the mean is over the classes that apply to some video of the
    resample. Repeated videos raise the average precision a little, so the percentiles are shifted by the
    difference between the resamples' mean and the measured value. A list with few groups, or with classes of
    few videos, still gets an interval that is somewhat too narrow. With a single group it is from 0 to 1.
    If all resamples agree, as with a perfect ranking, the interval is Wilson's for as many items as groups.

    Args:
        probs: Probabilities, float64 [V, K].
        labels: 1 where a class applies, else 0, int8 [V, K].
        groups: The group of each video, V; None if all are independent.
        seed: Seed of the resamples, so that the same scores have the same interval.
        resamples: Largest number of resamples. Long lists have fewer, but at least `FEW_RESAMPLES`.
    """
    group, number = _numbered(range(len(probs)) if groups is None else groups)
    if number == 1:
        return Interval(0.0, 1.0)
    present = np.flatnonzero(labels.any(0))
    rankings = [_ranked(probs[:, k], labels[:, k]) for k in present]
    affordable = int(np.clip(_OPERATIONS / (len(probs) * len(present)), FEW_RESAMPLES, RESAMPLES))
    resamples = min(resamples, affordable)
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(probs))
    means: list[npt.NDArray[np.float64]] = []
    with progress("Resampling for the interval of the mAP", resamples, unit="resamples") as bar:
        for first in range(0, resamples, block):
            size = min(block, resamples - first)
            draws = rng.multinomial(number, np.full(number, 1 / number), size=size)  # R G
            weights = draws.T[group].astype(np.float32)  # V R; whole numbers, so the sums are exact
            columns = [ranking.precisions(weights) for ranking in rankings]
            known = ~np.isnan(columns)
            total = np.where(known, columns, 0).sum(0)
            means.append(total[known.any(0)] / known.sum(0)[known.any(0)])
            bar.advance(size)
    drawn = np.concatenate(means)
    each_once = np.ones((len(probs), 1))
    value = float(np.mean([ranking.precisions(each_once)[0] for ranking in rankings]))
    if np.ptp(drawn) < 1e-12:
        return _wilson(value, number)
    ends = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) - (drawn.mean() - value)
    low, high = ends.clip(0, 1).tolist()
    return Interval(min(low, value), max(high, value))


def _numbered(groups: Sequence[Any]) -> tuple[npt.NDArray[np.int64], int]:
    """Return the number of each item's group, int64 [N], and how many groups there are."""
    numbers: dict[Any, int] = {}
    group = np.array([numbers.setdefault(name, len(numbers)) for name in groups], dtype=np.int64)
    return group, len(numbers)
