"""Segments of long videos, against a slow reading of the rules."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from t3d.clip import Targets
from t3d.errors import ConfigError
from t3d.evaluation.timeline import Timeline, TimelineConfig, make_timeline

NAMES = ("jump", "run", "rest")


def seconds(n: int, length: float = 1.0) -> np.ndarray:
    """N clips of this length, one after another."""
    starts = np.arange(n) * length
    return np.stack([starts, starts + length], 1)


def segments_of(probs: list[list[float]], config: TimelineConfig, targets: Targets = "single") -> list[tuple]:
    values = np.array(probs, dtype=float)
    times = seconds(len(values))
    timeline = make_timeline("a.mp4", times, values, NAMES[: values.shape[1]], config, targets=targets)
    return [(each.label, each.start, each.end) for each in timeline.segments]


def column(values: str) -> list[list[float]]:
    """Probabilities of "jump" in tenths, one digit per clip; the rest is that of "run"."""
    return [[int(digit) / 10, 1 - int(digit) / 10] for digit in values]


PLAIN = TimelineConfig(window=0, max_gap=0, min_length=0, threshold=0.7, low=0.5, background=("run",))


@pytest.mark.parametrize(
    ("digits", "expected"),
    [
        ("00000", []),
        ("05650", []),  # never reaches the threshold
        ("05750", [(1, 4)]),  # both sides reach as far as `low`
        ("75007", [(0, 2), (4, 5)]),
        ("77777", [(0, 5)]),
        ("7", [(0, 1)]),
    ],
)
def test_a_segment_reaches_as_far_as_the_lower_threshold(
    digits: str, expected: list[tuple[int, int]]
) -> None:
    assert segments_of(column(digits), PLAIN) == [("jump", start, end) for start, end in expected]


@pytest.mark.parametrize(
    ("digits", "max_gap", "min_length", "expected"),
    [
        ("9009", 2, 0, [(0, 4)]),
        ("9009", 1.9, 0, [(0, 1), (3, 4)]),
        ("9009", 0, 2, []),
        ("9009", 2, 4, [(0, 4)]),  # joined first, then long enough
        ("9900090099", 2, 2, [(0, 2), (5, 10)]),
        ("99000900099", 2, 2, [(0, 2), (9, 11)]),  # the middle one is removed
        ("990909099", 1, 9, [(0, 9)]),
    ],
)
def test_joining_and_removing(
    digits: str, max_gap: float, min_length: float, expected: list[tuple[int, int]]
) -> None:
    config = TimelineConfig(
        window=0, max_gap=max_gap, min_length=min_length, threshold=0.7, background=("run",)
    )
    assert segments_of(column(digits), config) == [("jump", start, end) for start, end in expected]


def test_a_short_other_class_is_removed_and_its_gap_joined() -> None:
    config = TimelineConfig(window=0, max_gap=1, min_length=2, threshold=0.6)
    assert segments_of(column("999199"), config) == [("jump", 0, 6)]
    assert segments_of(column("9991199"), config) == [("jump", 0, 3), ("run", 3, 5), ("jump", 5, 7)]


def test_the_more_probable_of_two_classes_happens() -> None:
    config = TimelineConfig(window=0, max_gap=0, min_length=0, threshold=0.4, low=0.4)
    probs = [[0.5, 0.45, 0.05], [0.45, 0.5, 0.05], [0.41, 0.4, 0.19]]
    assert segments_of(probs, config) == [("jump", 0, 1), ("run", 1, 2), ("jump", 2, 3)]
    assert segments_of(probs, config, "multi") == [("jump", 0, 3), ("run", 0, 3)]


def test_the_window_averages_clips_by_their_centers() -> None:
    probs = np.array([[1.0], [0.0], [0.0], [1.0]])
    timeline = make_timeline("a", seconds(4), probs, ["jump"], TimelineConfig(window=2))
    assert timeline.probs[:, 0].tolist() == pytest.approx([1 / 2, 1 / 3, 1 / 3, 1 / 2])


def test_borders_are_in_the_middle_of_overlaps_and_gaps() -> None:
    times = np.array([[0.0, 2.0], [1.0, 3.0], [5.0, 7.0]])
    probs = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]])
    rules = TimelineConfig(window=0, min_length=0, max_gap=0)
    timeline = make_timeline("a", times, probs, ["jump", "run"], rules)
    assert timeline.edges.tolist() == [0, 1.5, 4, 7]
    assert [(each.start, each.end) for each in timeline.segments] == [(0, 1.5), (1.5, 4), (4, 7)]


def test_the_score_is_the_mean_over_time() -> None:
    times = np.array([[0.0, 1.0], [1.0, 4.0]])
    rules = TimelineConfig(window=0)
    (segment,) = make_timeline("a", times, np.array([[0.6], [1.0]]), ["jump"], rules).segments
    assert segment.score == pytest.approx((0.6 + 3 * 1.0) / 4)


def slow(times: np.ndarray, probs: np.ndarray, config: TimelineConfig, targets: Targets) -> list[tuple]:
    """The rules, clip by clip and pair by pair."""
    n, k = probs.shape
    centers = times.mean(1)
    near = [
        [j for j in range(n) if abs(centers[j] - centers[i]) <= config.window / 2 + 1e-9] for i in range(n)
    ]
    p = np.array([probs[each].mean(0) for each in near])
    low = config.least

    def reaches(i: int, c: int) -> bool:
        """Whether clips of at least `low` lead from clip i to one of at least the threshold."""
        for step in (-1, 1):
            j = i
            while 0 <= j < n and p[j, c] >= low:
                if p[j, c] >= config.threshold:
                    return True
                j += step
        return False

    state: list[set[int]] = []
    for i in range(n):
        could = {c for c in range(k) if p[i, c] >= low and reaches(i, c)}
        if targets == "single" and could:
            could = {min(could, key=lambda c: (-p[i, c], c))}
        state.append({c for c in could if NAMES[c] not in config.background})
    edges = [times[0, 0], *[(times[i, 1] + times[i + 1, 0]) / 2 for i in range(n - 1)], times[-1, 1]]
    segments = []
    for c in range(k):
        for inside, group in itertools.groupby(range(n), key=lambda i: c in state[i]):
            clips = list(group)
            if inside:
                segments.append([c, edges[clips[0]], edges[clips[-1] + 1]])

    def join() -> None:
        while True:
            for one, two in itertools.permutations(segments, 2):
                if one[0] != two[0] or two[1] < one[2] or two[1] - one[2] > config.max_gap + 1e-9:
                    continue
                between = [
                    each
                    for each in segments
                    if each[0] != one[0] and each[1] < two[1] and each[2] > one[2] and targets == "single"
                ]
                if not between:
                    segments.remove(two)
                    one[2] = two[2]
                    break
            else:
                return

    join()
    segments[:] = [each for each in segments if each[2] - each[1] >= config.min_length - 1e-9]
    join()
    return sorted((start, c, end) for c, start, end in segments)


@pytest.mark.parametrize("seed", range(200))
def test_it_is_what_a_slow_reading_of_the_rules_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 30)), int(rng.integers(1, 4))
    targets: Targets = "multi" if seed % 2 else "single"
    starts = np.cumsum(rng.choice([0.25, 0.5, 1.0], n))
    times = np.stack([starts, starts + rng.choice([0.25, 0.5, 1.0])], 1)
    window = float(rng.choice([0, 0.5, 1.1, 3]))
    probs = rng.choice([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0], (n, k))
    if window:  # means that equal a threshold are above or below it by rounding
        probs = rng.uniform(size=(n, k))
    threshold = float(rng.choice([0.4, 0.5, 0.7]))
    config = TimelineConfig(
        window=window,
        threshold=threshold,
        low=None if rng.random() < 0.5 else threshold - 0.1,
        background=NAMES[:1] if rng.random() < 0.3 else (),
        max_gap=float(rng.choice([0, 0.5, 1.5])),
        min_length=float(rng.choice([0, 0.5, 1.2])),
    )
    timeline = make_timeline("a", times, probs, NAMES[:k], config, targets=targets)
    assert [(s.start, NAMES.index(s.label), s.end) for s in timeline.segments] == slow(
        times, probs, config, targets
    )
    check(timeline, config)


def check(timeline: Timeline, config: TimelineConfig) -> None:
    """Check the properties of any timeline."""
    for segment in timeline.segments:
        assert timeline.start <= segment.start < segment.end <= timeline.end
        assert segment.seconds >= config.min_length - 1e-9
        assert segment.label not in config.background
        assert 0 <= segment.score <= 1
    for one, two in itertools.combinations(timeline.segments, 2):
        if timeline.targets == "single" or one.label == two.label:
            assert one.end <= two.start


def test_bad_rules() -> None:
    with pytest.raises(
        ConfigError, match=r"low is 0\.6; it must be at least 0 and at most the threshold, 0\.5"
    ):
        TimelineConfig(low=0.6)
    with pytest.raises(ConfigError, match="threshold"):
        TimelineConfig(threshold=1.5)
    with pytest.raises(ConfigError, match="min_length"):
        TimelineConfig(min_length=-1)
    with pytest.raises(ConfigError, match="background: the model has no class 'rst'; did you mean 'rest'"):
        make_timeline("a", seconds(1), np.ones((1, 3)), NAMES, TimelineConfig(background=("rst",)))
