"""Read a table that is a text file: CSV, tabs, semicolons, and the lists of other toolkits.

pyarrow reads the table. Python's csv module, which is slower, reads tables that pyarrow cannot (blanks before
quotation marks, paths with spaces between spaces), and finds the line of a mistake.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from t3d.data.manifest.checks import Refuse
from t3d.data.manifest.column_names import Columns
from t3d.data.manifest.layout import SEPARATORS, Layout, find_layout, placeholder, records
from t3d.data.manifest.numbers import is_number, to_numbers
from t3d.data.manifest.text_file import TextFile, read_text
from t3d.data.paths import strings
from t3d.errors import ManifestError

_log = logging.getLogger(__name__)

Records = Iterator[tuple[int, Mapping[str, object]]]


@dataclass(frozen=True)
class TextTable:
    """The columns of a table.

    Args:
        columns: Known columns by name, text or seconds, null for empty fields, N rows.
        extra: The other columns, text, N rows.
        refuse: Function that reports wrong rows with their lines.
        remarks: How the table was understood, where it is not plain CSV in UTF-8 with exact names.
    """

    columns: dict[str, pa.Array]
    extra: dict[str, pa.Array]
    refuse: Refuse
    remarks: tuple[str, ...] = ()


def read_text_table(file: str | os.PathLike[str], allowed: Columns) -> TextTable:
    """Read a table.

    Args:
        file: The table; see `find_layout` for its forms.
        allowed: Its columns.

    Raises:
        ManifestError: With the line: columns that are unclear or not allowed, a row of another length,
            seconds that are not a number; no rows.
    """
    text = read_text(file)
    layout = find_layout(text, allowed)
    name = os.fspath(file)

    def rows() -> Records:
        return _checked(text, layout, allowed)

    columns = _columns(text, layout, rows)
    columns = {key: pc.if_else(pc.equal(column, ""), None, column) for key, column in columns.items()}
    for key in allowed.seconds:
        if key in columns:
            try:
                columns[key] = to_numbers(columns[key], layout.separator)
            except pa.ArrowInvalid as error:
                raise named_error(name, rows, error) from error
    extra = {key: columns.pop(key) for key in layout.extra}
    for at, key in enumerate(layout.names):  # columns of a spreadsheet in which nothing is written
        if key == placeholder(at) and extra[key].null_count == len(extra[key]):
            del extra[key]
    return TextTable(columns, extra, refusing(name, rows), tuple(_remarks(text, layout, extra)))


def say(name: str, remarks: Sequence[str]) -> None:
    """Print one line on how a list was understood; nothing for a list without remarks.

    The same line is printed once per process.
    """
    message = f"{name}: {'; '.join(remarks)}"
    if remarks and message not in _SAID:
        _SAID.add(message)
        _log.warning("%s", message)


_SAID: set[str] = set()


def refusing(file: str, rows: Callable[[], Records]) -> Refuse:
    """Return the function that reports the first wrong rows of a table.

    Args:
        file: The table.
        rows: Function that reads its rows again, with their line numbers.
    """

    def refuse(wrong: pa.Array, why: str) -> None:
        at = pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist()
        if at:
            lines = [str(next(islice(rows(), row, None))[0]) for row in at[:3]]
            if len(at) > 3:
                lines.append(f"{len(at) - 3} more")
            listed = (
                f"lines {', '.join(lines[:-1])} and {lines[-1]}" if len(lines) > 1 else f"line {lines[0]}"
            )
            raise ManifestError(f"{file}, {listed}: {why}")

    return refuse


def named_error(file: str, rows: Callable[[], Records], error: Exception) -> ManifestError:
    """Find the line of a mistake by reading slowly; without one, return pyarrow's message."""
    try:
        for _ in rows():
            pass
    except ManifestError as named:
        return named
    return ManifestError(f"{file}: cannot be read as a table ({error})")


# --- the columns ------------------------------------------------------------------------------------------


def _columns(text: TextFile, layout: Layout, rows: Callable[[], Records]) -> dict[str, pa.Array]:
    """Return all columns as text, string [N], without blank rows and without blanks around values."""
    table = None if _needs_csv_module(text.text, layout.separator) else _read_with_pyarrow(text.text, layout)
    if table is None:
        values = [tuple(record.values()) for _, record in rows()]
        table = [strings([str(value) for value in column]) for column in zip(*values, strict=True)]
    if not table or not len(table[0]):
        raise ManifestError(f"{text.name}: the table has no rows")
    columns = dict(zip(layout.names, table, strict=True))
    if _has_blanks(text.text, layout.separator):
        quoted = '"' in text.text  # then blanks in the name of a file are meant
        columns = {
            name: column if name == "path" and quoted else pc.utf8_trim_whitespace(column)
            for name, column in columns.items()
        }
    blank = pc.equal(pc.utf8_trim_whitespace(table[0]), "")
    if pc.any(blank).as_py():
        for column in columns.values():
            blank = pc.and_(blank, pc.equal(pc.utf8_trim_whitespace(column), ""))
        columns = {name: column.filter(pc.invert(blank)) for name, column in columns.items()}
    if not len(columns[layout.names[0]]):
        raise ManifestError(f"{text.name}: the table has no rows")
    return columns


def _has_blanks(text: str, separator: str) -> bool:
    """Return whether there are blanks next to a separator or the end of a line."""
    return (
        separator == " "
        or any(each in text for each in (f"{separator} ", f" {separator}", "\n ", " \n", " \r"))
        or text.endswith(" ")
    )


def _needs_csv_module(text: str, separator: str) -> bool:
    """Return whether only Python's csv module reads a table: blanks around quotation marks."""
    return separator == " " or ('"' in text and _has_blanks(text, separator))


def _read_with_pyarrow(text: str, layout: Layout) -> list[pa.Array] | None:
    """Return the columns, string [N] each; None where pyarrow cannot read them."""
    stream = io.StringIO(text, newline="")
    for _ in range(layout.first - 1):
        stream.readline()
    names = [str(at) for at in range(len(layout.names))]
    try:
        table = pyarrow.csv.read_csv(
            io.BytesIO(text[stream.tell() :].encode()),
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except pa.ArrowInvalid:
        return None
    return [table[name].combine_chunks() for name in names]


def _checked(text: TextFile, layout: Layout, allowed: Columns) -> Records:
    """Yield the rows with their lines.

    Raises:
        ManifestError: A row has another length than the names, or seconds that are not a number.
    """
    rows, line = records(text.text, layout), layout.first
    seconds = [key for key in allowed.seconds if key in layout.names]
    while True:
        try:
            line, row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise ManifestError(f"{text.name}, after line {line}: {error}") from error
        if len(row) != len(layout.names):
            by = SEPARATORS[layout.separator]
            count = len(layout.names)
            raise ManifestError(
                f"{text.name}, line {line}: {len(row)} fields for {count} columns separated by {by} "
                f"({', '.join(layout.names)}); put quotation marks around a field that contains a separator"
            )
        record = dict(zip(layout.names, row, strict=True))
        for key in seconds:
            if not is_number(record.get(key) or "", layout.separator):
                raise ManifestError(
                    f"{text.name}, line {line}: {key} is {record[key]!r}; give seconds, such as 12.5"
                )
        yield line, record


def _remarks(text: TextFile, layout: Layout, extra: Mapping[str, pa.Array]) -> Iterator[str]:
    """Say how a table was understood, where it could have been meant otherwise."""
    if text.encoding != "UTF-8":
        yield text.encoding
    if layout.separator != "," and len(layout.names) > 1:
        yield f"columns are separated by {SEPARATORS[layout.separator]}"
    if not layout.header:
        yield f"no line names the columns, which are {', '.join(layout.names)}"
    if layout.renamed:
        yield ", ".join(f"column {old!r} is {new}" for old, new in layout.renamed)
    if extra:
        yield f"{'columns' if len(extra) > 1 else 'column'} {', '.join(map(repr, extra))} not used"
