"""Sections that the pages of tests, runs and comparisons share. `templates/sections.html` shows them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from t3d.clip import ClipSpec
from t3d.evaluation.calibration import Calibration, calibration_of
from t3d.evaluation.figures import accuracy_interval, interval_text
from t3d.evaluation.frame_orders import FrameOrders
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.pictures import inline_svg
from t3d.evaluation.scores import Scores
from t3d.io.files import content_digest
from t3d.report.pictures import Camera, Film, wrong_answers
from t3d.report.plots import loss_figure, validated_by, validation_figure
from t3d.report.reliability import reliability

MOST_CELLS = 40
"""Largest number of classes whose confusion matrix is shown whole."""
_CONFUSED = 20  # pairs of classes listed if the matrix is not shown


@dataclass(frozen=True)
class Bar:
    """A bar in the page.

    Args:
        name: What it is of, such as a class.
        value: Its length, in [0, 1].
        text: The value and what it is of.
        negative: Whether it shows a negative value, in another color.
    """

    name: str
    value: float
    text: str
    negative: bool = False


@dataclass(frozen=True)
class ResultSection:
    """Classes, confusion matrix, wrong answers and calibration of tested videos.

    Args:
        measure: Figure of the classes: `recall` or `average precision`.
        classes: The classes, from the worst to the best.
        names: Names of all classes.
        confusion: Counts of the confusion matrix, if it is shown.
        confused: Most frequent confusions: count, true class and answer.
        errors: Most confident wrong answers.
        calibration: Calibration of the probabilities.
        reliability: Its drawing, as SVG.
    """

    measure: str
    classes: Sequence[Bar]
    names: Sequence[str]
    confusion: Sequence[Sequence[int]] | None = None
    confused: Sequence[tuple[int, str, str]] = ()
    errors: Sequence[Film] = ()
    calibration: Calibration | None = None
    reliability: str = ""


@dataclass(frozen=True)
class OrderSection:
    """Accuracies with the frames of each clip in other orders.

    Args:
        bars: One bar per order, the normal one first.
        sentences: What the accuracies mean.
    """

    bars: Sequence[Bar]
    sentences: Sequence[str]


def result_section(metrics: Metrics | MultiMetrics, scores: Scores, camera: Camera) -> ResultSection:
    """Return the section of tested videos. Videos with several labels have only the classes.

    Args:
        metrics: Figures of the test.
        scores: Scores of the test.
        camera: Makes the pictures of wrong answers.
    """
    names = scores.classes
    if isinstance(metrics, MultiMetrics):
        return ResultSection("average precision", class_bars(metrics), names)
    calibration = calibration_of(scores)
    whole = len(names) <= MOST_CELLS
    return ResultSection(
        "recall",
        class_bars(metrics),
        names,
        metrics.confusion if whole else None,
        () if whole else _confused(metrics, names),
        wrong_answers(scores, camera),
        calibration,
        inline_svg(lambda: reliability(calibration)),
    )


def order_section(study: FrameOrders) -> OrderSection:
    """Return the section of accuracies with other orders of frames."""
    bars = []
    for row in study.rows:
        text = f"{row.accuracy:.1%} (95% interval {interval_text(row.interval)})"
        if row.difference is not None:
            text += f"; {row.difference}"
        bars.append(Bar(row.order, row.accuracy, text))
    return OrderSection(bars, study.sentences())


def class_bars(metrics: Metrics | MultiMetrics) -> list[Bar]:
    """Return the classes from the worst to the best."""
    bars = []
    if isinstance(metrics, MultiMetrics):
        for name, value in metrics.per_class.items():
            count = metrics.positives[name]
            bars.append(Bar(name, value, f"{value:.1%} ({count} {'video' if count == 1 else 'videos'})"))
    else:
        counts = [(row[number], sum(row)) for number, row in enumerate(metrics.confusion) if sum(row)]
        for (name, recall), (right, count) in zip(metrics.per_class.items(), counts, strict=True):
            interval = accuracy_interval(np.arange(count) < right)
            text = f"{recall:.0%} ({right} of {count}; 95% interval {interval_text(interval)})"
            bars.append(Bar(name, recall, text))
    return sorted(bars, key=lambda bar: bar.value)


def curve_drawings(lines: Sequence[dict[str, Any]], *, chance: float | None = None) -> list[str]:
    """Return the curves of a run's log as SVG: loss, and accuracy or mAP if there is a validation.

    Args:
        lines: Lines of the log.
        chance: Accuracy of guessing, drawn as a line.
    """
    if not lines:
        return []
    drawn = [inline_svg(lambda: loss_figure(lines))]
    if validated_by(lines) is not None:
        drawn.append(inline_svg(lambda: validation_figure({"": lines}, chance=chance)))
    return drawn


def made_of(command: str, facts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return where figures come from: command, facts, versions and machine. Empty facts are left out.

    Args:
        command: Command that made the page.
        facts: Names and values.
    """
    rows: list[tuple[str, object]] = [
        ("command", command),
        *facts.items(),
        ("versions", f"t3d {version('t3d')}, torch {version('torch')}, Python {platform.python_version()}"),
        ("machine", platform.machine()),
    ]
    return [(name, plain(value)) for name, value in rows if value not in ("", None)]


def listed(path: str) -> str:
    """Return a list of videos with the digest of its content, if it is a file."""
    return path + (f", digest {content_digest(Path(path))}" if Path(path).is_file() else "")


def clip_text(spec: ClipSpec) -> str:
    """Return the length, size and spacing of a clip in words."""
    every = f"{spec.fps:g} frames per second" if spec.fps is not None else f"stride {spec.step}"
    return f"{spec.num_frames} frames of {spec.size} × {spec.size} pixels, {every}"


def plain(value: object) -> str:
    """Return a value of a model card as text: numbers with four digits, dictionaries without quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _confused(metrics: Metrics, names: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return the most frequent confusions: count, true class and predicted class."""
    counts = np.array(metrics.confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [(int(counts[i, j]), names[i], names[j]) for i, j in pairs if counts[i, j]]
