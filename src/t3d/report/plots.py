"""Pictures: confusion matrix, curves, accuracy over time. Drawn without a screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from t3d.bench.growth import GrowthResult
from t3d.io.files import atomic_path

_BEST_BY = {
    "top1": "top-1",
    "map": "mAP",
    "agreement": "agreement with the teacher",
}  # figures of a validation, by their names in a log


def confusion_figure(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """A confusion matrix: rows are true classes, columns predicted ones, color is the share of the row.

    Args:
        confusion: Counts, [K][K].
        classes: Names, K.
    """
    counts = np.asarray(confusion)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(2.2 + 0.42 * len(classes), 24)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(classes)), classes, parse_math=False)  # "$" does not start a formula
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 40:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if share[row, column] > 0.55 else "black"
            axes.text(
                column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8
            )
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return figure


def loss_figure(log: Sequence[dict[str, Any]]) -> Figure:
    """Draw the loss over optimizer steps.

    Args:
        log: Lines of a run's `log.jsonl`.
    """
    figure, axes = _small_figure()
    for kind, label in (("train", "training"), ("val", "validation")):
        lines = [line for line in log if line["kind"] == kind and "loss" in line]
        if lines:
            marker = "o" if len(lines) == 1 else ""  # a line needs two points
            losses = [line["loss"] for line in lines]
            axes.plot([line["step"] for line in lines], losses, marker=marker, markersize=3, label=label)
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    if axes.lines:
        axes.legend(fontsize=8)
    return figure


def validated_by(log: Sequence[dict[str, Any]]) -> str | None:
    """Return the name of the figure that a run validates by: `top1` or `map`. None without a validation."""
    return next((name for name in _BEST_BY if any(name in line for line in log)), None)


def validation_figure(logs: Mapping[str, Sequence[dict[str, Any]]], *, chance: float | None = None) -> Figure:
    """Draw the validation accuracy or mAP of runs over optimizer steps, with 95 % intervals for a single run.

    Args:
        logs: Lines of each run's `log.jsonl`, by the run's name. A name may be empty.
        chance: Accuracy of guessing, drawn as a line.
    """
    figure, axes = _small_figure()
    name = next(filter(None, map(validated_by, logs.values())), "top1")
    for label, log in logs.items():
        lines = [line for line in log if line["kind"] == "val" and name in line]
        steps = [line["step"] for line in lines]
        axes.plot(steps, [100 * line[name] for line in lines], marker="o", markersize=3, label=label)
        if len(logs) == 1 and lines and all("low" in line and "high" in line for line in lines):
            low, high = ([100 * line[end] for line in lines] for end in ("low", "high"))
            axes.fill_between(steps, low, high, alpha=0.18, linewidth=0, label="95% interval")
    if chance is not None:
        axes.axhline(100 * chance, color="gray", linestyle="--", linewidth=1, label="guessing")
    axes.set(xlabel="step", ylabel=f"validation {_BEST_BY[name]} (%)", ylim=(0, 100))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8)
    return figure


def scatter_figure(points: Sequence[tuple[str, float, float, tuple[float, float]]]) -> Figure:
    """Draw the accuracy of models over their time per video.

    Args:
        points: Name, milliseconds per video, accuracy and its interval of each model; accuracies in [0, 1].
    """
    figure, axes = _small_figure()
    times = [each[1] for each in points]
    for number, (name, milliseconds, accuracy, (low, high)) in enumerate(points):
        error = [[100 * (accuracy - low)], [100 * (high - accuracy)]]
        axes.errorbar(
            milliseconds, 100 * accuracy, yerr=error, marker="o", capsize=3, color=f"C{number % 10}"
        )
        place = (milliseconds, 100 * accuracy)
        axes.annotate(name, place, textcoords="offset points", xytext=(6, 5), fontsize=8, parse_math=False)
    if max(times) > 8 * min(times):
        axes.set_xscale("log")
    else:
        axes.set_xlim(0, 1.35 * max(times))
    axes.set(xlabel="milliseconds per video", ylabel="accuracy (%)")
    return figure


def _small_figure() -> tuple[Figure, Any]:
    """Return an empty figure that is readable on a phone, and its axes."""
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))  # steps and milliseconds
    return figure, axes


def growth_figure(result: GrowthResult) -> Figure:
    """Time and memory, one column per size that grows; the dashed line is linear in the work.

    Args:
        result: Measured growth.
    """
    axes = result.axes
    figure = Figure(figsize=(3.3 * len(axes), 5.6), layout="constrained")
    grid = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        points = result.of(axis)
        work = np.array([point.macs / 1e9 for point in points])
        seconds = np.array([point.time.median if point.time else np.nan for point in points])
        memory = np.array([np.nan if point.memory is None else point.memory / 1e6 for point in points])
        labels = [point.label for point in points]
        units = (f"{result.kind}, seconds", "peak memory, MB")
        for cell, values, unit in zip(grid[:, column], (seconds, memory), units, strict=True):
            if axis == "network":
                names = [f"{label}\n{macs:.1f} GMAC" for label, macs in zip(labels, work, strict=True)]
                cell.barh(names, values)
                cell.tick_params(axis="y", labelsize=7)
                cell.set_xlabel(unit)
            else:
                cell.plot(work, values, marker="o", markersize=4)
                for label, place in zip(labels, zip(work, values, strict=True), strict=True):
                    cell.annotate(label, place, textcoords="offset points", xytext=(4, -9), fontsize=7)
                cell.set(xlim=(0, 1.18 * work.max()), ylim=(0, None), xlabel="GMAC per call", ylabel=unit)
        top = grid[0, column]
        if axis != "network":
            linear = np.nanmin(seconds / work) * work.max()
            top.plot([0, work.max()], [0, linear], color="gray", linestyle="--", linewidth=1)
        top.set_title("networks" if axis == "network" else f"{result.model}: {axis}", fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG or SVG, by the ending of the file, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
