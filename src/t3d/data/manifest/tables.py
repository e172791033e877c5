"""Read a manifest's rows from CSV and JSON Lines, and write CSV.

pyarrow reads the whole table. Only to find the line of a mistake, the file is read again, slowly.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from t3d.data.listing import absolute
from t3d.data.manifest.checks import Refuse, refuse_both, refuse_names, refuse_repeats, refuse_spans
from t3d.data.manifest.column_names import header_hint
from t3d.data.manifest.labels import SEPARATOR, join_names, split_names, unwritable
from t3d.data.manifest.readers import Rows
from t3d.data.manifest.sources import default_sources
from t3d.data.paths import absolute_paths, relative_to
from t3d.errors import ManifestError, did_you_mean
from t3d.io.files import URL_PATTERN, atomic_path

COLUMNS = ("path", "label", "labels", "start", "end", "source")
_SECONDS = ("start", "end")
_JSON_TYPES = {"path": str, "label": str, "labels": list, "source": str, "start": float, "end": float}
_JSON_KINDS = {
    str: "a text (a class is given by its name)",
    float: "a number of seconds",
    list: "a list of class names",
}

Records = Iterator[tuple[int, Mapping[str, object]]]


@dataclass(frozen=True)
class Columns:
    """Columns that a CSV table may have.

    Args:
        known: Names of all columns; others are refused.
        needed: Required column.
        seconds: Columns of seconds; the others are text.
    """

    known: Sequence[str]
    needed: str
    seconds: Sequence[str]


class _Reader(Protocol):
    """Type of `csv.reader`'s result, which has no public name."""

    line_num: int

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


def read_csv(file: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Rows:
    """Read a CSV table; see `Manifest.from_csv`."""
    columns, refuse = csv_columns(file, Columns(COLUMNS, "path", _SECONDS))
    return _rows(os.fspath(file), columns, refuse, root)


def csv_columns(file: str | os.PathLike[str], allowed: Columns) -> tuple[dict[str, pa.Array], Refuse]:
    """Read the columns of a CSV table whose first line names them.

    Args:
        file: The table, UTF-8, with or without byte-order mark, any line ends.
        allowed: Its columns.

    Returns:
        The columns, text or seconds, null for empty fields, N rows; and the function that refuses rows.

    Raises:
        ManifestError: With the line: a column that is not allowed, a row of another length, seconds that are
            not a number; no rows.
    """
    name, data = os.fspath(file), _bytes(file)

    def records() -> Records:
        return _csv_records(name, data, allowed)

    next(records(), None)  # the header's mistakes come before the rows'
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(data),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(allowed.known, pa.string())
            ),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise _named(name, records, error) from error
    columns = {key: _flat(table[key]) for key in table.column_names}
    columns = {key: pc.if_else(pc.equal(column, ""), None, column) for key, column in columns.items()}
    for key in allowed.seconds:
        if key in columns:
            try:
                columns[key] = pc.cast(pc.utf8_trim_whitespace(columns[key]), pa.float64())
            except pa.ArrowInvalid as error:
                raise _named(name, records, error) from error
    if not table.num_rows:
        raise ManifestError(f"{name}: the table has no rows")
    return columns, _refusing(name, records)


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
        raise _named(name, records, error) from error
    columns = {key: _flat(table[key]) for key in table.column_names}
    refuse = _refusing(name, records)
    for key in ("label", "labels"):  # a field that no line has does not count as a column
        if columns[key].null_count == len(columns[key]):
            del columns[key]
    if "labels" in columns:
        columns["labels"] = _as_text(columns["labels"], refuse)
    return _rows(name, columns, refuse, root)


def write_csv(file: str | os.PathLike[str], columns: dict[str, pa.Array]) -> None:
    """Write columns as CSV, completely or not at all; see `Manifest.write_csv`."""
    target = Path(file).absolute()
    table = pa.table({**columns, "path": relative_to(columns["path"], str(target.parent))})
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        pyarrow.csv.write_csv(table, stream)


def _refusing(file: str, records: Callable[[], Records]) -> Refuse:
    def refuse(wrong: pa.Array, why: str) -> None:
        rows = pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist()
        if rows:
            lines = [str(next(islice(records(), row, None))[0]) for row in rows[:3]]
            if len(rows) > 3:
                lines.append(f"{len(rows) - 3} more")
            listed = (
                f"lines {', '.join(lines[:-1])} and {lines[-1]}" if len(lines) > 1 else f"line {lines[0]}"
            )
            raise ManifestError(f"{file}, {listed}: {why}")

    return refuse


def _rows(
    file: str, columns: dict[str, pa.Array], refuse: Refuse, root: str | os.PathLike[str] | None
) -> Rows:
    count = len(columns["path"])
    text, seconds = pa.nulls(count, pa.string()), pa.nulls(count, pa.float64())
    refuse_both(file, columns)
    path, label, several, source = (columns.get(key, text) for key in ("path", "label", "labels", "source"))
    start, end = (columns.get(key, seconds) for key in _SECONDS)

    refuse(pc.is_null(path), "the path is empty; every row needs one")
    refuse(
        pc.match_substring_regex(path, URL_PATTERN),
        "the path is a URL; download the file first with `t3d prepare download`, and give its local path",
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


def _named(file: str, records: Callable[[], Records], error: Exception) -> ManifestError:
    """Find the line of a mistake by reading slowly; without one, return pyarrow's message."""
    try:
        for _ in records():
            pass
    except ManifestError as named:
        return named
    return ManifestError(f"{file}: cannot be read as a table ({error})")


def _csv_records(file: str, data: bytes, allowed: Columns) -> Records:
    reader = csv.reader(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline=""))
    try:
        yield from _checked_csv(file, reader, allowed)
    except csv.Error as error:
        raise ManifestError(f"{file}, line {reader.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file}: not UTF-8 text ({error}); save the table as UTF-8") from error


def _checked_csv(file: str, reader: _Reader, allowed: Columns) -> Records:
    header = next((row for row in reader if row), [])
    if not header:
        raise ManifestError(
            f"{file}: the table is empty; its first line must name the columns: {', '.join(allowed.known)}"
        )
    wrong = [column for column in header if column not in allowed.known]
    if wrong:
        hint = header_hint(header, allowed.known) or (
            f"{did_you_mean(wrong[0], allowed.known)} (line 1 names the columns, separated by commas)"
        )
        raise ManifestError(f"{file}, line 1: unknown column {wrong[0]!r}; {hint}")
    if len(set(header)) < len(header):
        raise ManifestError(f"{file}, line 1: a column is named twice: {', '.join(header)}")
    if allowed.needed not in header:
        raise ManifestError(
            f"{file}, line 1: the column {allowed.needed!r} is missing; there are {', '.join(header)}"
        )
    for row in reader:
        if not row:
            continue
        if len(row) != len(header):
            raise ManifestError(
                f"{file}, line {reader.line_num}: {len(row)} fields for {len(header)} columns "
                f"({', '.join(header)}); put quotation marks around a field with a comma"
            )
        record = dict(zip(header, row, strict=True))
        for key in allowed.seconds:
            if not _is_number(record.get(key) or "0"):
                raise ManifestError(
                    f"{file}, line {reader.line_num}: {key} is {record[key]!r}; give seconds, such as 12.5"
                )
        yield reader.line_num, record


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


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _bytes(file: str | os.PathLike[str]) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ManifestError(f"{os.fspath(file)}: cannot be read ({error.strerror})") from error


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks()
