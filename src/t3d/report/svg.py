"""Drawings inside a page: SVG that takes the page's text color, so that it suits a dark page, too."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from t3d.evaluation.calibration import Calibration

_TEXT = "#010203"  # replaced by the page's color
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "t3d",
    "font.family": "sans-serif",
    "axes.edgecolor": _TEXT,
    "axes.labelcolor": _TEXT,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}

_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def inline_svg(draw: Callable[[], Figure]) -> str:
    """Return a drawing as SVG to put into a page.

    Args:
        draw: Function that makes the figure. Its neutral colors are set while it runs.
    """
    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        draw().savefig(
            text,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
        )
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_TEXT, "currentColor")


def reliability(calibration: Calibration) -> Figure:
    """Draw the accuracy of the videos in each range of confidence, and the number of these videos."""
    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    used = [each for each in calibration.bins if each.videos]
    width = calibration.bins[0].high - calibration.bins[0].low
    middles = [(each.low + each.high) / 2 for each in used]
    diagram.bar(middles, [each.accuracy for each in used], width=0.92 * width, label="right answers")
    diagram.plot([0, 1], [0, 1], color=_TEXT, linestyle="--", linewidth=1, label="well calibrated")
    diagram.plot(
        [each.confidence for each in used],
        [each.accuracy for each in used],
        linestyle="none",
        marker="o",
        markersize=4,
        color="C1",
        label="mean probability",
    )
    diagram.set(ylabel="share of right answers", ylim=(0, 1), xlim=(0, 1))
    diagram.legend(fontsize=8)
    counts.bar(middles, [each.videos for each in used], width=0.92 * width, color="gray")
    counts.set(xlabel="probability of the answer", ylabel="videos")
    return figure
