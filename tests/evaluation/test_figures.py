"""Intervals of figures, against scipy, scikit-learn and slow counts."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.stats import binomtest, t
from sklearn.metrics import average_precision_score

from t3d.evaluation import figures
from t3d.evaluation.figures import (
    Interval,
    Majority,
    accuracy_interval,
    average_precisions,
    interval_text,
    majority_of,
    map_interval,
)
from t3d.progress import Bar


@pytest.mark.parametrize(("right", "count"), [(34, 50), (0, 7), (7, 7), (1, 1), (2481, 3783), (1, 2)])
def test_an_accuracy_of_independent_videos_has_scipys_wilson_interval(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(method="wilson")
    correct = [True] * right + [False] * (count - right)
    assert accuracy_interval(correct) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert accuracy_interval(correct, groups=list(range(count))) == accuracy_interval(correct)


def slow_interval(correct: list[bool], groups: list[int]) -> tuple[float, float]:
    """Find where the score test of a share, with the cluster-robust number of items, just accepts."""
    count, share = len(correct), sum(correct) / len(correct)
    sums: defaultdict[int, float] = defaultdict(float)
    for one, group in zip(correct, groups, strict=True):
        sums[group] += one - share
    number = len(sums)
    variance = number / (number - 1) * sum(value**2 for value in sums.values()) / count**2
    effective = min(count, share * (1 - share) / variance)
    limit = t.ppf(0.975, number - 1)

    def accepts(p: float) -> bool:
        return abs(share - p) <= limit * math.sqrt(p * (1 - p) / effective)

    ends = []
    for outside in (0.0, 1.0):
        inside = share
        for _ in range(100):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if accepts(middle) else (inside, middle)
        ends.append(inside)
    return ends[0], ends[1]


@pytest.mark.parametrize("seed", range(5))
def test_an_accuracy_of_groups_has_the_interval_of_a_slow_score_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 12, 80).tolist()
    easy = rng.uniform(0, 1, 12)
    correct = [bool(rng.uniform() < easy[group]) for group in groups]
    assert accuracy_interval(correct, groups) == pytest.approx(slow_interval(correct, groups), abs=1e-9)
    low, high = accuracy_interval(correct)
    assert accuracy_interval(correct, groups).low < low
    assert accuracy_interval(correct, groups).high > high


def test_intervals_are_pinned() -> None:
    correct = [True] * 34 + [False] * 16
    assert accuracy_interval(correct) == pytest.approx((0.541897027, 0.792417837), abs=1e-8)
    groups = [number // 5 for number in range(50)]
    assert accuracy_interval(correct, groups) == pytest.approx((0.336940028, 0.898849317), abs=1e-8)


def test_intervals_where_the_variance_is_unknown() -> None:
    groups = [number // 5 for number in range(50)]
    low, high = accuracy_interval([True] * 50, groups)
    assert high == 1
    assert low < binomtest(10, 10).proportion_ci(method="wilson").low  # ten groups, and Student's t
    assert accuracy_interval([True, False], ["a", "a"]) == (0, 1)


def test_intervals_of_groups_cover_the_truth_and_plain_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    covered = {"groups": 0, "plain": 0}
    groups = np.repeat(np.arange(20), 10)
    for _ in range(500):  # the groups' accuracies have mean 0.7
        correct = rng.uniform(size=200) < np.repeat(rng.beta(1.4, 0.6, 20), 10)
        for name, interval in (
            ("groups", accuracy_interval(correct, groups.tolist())),
            ("plain", accuracy_interval(correct)),
        ):
            covered[name] += interval.low <= 0.7 <= interval.high
    assert covered["groups"] >= 0.93 * 500
    assert covered["plain"] < 0.75 * 500


def test_average_precisions_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    probs = rng.integers(0, 8, 60) / 8  # many are equal
    labels = (rng.uniform(size=60) < 0.3).astype(np.int8)
    weights = rng.integers(0, 4, (6, 60)).astype(np.float64)
    expected = [average_precision_score(labels, probs, sample_weight=weight) for weight in weights]
    assert average_precisions(probs, labels, weights) == pytest.approx(expected, abs=1e-12)
    assert average_precisions(probs, labels)[0] == pytest.approx(average_precision_score(labels, probs))
    assert np.isnan(average_precisions(probs, np.zeros(60, np.int8))).all()


def multi_scores() -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(3)
    labels = (rng.uniform(size=(40, 3)) < (0.5, 0.3, 0.1)).astype(np.int8)
    probs = np.clip(0.3 * labels + rng.uniform(0, 0.7, (40, 3)), 0, 1)
    return probs, labels, [number // 2 for number in range(40)]


@pytest.mark.long
def test_a_map_has_the_interval_of_a_slow_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels, groups = multi_scores()
    draws = np.random.default_rng(0).multinomial(20, [1 / 20] * 20, size=1000)
    means = []
    for draw in draws:
        rows = [row for row, group in enumerate(groups) for _ in range(draw[group])]
        present = [k for k in range(3) if labels[rows, k].any()]
        means.append(np.mean([average_precision_score(labels[rows, k], probs[rows, k]) for k in present]))
    value = np.mean([average_precision_score(labels[:, k], probs[:, k]) for k in range(3)])
    shift = np.mean(means) - value
    expected = np.clip(np.quantile(means, [0.025, 0.975]) - shift, 0, 1)
    got = map_interval(probs, labels, groups)
    assert got == pytest.approx(expected.tolist(), abs=1e-9)
    assert got == map_interval(probs, labels, groups)
    assert got != map_interval(probs, labels, groups, seed=1)
    monkeypatch.setattr(figures, "_BLOCK", 40 * 7)  # 7 resamples at a time
    assert got == map_interval(probs, labels, groups)
    assert got.low < value < got.high


def test_videos_are_ranked_once_and_resamples_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    probs, labels, groups = multi_scores()
    ranked = Mock(side_effect=figures._ranked)
    bars: list[Bar] = []

    @contextmanager
    def shown(*words: Any, **options: Any) -> Iterator[Bar]:
        bars.append(Bar(*words, **options))
        yield bars[-1]

    monkeypatch.setattr(figures, "_BLOCK", 40 * 7)
    monkeypatch.setattr(figures, "_ranked", ranked)
    monkeypatch.setattr(figures, "progress", shown)
    few = map_interval(probs, labels, groups, resamples=200)
    assert ranked.call_count == 3  # once per class
    assert [bar.count() for bar in bars] == ["200 of 200 resamples (100 %)"]
    assert few != map_interval(probs, labels, groups)


def test_a_map_that_no_resample_changes_is_not_certain() -> None:
    labels = np.array([[1], [1], [0], [0]], np.int8)
    probs = np.array([[0.9], [0.8], [0.2], [0.1]])
    low, high = map_interval(probs, labels)
    assert high == 1
    assert low == pytest.approx(binomtest(4, 4).proportion_ci(method="wilson").low)
    assert map_interval(probs, labels, ["a"] * 4) == (0, 1)


def test_the_majority_is_the_first_of_the_most_frequent() -> None:
    assert majority_of(np.array([2, 4, 4]), ["a", "b", "c"]) == Majority("b", 0.4)


def test_intervals_are_shown_as_exactly_as_they_are_wide() -> None:
    assert interval_text(Interval(0.0, 1.0)) == "0–100%"
    assert interval_text(Interval(0.54188, 0.79241)) == "54–79%"
    assert interval_text(Interval(0.64188, 0.65241)) == "64.2–65.2%"


def test_importing_figures_imports_neither_torch_nor_scipy() -> None:
    code = "import sys, t3d.evaluation.figures; print({'torch', 'scipy', 'sklearn'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize("right", [True, False])
def test_one_item_in_one_group_has_an_interval(right: bool) -> None:
    assert accuracy_interval([right], groups=["tape"]) == accuracy_interval([right])
    low, high = accuracy_interval([right], groups=["tape"])
    assert 0 <= low <= float(right) <= high <= 1
    assert accuracy_interval([right, right], groups=["tape", "tape"]) == (0, 1)
