"""Read a manifest's rows from tables and JSON Lines, and write CSV."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from t3d.data.listing import absolute
from t3d.data.manifest.checks import Refuse, refuse_both, refuse_names, refuse_repeats, refuse_spans
from t3d.data.manifest.class_names import class_names
from t3d.data.manifest.column_names import Columns, header_hint
from t3d.data.manifest.labels import SEPARATOR, join_names, split_names, unwritable
from t3d.data.manifest.readers import Rows
from t3d.data.manifest.sources import default_sources
from t3d.data.manifest.text_table import Records, named_error, read_text_table, refusing, say
from t3d.data.paths import absolute_paths, from_windows, relative_to
from t3d.errors import ManifestError, did_you_mean
from t3d.io.files import URL_PATTERN, atomic_path
from t3d.io.video_cache import SCHEMES

COLUMNS = ("path", "label", "labels", "start", "end", "source")
_SECONDS = ("start", "end")
_VIDEO_URL = rf"(?i)^({'|'.join(SCHEMES)})://"
_JSON_TYPES = {"path": str, "label": str, "labels": list, "source": str, "start": float, "end": float}
_JSON_KINDS = {
    str: "a text (a class is given by its name)",
    float: "a number of seconds",
    list: "a list of class names",
}


def read_csv(file: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Rows:
    """Read a table that is a text file; see `Manifest.from_csv`."""
    name = os.fspath(file)
    table = read_text_table(file, Columns(COLUMNS, "path", _SECONDS, others=True))
    columns, remarks = dict(table.columns), list(table.remarks)
    if "label" in columns and (naming := class_names(Path(file), columns["label"])) is not None:
        columns["label"] = naming.names
        remarks.append(naming.remark)
    rows = checked_rows(name, columns, table.refuse, root, remarks)
    say(name, remarks)
    return replace(rows, extra=pa.table(table.extra)) if table.extra else rows


def read_jsonl(file: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Rows:
    """Read a JSON Lines table; see `Manifest.from_jsonl`."""
    name, data = os.fspath(file), _bytes(file)
    types = dict.fromkeys(COLUMNS, pa.string()) | dict.fromkeys(_SECONDS, pa.float64())
    schema = pa.schema(list((types | {"labels": pa.list_(pa.string())}).items()))

    def records() -> Records:
        return _json_records(name, data)

    if not data.removeprefix(b"\xef\xbb\xbf").strip():
        raise ManifestError(f'{name}: the table is empty; each line is an object, {{"path": …, "label": …}}')
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    try:
        table = pyarrow.json.read_json(io.BytesIO(data), parse_options=options)
        table.validate(full=True)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise named_error(name, records, error) from error
    columns = {key: _flat(table[key]) for key in table.column_names}
    refuse = refusing(name, records)
    for key in ("label", "labels"):  # a field that no line has does not count as a column
        if columns[key].null_count == len(columns[key]):
            del columns[key]
    if "labels" in columns:
        columns["labels"] = _as_text(columns["labels"], refuse)
    remarks: list[str] = []
    rows = checked_rows(name, columns, refuse, root, remarks)
    say(name, remarks)
    return rows


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


def _as_text(names: pa.Array, refuse: Refuse) -> pa.Array:
    """Return lists of names, list<string> [N], as a table's text, string [N]."""
    refuse(
        unwritable(names),
        f"labels contains a null, or a name with {SEPARATOR}, which separates labels; rename it",
    )
    return join_names(names)


def _json_records(file: str, data: bytes) -> Records:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError as error:
            raise ManifestError(f"{where}: not a JSON object in UTF-8 ({error})") from error
        if not isinstance(record, dict):
            raise ManifestError(f'{where}: must be an object such as {{"path": …, "label": …}}')
        for key, value in record.items():
            if key not in _JSON_TYPES:
                hint = header_hint(list(record), COLUMNS) or did_you_mean(key, COLUMNS)
                raise ManifestError(f"{where}: unknown field {key!r}; {hint}")
            expected = _JSON_TYPES[key]
            right = isinstance(value, (int, float) if expected is float else expected)
            if expected is list and right:
                right = all(isinstance(name, str) for name in value)
            if value is not None and (not right or isinstance(value, bool)):
                raise ManifestError(f"{where}: {key} is {value!r}; it must be {_JSON_KINDS[expected]}")
        yield number, record


def _bytes(file: str | os.PathLike[str]) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ManifestError(f"{os.fspath(file)}: cannot be read ({error.strerror})") from error


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
