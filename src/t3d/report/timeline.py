"""Write the segments of a video: as a table, JSON, subtitles or a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator
from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3d.errors import ConfigError, printable
from t3d.evaluation.timeline import Segment, Timeline
from t3d.io.files import atomic_path
from t3d.report.plots import save_figure

_MOST_LINES = 8  # classes whose probability the picture shows
_MOST_TICKS = 12
_TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 43_200)  # seconds


def write_timeline(timeline: Timeline, path: str | Path) -> None:
    """Write the segments of a video.

    Args:
        timeline: The video and its segments.
        path: The file. Its ending says what is written: `.csv` and `.json` (a table and JSON), `.srt` and
            `.vtt` (subtitles for video players), `.png` (a picture).

    Raises:
        ConfigError: Another ending.
        WriteError: The file cannot be written.
    """
    path = Path(path)
    check_ending(path)
    if path.suffix.lower() == ".png":
        save_figure(timeline_figure(timeline), path)
        return
    text = _TEXTS[path.suffix.lower()](timeline)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def check_ending(path: str | Path) -> None:
    """Refuse a file that is not one of a timeline.

    Raises:
        ConfigError: Another ending.
    """
    endings = [*_TEXTS, ".png"]
    if Path(path).suffix.lower() not in endings:
        raise ConfigError(f"{path}: a timeline is written as {', '.join(endings[:-1])} or {endings[-1]}")


def print_timeline(timeline: Timeline) -> None:
    """Print the segments as a table, and how long each class happens."""
    table = Table("from", "to", "class", "probability", title=Text(printable(timeline.path)))
    for each in timeline.segments:
        table.add_row(
            clock(each.start), clock(each.end), Text(printable(each.label)), f"{100 * each.score:.0f}%"
        )
    total = f"of {clock(timeline.end - timeline.start)}"
    spent: dict[str, float] = {}
    for each in timeline.segments:
        spent[each.label] = spent.get(each.label, 0.0) + each.seconds
    parts = [f"{printable(name)} {clock(time)}" for name, time in spent.items()]
    table.caption = Text(", ".join(parts) + f" {total}" if parts else f"no segment {total}")
    Console().print(table)


def clock(seconds: float, *, mark: str = ".") -> str:
    """Return a time as hours, minutes, seconds and milliseconds.

    Example:
        >>> clock(3725.0404)
        '1:02:05.040'
        >>> clock(59.9996)
        '1:00.000'
    """
    minutes, milli = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{milli // 1000:02d}{mark}{milli % 1000:03d}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"


def timeline_figure(timeline: Timeline) -> Figure:
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
    lines.set(ylim=(0, 100), ylabel="probability (%)", xlabel="time", xlim=(timeline.start, timeline.end))
    seconds = timeline.end - timeline.start
    step = next((each for each in _TICKS if each * _MOST_TICKS >= seconds), _TICKS[-1])
    lines.xaxis.set_major_locator(MultipleLocator(step))
    lines.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value).partition(".")[0]))
    if not names:
        bars.text(0.5, 0.5, "no segment", ha="center", va="center", transform=bars.transAxes)
    return figure


def _csv(timeline: Timeline) -> str:
    rows = [("path", "start", "end", "label", "probability")]
    rows += [
        (timeline.path, f"{each.start:.3f}", f"{each.end:.3f}", each.label, f"{each.score:.4f}")
        for each in timeline.segments
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json(timeline: Timeline) -> str:
    return json.dumps(timeline.to_json(), ensure_ascii=False, indent=1) + "\n"


def _srt(timeline: Timeline) -> str:
    cues = [
        f"{number}\n{_stamp(each.start, ',')} --> {_stamp(each.end, ',')}\n{_cue(each)}\n"
        for number, each in enumerate(timeline.segments, start=1)
    ]
    return "\n".join(cues)


def _vtt(timeline: Timeline) -> str:
    cues = [
        f"{_stamp(each.start, '.')} --> {_stamp(each.end, '.')}\n{_escaped(_cue(each))}\n"
        for each in timeline.segments
    ]
    return "\n".join(["WEBVTT\n", *cues])


def _stamp(seconds: float, mark: str) -> str:
    """Return a time as subtitles have it: HH:MM:SS and milliseconds."""
    minutes, milli = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milli // 1000:02d}{mark}{milli % 1000:03d}"


def _cue(segment: Segment) -> str:
    return f"{printable(segment.label)} ({100 * segment.score:.0f}%)"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


_TEXTS: dict[str, Callable[[Timeline], str]] = {".csv": _csv, ".json": _json, ".srt": _srt, ".vtt": _vtt}
