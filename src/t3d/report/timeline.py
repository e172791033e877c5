"""Write the segments of a video: as a table, JSON, subtitles or a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3d.errors import ConfigError, printable
from t3d.evaluation.clock import clock
from t3d.evaluation.pictures import timeline_figure
from t3d.evaluation.timeline import Segment, Timeline
from t3d.io.files import atomic_path
from t3d.report.plots import save_figure


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
    return json.dumps(timeline.to_dict(), ensure_ascii=False, indent=1) + "\n"


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
