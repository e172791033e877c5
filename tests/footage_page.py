"""Generator of `docs/reference/footage.md`: what T3D does with unusual files and lists, from its tests.

    python tests/footage_page.py > docs/reference/footage.md

`make docs` does the same. A test is listed if it has a mark with literal strings:

    @pytest.mark.situation("Video files", "What people report", "What T3D does", ffmpeg="What FFmpeg does")

A test without its mark leaves the page, and a mark without its test cannot exist.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
SECTIONS = (
    "Video files",
    "Damaged files",
    "Image sequences",
    "Lists and folders",
    "URLs",
    "Machines and disks",
)
_INTRODUCTION = """\
# Unusual footage and lists

What T3D does in situations that users of video libraries report as bugs. Each row names the test that checks
it. `make docs` generates this page from those tests. [Files tried](../project/footage-tried.md) has the
results before and after, with similar files.
"""
_FILES = """\
## Files from other projects

Files from the test suites of media libraries and of bug reports. "FFmpeg" is the number of frames that
`ffmpeg -i FILE -fps_mode passthrough` (version {version}) decodes, and the number of errors that it prints.
T3D reads the whole file in order, and some frames again in another order. Both must give the same pictures
(`tests/video/test_odd_videos.py`).

| File | FFmpeg | T3D |
|---|---|---|
"""


class Situation(NamedTuple):
    """A marked test."""

    section: str
    report: str
    outcome: str
    ffmpeg: str
    test: str


def situations(folder: Path = TESTS) -> Iterator[Situation]:
    """Yield the marked tests below a folder, file by file."""
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.situation" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.situation":
                        section, report, outcome = (ast.literal_eval(value) for value in mark.args)
                        named = {key.arg: ast.literal_eval(key.value) for key in mark.keywords}
                        test = f"{path.relative_to(folder.parent).as_posix()}::{node.name}"
                        yield Situation(section, report, outcome, named.get("ffmpeg", ""), test)


def page() -> str:
    """Return the page as Markdown.

    Raises:
        ValueError: A mark names a section that is not in `SECTIONS`.
    """
    rows = list(situations())
    if unknown := {row.section for row in rows} - set(SECTIONS):
        raise ValueError(f"pytest.mark.situation takes the sections {SECTIONS}, got {sorted(unknown)}")
    parts = [_INTRODUCTION]
    for section in SECTIONS:
        if chosen := [row for row in rows if row.section == section]:
            parts.append(_table(section, chosen))
    return "\n".join([*parts, _files()])


def _table(section: str, rows: list[Situation]) -> str:
    beside = any(row.ffmpeg for row in rows)
    head = ["Situation", "T3D", *(["FFmpeg"] if beside else []), "Test"]
    lines = [f"## {section}", "", _row(head), "|---" * len(head) + "|"]
    for row in rows:
        lines.append(_row([row.report, row.outcome, *([row.ffmpeg] if beside else []), f"`{row.test}`"]))
    return "\n".join([*lines, ""])


def _files() -> str:
    expected = json.loads((TESTS / "video" / "odd_videos.json").read_text(encoding="utf-8"))
    ffmpeg = json.loads((TESTS / "video" / "ffmpeg_outcomes.json").read_text(encoding="utf-8"))
    rows = []
    for name, outcome in expected.items():
        peer = ffmpeg[name if name.startswith("reported/") else f"odd_videos/{name}"]
        errors = f", {_plural(peer['errors'], 'error')}" if peer["errors"] else ""
        rows.append(_row([f"`{name}`", f"{_plural(peer['frames'], 'frame')}{errors}", _outcome(outcome)]))
    return _FILES.format(version=ffmpeg["version"]) + "\n".join(rows) + "\n"


def _outcome(outcome: dict[str, object]) -> str:
    if "error" in outcome:
        return f"refused: {outcome['error']}"
    damage = f"; damage: {outcome['damage']}" if outcome["damage"] else ""
    missing = outcome["missing"]
    assert isinstance(missing, list)
    assert isinstance(outcome["frames"], int)
    lost = f", {len(missing)} of them cannot be decoded" if missing else ""
    return f"{_plural(outcome['frames'], 'frame')}{lost}{damage}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
