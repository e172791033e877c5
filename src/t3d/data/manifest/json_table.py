"""Read a table that is JSON Lines: one object per line, with the columns of other tables as fields.

pyarrow reads the table. Python's json module, which is slower, reads tables whose further fields have values
of different types, and finds the line of a mistake.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from t3d.data.manifest.checks import Refuse
from t3d.data.manifest.column_names import Columns, Named, name_columns
from t3d.data.manifest.labels import SEPARATOR, join_names, unwritable
from t3d.data.manifest.text_file import TextFile, read_text
from t3d.data.manifest.text_table import Records, TextTable, named_error, refusing
from t3d.data.paths import strings
from t3d.errors import ManifestError

_KINDS = {
    "path": "a text",
    "source": "a text",
    "label": "a class name, or a class number",
    "labels": "a list of class names",
    "start": "a number of seconds",
    "end": "a number of seconds",
}
_SAMPLE = 100  # objects that say which of several fields holds the paths or class names


def read_json_table(file: str | os.PathLike[str], allowed: Columns) -> TextTable:
    """Read a table.

    Args:
        file: The table, in one of the encodings of `read_text`.
        allowed: Its fields. Other names of these are understood as in other tables.

    Returns:
        The columns; `labels` as the text of other tables.

    Raises:
        ManifestError: With the line: not an object, a value of another kind, or fields that are unclear; no
            rows.
    """
    text = read_text(file)
    name = os.fspath(file)
    if not text.text.strip():
        raise ManifestError(f'{name}: the table is empty; each line is an object, {{"path": …, "label": …}}')
    data = text.text.encode()
    fields, kinds = _fields(name, data)
    first = islice(_objects(name, data), _SAMPLE)
    sample = [[str(record.get(field, "")) for field in fields] for _, record in first]
    meaning = name_columns(name, fields, sample, allowed)

    def records() -> Records:
        return _checked(name, data, dict(zip(fields, meaning.names, strict=True)))

    columns = _read_fast(data, fields, kinds, meaning) or _read_slowly(name, records, meaning.names)
    empty = [key for key, column in columns.items() if column.null_count == len(column) and key != "path"]
    columns = {key: column for key, column in columns.items() if key not in empty}
    refuse = refusing(name, records)
    if "labels" in columns:
        columns["labels"] = _as_text(columns["labels"], refuse)
    extra = {key: columns.pop(key) for key in meaning.extra if key in columns}
    return TextTable(columns, extra, refuse, tuple(_remarks(text, meaning)))


def _fields(name: str, data: bytes) -> tuple[list[str], dict[str, pa.DataType]]:
    """Return the fields of all lines, and their types where these are clear."""
    try:
        schema = pyarrow.json.read_json(io.BytesIO(data)).schema
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return list(dict.fromkeys(key for _, record in _objects(name, data) for key in record)), {}
    return list(schema.names), dict(zip(schema.names, schema.types, strict=True))


def _read_fast(
    data: bytes, fields: Sequence[str], kinds: Mapping[str, pa.DataType], meaning: Named
) -> dict[str, pa.Array] | None:
    """Return the columns, or None where pyarrow cannot read them."""
    if not kinds:
        return None
    types: dict[str, pa.DataType] = {}
    for field, column in zip(fields, meaning.names, strict=True):
        kind = kinds[field]
        if column == "labels":
            types[field] = pa.list_(pa.string())
        elif column in ("start", "end"):
            types[field] = pa.float64()
        elif (column == "label" and pa.types.is_integer(kind)) or (
            field in meaning.extra and _is_plain(kind)
        ):
            types[field] = kind
        elif field not in meaning.extra or pa.types.is_string(kind) or pa.types.is_temporal(kind):
            types[field] = pa.string()  # pyarrow takes some texts for times
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(types), unexpected_field_behavior="ignore")
    try:
        table = pyarrow.json.read_json(io.BytesIO(data), parse_options=options)
        table.validate(full=True)
        columns = {field: table[field].combine_chunks() for field in types}
        return {
            column: columns[field]
            if column in ("labels", "start", "end")
            else pc.cast(columns[field], pa.string())
            for field, column in zip(fields, meaning.names, strict=True)
            if field in types
        }
    except (pa.ArrowInvalid, UnicodeDecodeError):
        return None


def _is_plain(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _read_slowly(name: str, records: Callable[[], Records], names: Sequence[str]) -> dict[str, pa.Array]:
    rows = [record for _, record in records()]
    columns: dict[str, pa.Array] = {}
    try:
        for column in names:
            values = [row.get(column) for row in rows]
            if column == "labels":
                columns[column] = pa.array(values, pa.list_(pa.string()))
            elif column in ("start", "end"):
                columns[column] = pa.array(values, pa.float64())
            else:
                columns[column] = strings([None if value is None else _as_field(value) for value in values])
    except (pa.ArrowException, OverflowError) as error:
        raise named_error(name, records, error) from error
    return columns


def _as_field(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _as_text(names: pa.Array, refuse: Refuse) -> pa.Array:
    """Return lists of names, list<string> [N], as a table's text, string [N]."""
    refuse(
        unwritable(names),
        f"labels contains a null, or a name with {SEPARATOR}, which separates labels; rename it",
    )
    return join_names(names)


def _objects(name: str, data: bytes) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the objects with their lines.

    Raises:
        ManifestError: A line is not an object.
    """
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: not a JSON object ({error}); write one object per line") from error
        if not isinstance(record, dict):
            raise ManifestError(f'{where}: must be an object such as {{"path": …, "label": …}}')
        yield number, record


def _checked(name: str, data: bytes, columns: Mapping[str, str]) -> Records:
    """Yield the objects with the columns as their fields.

    Raises:
        ManifestError: A value is of another kind.
    """
    for number, record in _objects(name, data):
        for key, value in record.items():
            column = columns[key]
            if column in _KINDS and value is not None and not _fits(column, value):
                raise ManifestError(f"{name}, line {number}: {key} is {value!r}; it must be {_KINDS[column]}")
        yield number, {columns[key]: value for key, value in record.items()}


def _fits(column: str, value: object) -> bool:
    if isinstance(value, bool):
        return False
    if column == "labels":
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if column in ("start", "end"):
        return isinstance(value, int | float)
    return isinstance(value, str) or (column == "label" and isinstance(value, int))


def _remarks(text: TextFile, meaning: Named) -> Iterator[str]:
    if text.encoding != "UTF-8":
        yield text.encoding
    if meaning.renamed:
        yield ", ".join(f"field {old!r} is {new}" for old, new in meaning.renamed.items())
    if meaning.extra:
        fields = "fields" if len(meaning.extra) > 1 else "field"
        yield f"{fields} {', '.join(map(repr, meaning.extra))} not used"
