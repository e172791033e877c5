"""Pictures of results as SVG, for pages and notebooks."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

from t3d.errors import printable
from t3d.evaluation.clock import clock

TEXT = "#010203"
"""Color that `inline_svg` replaces by the text color of the page."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "t3d",
    "font.family": "sans-serif",
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "legend.frameon": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}

_MOST_LINES = 8  # classes whose probability the picture of a timeline shows
_MOST_TICKS = 12
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200)  # seconds


def inline_svg(draw: Callable[[], Figure]) -> str:
    """Return a drawing as SVG to put into a page. It takes the page's text color, also on a dark page.

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
    return svg[svg.index("<svg") :].replace(TEXT, "currentColor")


class DrawnSegment(Protocol):
    """Segment of a timeline, see `t3d.evaluation.timeline.Segment`."""

    @property
    def label(self) -> str:
        """The class."""
        ...

    @property
    def start(self) -> float:
        """Start in seconds."""
        ...

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        ...


class DrawnTimeline(Protocol):
    """Scores over time, see `t3d.evaluation.timeline.Timeline`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, K."""
        ...

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """Borders between the clips in seconds, [N + 1]."""
        ...

    @property
    def probs(self) -> npt.NDArray[np.float64]:
        """Probabilities, [N, K]."""
        ...

    @property
    def segments(self) -> Sequence[DrawnSegment]:
        """The segments."""
        ...

    @property
    def start(self) -> float:
        """Start in seconds."""
        ...

    @property
    def end(self) -> float:
        """End in seconds."""
        ...


def timeline_figure(timeline: DrawnTimeline) -> Figure:
    """Draw the segments of a video, and the probabilities of their classes over time."""
    totals: dict[str, float] = {}
    for each in timeline.segments:
        totals[each.label] = totals.get(each.label, 0.0) + each.seconds
    names = sorted(totals, key=lambda name: -totals[name])
    colors = {name: f"C{number % 10}" for number, name in enumerate(names)}
    height = 1.6 + 0.34 * max(len(names), 1)
    figure = Figure(figsize=(10, height + 1.8), layout="constrained")
    bars, lines = figure.subplots(2, 1, sharex=True, height_ratios=[0.34 * max(len(names), 1) + 0.3, 1.8])
    for place, name in enumerate(names):
        spans = [(each.start, each.seconds) for each in timeline.segments if each.label == name]
        bars.broken_barh(spans, (place - 0.4, 0.8), color=colors[name])
    bars.set_yticks(range(len(names)), [printable(name) for name in names], parse_math=False)
    bars.set_ylim(max(len(names), 1) - 0.5, -0.5)
    for name in names[:_MOST_LINES]:
        probs = timeline.probs[:, timeline.classes.index(name)]
        lines.stairs(100 * probs, timeline.edges, color=colors[name], baseline=None)
    seconds = timeline.end - timeline.start
    shown = (timeline.start, timeline.end if seconds else timeline.start + 1)  # one frame has no length
    lines.set(ylim=(0, 100), ylabel="probability (%)", xlabel="time", xlim=shown)
    step = next((each for each in _TICKS if each * _MOST_TICKS >= seconds), _TICKS[-1])
    lines.xaxis.set_major_locator(MultipleLocator(step))
    lines.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value).partition(".")[0]))
    if not names:
        bars.text(0.5, 0.5, "no segment", ha="center", va="center", transform=bars.transAxes)
    return figure
