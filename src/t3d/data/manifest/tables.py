"""Read a manifest's rows from tables and JSON Lines, and write CSV."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from t3d.data.listing import absolute
from t3d.data.manifest.checks import Refuse, refuse_both, refuse_names, refuse_repeats, refuse_spans
from t3d.data.manifest.class_names import class_names
from t3d.data.manifest.column_names import Columns
from t3d.data.manifest.json_table import read_json_table
from t3d.data.manifest.labels import split_names
from t3d.data.manifest.readers import Rows
from t3d.data.manifest.sources import default_sources
from t3d.data.manifest.text_table import TextTable, read_text_table, say
from t3d.data.paths import absolute_paths, from_windows, relative_to
from t3d.io.files import URL_PATTERN, atomic_path
from t3d.io.video_cache import SCHEMES

COLUMNS = ("path", "label", "labels", "start", "end", "source")
_SECONDS = ("start", "end")
_ALLOWED = Columns(COLUMNS, "path", _SECONDS, others=True)
_VIDEO_URL = rf"(?i)^({'|'.join(SCHEMES)})://"


def read_csv(
    file: str | os.PathLike[str], root: str | os.PathLike[str] | None, *, name_classes: bool = True
) -> Rows:
    """Read a table that is a text file; see `Manifest.from_csv`."""
    return _read(file, root, read_text_table(file, _ALLOWED), name_classes=name_classes)


def read_jsonl(
    file: str | os.PathLike[str], root: str | os.PathLike[str] | None, *, name_classes: bool = True
) -> Rows:
    """Read a JSON Lines table; see `Manifest.from_jsonl`."""
    return _read(file, root, read_json_table(file, _ALLOWED), name_classes=name_classes)


def _read(
    file: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    table: TextTable,
    *,
    name_classes: bool,
) -> Rows:
    name = os.fspath(file)
    columns, remarks = dict(table.columns), list(table.remarks)
    naming = class_names(Path(file), columns["label"]) if name_classes and "label" in columns else None
    if naming is not None:
        columns["label"] = naming.names
        remarks.append(naming.remark)
    rows = checked_rows(name, columns, table.refuse, root, remarks)
    say(name, remarks)
    return replace(rows, extra=pa.table(table.extra)) if table.extra else rows


def write_csv(file: str | os.PathLike[str], columns: dict[str, pa.Array]) -> None:
    """Write columns as CSV, completely or not at all; see `Manifest.write_csv`."""
    target = Path(file).absolute()
    table = pa.table({**columns, "path": relative_to(columns["path"], str(target.parent))})
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        pyarrow.csv.write_csv(table, stream)


def checked_rows(
    file: str,
    columns: dict[str, pa.Array],
    refuse: Refuse,
    root: str | os.PathLike[str] | None,
    remarks: list[str],
) -> Rows:
    """Check the rows of a table and complete them.

    Args:
        file: The table.
        columns: Its columns out of `COLUMNS`, at least `path`: text, or float64 seconds; N rows.
        refuse: Function that reports wrong rows with their lines.
        root: Folder that relative paths start from; without it, the table's own folder.
        remarks: List that collects what is done to the paths.

    Raises:
        ManifestError: With the line: a wrong value, or a repeated row.
    """
    count = len(columns["path"])
    text, seconds = pa.nulls(count, pa.string()), pa.nulls(count, pa.float64())
    refuse_both(file, columns)
    path, label, several, source = (columns.get(key, text) for key in ("path", "label", "labels", "source"))
    start, end = (columns.get(key, seconds) for key in _SECONDS)

    refuse(pc.is_null(path), "the path is empty; every row needs one")
    refuse(
        pc.and_not(pc.match_substring_regex(path, URL_PATTERN), pc.match_substring_regex(path, _VIDEO_URL)),
        f"videos are read from {', '.join(f'{scheme}://' for scheme in SCHEMES)} and paths only",
    )
    for key, column in (("path", path), ("label", label), ("source", source)):
        refuse(
            pc.equal(pc.utf8_trim_whitespace(column), ""),
            f"the {key} is blank; leave the field out or fill it",
        )
    refuse(
        pc.not_equal(pc.utf8_trim_whitespace(label), label),
        "the label has leading or trailing spaces, which would create a second class; remove them",
    )
    if "labels" in columns:
        refuse_names(several, refuse)
    refuse_spans(start, end, refuse)

    base = absolute(root if root is not None else Path(file).parent)
    path, remark = from_windows(path, base)
    remarks += [remark] if remark else []
    path = absolute_paths(path, base)
    names = pc.utf8_normalize(several if "labels" in columns else label, form="NFC")
    refuse_repeats(path, names, start, end, refuse)
    relative = relative_to(path, base)
    if os.sep == "\\":
        relative = pc.replace_substring(relative, "\\", "/")
    sources = pc.coalesce(source, default_sources(relative)) if source.null_count else source
    rows = Rows(paths=path, names=names, sources=sources, start=start, end=end)
    return replace(rows, names=text, several=split_names(names)) if "labels" in columns else rows
