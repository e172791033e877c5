"""Pictures: confusion matrix, curves, sample frames. Drawn without a screen."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from t3d.bench.growth import GrowthResult
from t3d.data.clips.arrays import FrameArray, frames_first
from t3d.io.files import atomic_path

_BEST_BY = {"top1": "top-1", "map": "mAP"}  # figures of a validation, by their names in a log


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


def curves_figure(log: Sequence[dict[str, Any]], *, chance: float | None = None) -> Figure:
    """Loss, and validation accuracy or mAP if the log has one, over optimizer steps.

    Args:
        log: Lines of a run's `log.jsonl`.
        chance: Accuracy of guessing, drawn as a line.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for kind, label in (("train", "training"), ("val", "validation")):
        lines = [line for line in log if line["kind"] == kind]
        loss.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=label)
    loss.set(xlabel="step", ylabel="loss", ylim=(0, None))
    loss.legend()
    name = next((name for name in _BEST_BY if any(name in line for line in log)), None)
    if name is None:
        figure.delaxes(accuracy)
        return figure
    lines = [line for line in log if line["kind"] == "val" and name in line]
    accuracy.plot(
        [line["step"] for line in lines], [100 * line[name] for line in lines], marker="o", markersize=3
    )
    if chance is not None:
        accuracy.axhline(100 * chance, color="gray", linestyle="--", linewidth=1, label="chance")
        accuracy.legend()
    accuracy.set(xlabel="step", ylabel=f"validation {_BEST_BY[name]} (%)", ylim=(0, 100))
    return figure


def race_figure(logs: Mapping[str, Sequence[dict[str, Any]]], *, chance: float | None = None) -> Figure:
    """Validation accuracy of several runs over optimizer steps, in one picture.

    Args:
        logs: Lines of each run's `log.jsonl`, by the run's name.
        chance: Accuracy of guessing, drawn as a line.
    """
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for name, log in logs.items():
        lines = [line for line in log if line["kind"] == "val"]
        axes.plot(
            [line["step"] for line in lines],
            [100 * line["top1"] for line in lines],
            marker="o",
            markersize=3,
            label=name,
        )
    if chance is not None:
        axes.axhline(100 * chance, color="gray", linestyle="--", linewidth=1, label="chance")
    axes.set(xlabel="step", ylabel="validation top-1 (%)", ylim=(0, 100))
    axes.legend()
    return figure


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


def frames_figure(rows: Sequence[tuple[str, FrameArray]]) -> Figure:
    """Draw sample frames, one row per video.

    Args:
        rows: Title and frames of each video, uint8 [T, C, H, W] or [T, H, W, C]; the same T throughout.

    Raises:
        ConfigError: Frames have another shape or type.
    """
    columns = rows[0][1].shape[0]
    figure = Figure(figsize=(1.1 * columns + 1.6, 1.12 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (title, frames), cells in zip(rows, grid, strict=True):
        for frame, cell in zip(frames_first(frames).permute(0, 2, 3, 1).numpy(), cells, strict=True):
            cell.imshow(frame)
            cell.set(xticks=[], yticks=[])
        cells[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8, parse_math=False)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG or SVG, by the ending of the file, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def data_uri(figure: Figure) -> str:
    """A figure as a PNG inside a URI, for a page of one file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
