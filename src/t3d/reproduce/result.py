"""Result of a table as JSON and Markdown: the paper's accuracies and ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from t3d.errors import CheckpointError
from t3d.io.files import atomic_path
from t3d.reproduce.config import SETS, Scale
from t3d.reproduce.runs import Trial
from t3d.reproduce.tables import PaperTable

_SMALL = (
    "**Small scale**: small models, few frames, few epochs, a part of the labels, and possibly other videos. "
    "These accuracies only show that all steps work. Do not compare them with published ones."
)


@dataclass(frozen=True)
class Figure:
    """Accuracy in percent, the paper's and ours.

    Args:
        paper: Accuracy in the paper. None if unknown.
        ours: Our mean over splits. None if a split has not been tested.
        difference: Ours minus the paper's.
        splits: Our accuracy per split.
        interval: 95 % interval of `ours`, in percent: each end is the mean over splits. None like `ours`.
        videos: Number of tested videos, over all splits.
        majority: Accuracy of always answering the most frequent class, in percent.
        chance: Accuracy of guessing, in percent.
        missing: Number of listed videos that were missing, in training or testing.
        bad: Number of test videos that could not be read.
    """

    paper: float | None
    ours: float | None
    difference: float | None
    splits: Mapping[int, float]
    interval: tuple[float, float] | None = None
    videos: int = 0
    majority: float | None = None
    chance: float | None = None
    missing: int = 0
    bad: int = 0


@dataclass(frozen=True)
class ResultRow:
    """Row of the result.

    Args:
        row: Name of the row.
        net: Name of the trained model.
        figures: Accuracies by data set.
    """

    row: str
    net: str
    figures: Mapping[str, Figure]


def figure(paper: float | None, trials: Sequence[Trial], *, scale: Scale) -> Figure:
    """Collect a row's tests on one data set.

    Args:
        paper: Accuracy in the paper, in percent.
        trials: One per split. Empty if the trials of the row are unknown.
        scale: At small scale, there is no difference, because the two are not comparable.

    Raises:
        CheckpointError: The metrics.json of a test is damaged.
    """
    tests: dict[int, _Test] = {}
    for trial in trials:
        if trial.metrics.exists():
            tests[trial.split] = _read(trial.metrics)
    splits = {split: test.top1 for split, test in tests.items()}
    complete = bool(tests) and len(tests) == len(trials)
    ours = _mean(splits.values()) if complete else None
    difference = None
    if ours is not None and paper is not None and scale == "paper":
        difference = round(ours - paper, 4)
    parts = {part.name: part.missing for trial in trials for part in (trial.test, trial.runs[-1].part)}
    known = list(tests.values()) if complete else []
    return Figure(
        paper,
        ours,
        difference,
        splits,
        interval=(_mean(t.low for t in known), _mean(t.high for t in known)) if known else None,
        videos=sum(test.videos for test in tests.values()),
        majority=_mean(test.majority for test in known) if known else None,
        chance=known[0].chance if known else None,
        missing=sum(parts.values()),
        bad=sum(test.bad for test in tests.values()),
    )


class _Test(NamedTuple):
    """The figures of one test; all but the counts in percent."""

    top1: float
    low: float
    high: float
    majority: float
    chance: float
    videos: int
    bad: int


def _mean(values: Iterable[float]) -> float:
    return round(fmean(values), 4)


def _read(file: Path) -> _Test:
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        shares = (
            metrics["video_top1"],
            *metrics["interval"],
            metrics["majority"]["share"],
            metrics["chance"],
        )
        top1, low, high, majority, chance = (round(100 * float(share), 4) for share in shares)
        return _Test(top1, low, high, majority, chance, int(metrics["videos"]), int(metrics["bad"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: damaged test result ({error}); delete it to test again") from error


def write_table(
    out: Path, table: PaperTable, rows: Sequence[ResultRow], *, scale: Scale
) -> tuple[Path, Path]:
    """Write `TABLE.json` and `TABLE.md`, at small scale `TABLE-small.json` and `TABLE-small.md`.

    Returns:
        Paths of both files, JSON first.
    """
    name = table.name if scale == "paper" else f"{table.name}-{scale}"
    files = out / f"{name}.json", out / f"{name}.md"
    result: dict[str, Any] = {
        "table": table.name,
        "title": table.title,
        "scale": scale,
        "measure": "video top-1 in percent",
        "rows": [asdict(row) for row in rows],
    }
    if table.published is not None:
        result["published"] = asdict(table.published)
    texts = json.dumps(result, indent=1, ensure_ascii=False) + "\n", markdown(table, rows, scale=scale)
    for file, text in zip(files, texts, strict=True):
        with atomic_path(file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return files


def markdown(table: PaperTable, rows: Sequence[ResultRow], *, scale: Scale) -> str:
    """Return the result as a Markdown table. Unknown and missing values are empty."""
    lines = [f"# {table.heading}", "", "Video top-1 in percent."]
    lines += ["", _SMALL] if scale == "small" else []
    lines += ["", *(_with_paper(table, rows) if table.published is None else _with_others(table, rows))]
    for on in table.results:
        lines += _compared(on, [row.figures[on] for row in rows])
    notes: dict[str, list[str]] = {}  # rows by note, in the table's order
    for row in rows:
        for on, accuracy in row.figures.items():
            if accuracy.ours is not None and (accuracy.missing or accuracy.bad):
                why = f"{accuracy.missing:,} listed videos were missing, {accuracy.bad:,} unreadable."
                notes.setdefault(f"on {SETS[on]}: {why}", []).append(row.row)
    for why, names in notes.items():
        lines += ["", f"{', '.join(names)} {why}"]
    lines += ["", table.published.note] if table.published is not None else []
    return "\n".join(lines) + "\n"


def _with_paper(table: PaperTable, rows: Sequence[ResultRow]) -> list[str]:
    """Return the lines of a table that compares with the paper."""
    many = {on: len(splits) > 1 for on, splits in table.results.items()}
    heads = [f"{SETS[on]}{' (mean)' if many[on] else ''}: paper | ours | difference" for on in table.results]
    lines = [f"| | {' | '.join(heads)} |", "|---|" + "---:|" * 3 * len(heads)]
    for row in rows:
        cells = [cell for on in table.results for cell in _cells(row.figures[on])]
        lines.append(f"| {row.row} | {' | '.join(cells)} |")
    return lines


def _with_others(table: PaperTable, rows: Sequence[ResultRow]) -> list[str]:
    """Return the lines of a table that compares with other methods. Other networks come last."""
    assert table.published is not None
    (on,) = table.results
    ours = {row.row: _cells(row.figures[on])[1] for row in rows}
    figures = table.published.figures
    lines = [f"| | {SETS[on]}: published | ours |", "|---|---|---:|"]
    for name in (*ours, *(name for name in figures if name not in ours)):
        others = ", ".join(f"{method} {value:.1f}" for method, value in figures.get(name, {}).items())
        lines.append(f"| {name} | {others} | {ours.get(name, '')} |")
    return lines


def _compared(on: str, figures: Sequence[Figure]) -> list[str]:
    """Say how many videos a column rests on, and what answering without a model would give."""
    measured = [figure for figure in figures if figure.majority is not None and figure.chance is not None]
    if not measured:
        return []
    counts = sorted({figure.videos for figure in measured})
    videos = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return [
        "",
        f"{SETS[on]}: {videos} tested videos, 95% intervals in parentheses. Always answering the most "
        f"frequent class would give {measured[0].majority:.1f}, guessing {measured[0].chance:.1f}.",
    ]


def _cells(accuracy: Figure) -> tuple[str, str, str]:
    def one(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{value:{sign}.1f}"

    ours = one(accuracy.ours)
    if accuracy.interval is not None:
        low, high = accuracy.interval
        ours += f" ({low:.1f}–{high:.1f})"
    return one(accuracy.paper), ours, one(accuracy.difference, "+")
