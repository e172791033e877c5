"""Curve of the frames that matter, over the time of a video."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from t3d.evaluation.pictures import inline_svg
from t3d.explanation.result import Explanation

_LEAST = 0.5  # the scale reaches at least so far up and down, so that noise looks small
_SHORTEST = 1e-3  # seconds of a gap


def importance_svg(explanation: Explanation) -> str:
    """Return the importance of the frames over time as SVG; empty if it was not computed.

    Times between the explained clips are hatched.
    """
    clips = [clip for clip in explanation.clips if clip.importance is not None]
    if not clips:
        return ""
    spans = [(clip.start, clip.end) for clip in clips]
    spans += [(clip.start, clip.end) for clip in explanation.prediction.per_clip or ()]
    start, end = min(low for low, _ in spans), max(high for _, high in spans)

    def draw() -> Figure:
        figure = Figure(figsize=(6.2, 2.0), layout="constrained")
        axes = figure.add_subplot()
        for clip in clips:
            assert clip.importance is not None
            order = np.argsort(clip.times, kind="stable")
            edges = np.append(clip.times[order], clip.until)
            axes.stairs(clip.importance[order], edges, fill=True, color="C0", alpha=0.55)
        gaps = gaps_between([(clip.start, clip.until) for clip in clips], start, end)
        for number, (low, high) in enumerate(gaps):
            name = None if number else "not explained"
            axes.axvspan(low, high, fill=False, hatch="////", edgecolor="gray", linewidth=0, label=name)
        axes.axhline(0, color="gray", linewidth=0.7)
        bottom, top = axes.get_ylim()
        axes.set(
            xlabel="time (s)",
            ylabel="fall of the score",
            xlim=(start, end) if end > start else (start, start + 1e-3),
            ylim=(min(bottom, -_LEAST), max(top, _LEAST)),
        )
        if gaps:
            figure.legend(loc="outside upper right", fontsize="small")
        return figure

    return inline_svg(draw)


def gaps_between(spans: Iterable[tuple[float, float]], start: float, end: float) -> list[tuple[float, float]]:
    """Return the parts of a time span that no other span covers.

    Args:
        spans: Start and end of each span in seconds, which may overlap.
        start: Start of the whole span.
        end: Its end.

    Example:
        >>> gaps_between([(1.0, 2.0), (1.5, 3.0), (4.0, 5.0)], 0.0, 5.0)
        [(0.0, 1.0), (3.0, 4.0)]
    """
    gaps = []
    for low, high in [*sorted(spans), (end, end)]:
        if low - start >= _SHORTEST:
            gaps.append((start, low))
        start = max(start, high)
    return gaps
