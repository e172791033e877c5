"""Metrics report counts, confidence intervals, and the majority and chance baselines."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from t3d.evaluation.figures import accuracy_interval, map_interval
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import Scores
from t3d.evaluation.task import measure
from t3d.report.result import print_result


def scores_of(right: dict[str, int], wrong: dict[str, int], groups: int = 0) -> Scores:
    """Scores of one clip per video: `right` and `wrong` counts per class; errors go to the next class."""
    names = tuple(right)
    labels, predictions = [], []
    for label, name in enumerate(names):
        labels += [label] * (right[name] + wrong[name])
        predictions += [label] * right[name] + [(label + 1) % len(names)] * wrong[name]
    probs = np.full((len(labels), len(names)), 0.1)
    probs[np.arange(len(labels)), predictions] = 0.9
    rows = np.arange(len(labels))
    paths = tuple(f"{row}.mp4" for row in rows)
    sources = tuple(f"tape {row % groups}" for row in rows) if groups else ()
    return Scores(names, probs, rows, probs, np.array(labels), paths, (), groups=sources)


def single(right: dict[str, int], wrong: dict[str, int], groups: int = 0) -> Metrics:
    metrics = measure(scores_of(right, wrong, groups))
    assert isinstance(metrics, Metrics)
    return metrics


def test_an_accuracy_comes_with_count_interval_majority_and_chance() -> None:
    metrics = single({"fight": 10, "walk": 24}, {"fight": 10, "walk": 6})
    assert metrics.headline() == (
        "34 of 50 videos correct: 68.0% (95% interval 54–79%). Always answering 'walk' would give 60.0%, "
        "guessing 50.0%."
    )
    assert metrics.remarks() == [
        "The interval includes 60.0%: the result is not distinguishable from always answering 'walk'.",
    ]
    assert metrics.balanced_accuracy == pytest.approx((0.5 + 0.8) / 2)
    assert str(metrics).endswith(
        "top-1 68.0% (34 of 50 videos, 95% interval 54–79%); not distinguishable from always answering "
        "'walk' (60.0%)"
    )
    line = metrics.log_line()
    assert "top5" not in line
    assert (line["videos"], line["majority"]) == (50, 0.6)
    assert (line["low"], line["high"]) == accuracy_interval([True] * 34 + [False] * 16)


def test_a_result_above_the_majority_says_nothing_more() -> None:
    metrics = single({"fight": 40, "walk": 45}, {"fight": 10, "walk": 5})
    assert metrics.remarks() == []
    assert str(metrics).endswith("; always answering 'fight': 50.0%")


def test_a_result_below_the_majority_is_reported() -> None:
    metrics = single({"fight": 0, "walk": 30}, {"fight": 10, "walk": 60})
    assert metrics.remarks()[0] == "This is worse than always answering 'walk'."
    assert str(metrics).endswith(
        "; recall 0% for 'fight', 33% for 'walk'; worse than always answering 'walk' (90.0%)"
    )


@pytest.mark.parametrize(
    ("right", "wrong", "start"), [(4, 1, "All 5 videos are"), (1, 0, "The only video is")]
)
def test_one_class_says_little(right: int, wrong: int, start: str) -> None:
    metrics = single({"fight": right, "walk": 0}, {"fight": wrong, "walk": 0})
    assert metrics.remarks() == [
        f"{start} of one class, 'fight', so the accuracy says little: always answering 'fight' would give "
        "100%."
    ]


def test_names_cannot_break_lines_or_color_a_terminal() -> None:
    metrics = single({"a\nb": 36, "c\x1b[31m": 100}, {"a\nb": 64, "c\x1b[31m": 0})
    for text in (metrics.headline(), *metrics.remarks(), str(metrics)):
        assert text.isprintable(), text
    assert "100% for 'c\\x1b[31m'" in str(metrics)


def test_recalls_are_shown_where_two_differ_by_more_than_30_points() -> None:
    near = single({"fight": 70, "walk": 100}, {"fight": 30, "walk": 0})
    far = single({"fight": 36, "walk": 100}, {"fight": 64, "walk": 0})
    assert near.remarks() == []
    assert far.remarks() == ["Classes differ: recall 36% for 'fight', 100% for 'walk'."]
    assert "recall 36% for 'fight', 100% for 'walk'" in str(far)
    assert "recall" not in str(near)


def test_videos_of_one_group_are_not_independent() -> None:
    alone = single({"fight": 40, "walk": 45}, {"fight": 10, "walk": 5})
    grouped = single({"fight": 40, "walk": 45}, {"fight": 10, "walk": 5}, groups=5)
    assert (alone.groups, grouped.groups) == (100, 5)
    assert grouped.interval.low < alone.interval.low
    assert any("100 videos are of 5 groups" in remark for remark in grouped.remarks())
    only = single({"fight": 40, "walk": 45}, {"fight": 10, "walk": 5}, groups=1)
    assert only.interval == (0, 1)
    assert any("say nothing about other groups" in remark for remark in only.remarks())


def test_clips_of_one_video_are_not_independent() -> None:
    scores = scores_of({"fight": 8, "walk": 8}, {"fight": 2, "walk": 2})
    doubled = replace(
        scores, clip_probs=scores.clip_probs.repeat(9, 0), clip_video=scores.clip_video.repeat(9)
    )
    metrics = measure(doubled)
    assert isinstance(metrics, Metrics)
    assert metrics.clips == 180
    assert metrics.clip_interval.low < metrics.interval.low  # as many videos, and Student's t
    assert metrics.clip_interval.high > metrics.interval.high


def test_a_top_5_needs_six_classes(capsys: pytest.CaptureFixture[str]) -> None:
    for count in (5, 6):
        scores = scores_of({f"class {k}": 2 for k in range(count)}, {f"class {k}": 1 for k in range(count)})
        result = TestResult(measure(scores), scores)
        print_result(result)
        shown = capsys.readouterr().out
        assert ("top-5" in shown) == (count == 6)
        assert ("top-5" in str(result.single)) == (count == 6)
        assert ("video_top5" in result.to_json()) == (count == 6)


def test_json_has_every_figure() -> None:
    scores = scores_of({"fight": 10, "walk": 24}, {"fight": 10, "walk": 6})
    line = TestResult(measure(scores), scores).to_json()
    assert line["majority"] == {"name": "walk", "share": 0.6}
    assert tuple(line["interval"]) == measure(scores).interval
    assert line.keys() >= {"videos", "correct", "chance", "balanced_accuracy", "groups", "clip_interval"}
    assert line.keys() < asdict(measure(scores)).keys()


def test_the_console_shows_counts_and_balanced_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    scores = scores_of({"fight": 10, "walk": 24}, {"fight": 10, "walk": 6})
    print_result(TestResult(measure(scores), scores))
    shown = capsys.readouterr().out
    assert shown.startswith("34 of 50 videos correct: 68.0% (95% interval 54–79%).")
    assert "not distinguishable from always answering 'walk'" in shown
    for cell in ("34 of 50", "54–79%", "65.00%", "10 of 20", "24 of 30"):
        assert cell in shown
    even = scores_of({"a": 4, "b": 4}, {"a": 1, "b": 1})
    print_result(TestResult(measure(even), even))
    assert "balanced" not in capsys.readouterr().out


def multi(lift: float) -> tuple[Scores, MultiMetrics]:
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(60, 2)) < 0.3).astype(np.int8)
    probs = lift * labels + (1 - lift) * rng.uniform(size=(60, 2))
    sources = tuple(f"tape {row // 2}" for row in range(60))
    scores = Scores(("x", "y"), probs, np.arange(60), probs, labels, sources, (), "multi", sources)
    metrics = measure(scores)
    assert isinstance(metrics, MultiMetrics)
    return scores, metrics


def test_a_map_comes_with_interval_and_chance() -> None:
    scores, metrics = multi(0.4)
    assert metrics.interval == map_interval(scores.video_probs, scores.labels, scores.groups)
    few = measure(scores, resamples=20)
    assert few.interval == map_interval(scores.video_probs, scores.labels, scores.groups, resamples=20)
    assert few.interval != metrics.interval
    assert metrics.chance == pytest.approx(scores.labels.mean())
    assert metrics.groups == 30
    assert "60 videos (95% interval" in metrics.headline()
    assert f"about {metrics.chance:.1%}." in metrics.headline()
    assert not any("random" in remark for remark in metrics.remarks())
    assert f"random scores: {metrics.chance:.1%}" in str(metrics)


def test_a_map_of_random_scores_is_reported() -> None:
    _, metrics = multi(0.0)
    assert any("not distinguishable from random scores" in remark for remark in metrics.remarks())
    assert "not better than random scores" in str(metrics)
