"""Read the columns of a table of class probabilities, from CSV or JSON Lines; see `t3d.data.soft_labels`.

Legend: N videos, K classes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unicodedata import normalize

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from t3d.data.listing import in_name_order
from t3d.data.manifest.numbers import is_number, to_numbers
from t3d.data.manifest.text_file import read_text
from t3d.data.paths import strings
from t3d.errors import ManifestError

_VIDEO = ("path", "start", "end", "source")
_OTHER = ("label", "prediction", "clips", "weights", "error")
_NUMBERS = (None, "start", "end")  # None: a class
_SEVERAL = ("labels", "predictions")
_LAYOUTS = (
    ("path", "start", "end", "label", "prediction", "clips"),
    ("path", "start", "end", "prediction", "clips", "weights", "error"),
    ("path", "start", "end", "source"),
)
"""First columns of the tables that T3D writes. Every later column is a class, whatever its name."""
_ALL_CLASSES = (
    "A table needs all classes on every line: run t3d predict again with a new file and without `top`"
)


@dataclass(frozen=True)
class SoftTable:
    """A table of class probabilities as it was written; its values are not checked.

    Args:
        columns: `path`, and `start`, `end`, `source` where the table has them; text or float64 seconds, N.
        classes: Class names, K.
        probs: Probabilities, NaN where a field is empty, float64 [N, K].
        lines: Function that finds the line of each row, N.
        failed: Number of videos that could not be read, and are not among the rows.
    """

    columns: Mapping[str, pa.Array]
    classes: tuple[str, ...]
    probs: npt.NDArray[np.float64]
    lines: Callable[[], Iterator[int]]
    failed: int


# --- JSON Lines -------------------------------------------------------------------------------------------


def read_jsonl(name: str) -> SoftTable:
    """Read the JSON Lines of `t3d predict`.

    Args:
        name: The file.

    Raises:
        ManifestError: A line is not a prediction, or has other classes than the line before.
    """
    lines: list[int] = []
    rows: list[tuple[Any, ...]] = []
    probs: list[npt.NDArray[np.float64]] = []
    classes: tuple[str, ...] = ()
    failed = 0
    for number, record in _json_records(name):
        if "error" in record:
            failed += 1
            continue
        shares = record["classes"]
        if not lines:
            classes = tuple(in_name_order(list(shares)))
        if shares.keys() != set(classes):
            raise ManifestError(
                f"{name}, line {number}: has the classes {_shown(shares)}, but line {lines[0]} has "
                f"{_shown(classes)}. {_ALL_CLASSES}"
            )
        lines.append(number)
        rows.append(tuple(record.get(key) for key in _VIDEO))
        probs.append(np.array([shares[label] for label in classes], dtype=np.float64))
    if not lines:
        raise _empty(name, failed)
    path, start, end, source = zip(*rows, strict=True)
    seconds = {"start": pa.array(start, pa.float64()), "end": pa.array(end, pa.float64())}
    columns = {"path": strings(list(path))} | seconds
    if any(source):
        columns["source"] = strings(list(source))
    return SoftTable(columns, _checked_names(name, classes), np.stack(probs), lambda: iter(lines), failed)


def _json_records(name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the predictions with their lines; those with `error` have no classes."""
    for number, line in enumerate(read_text(name).text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ManifestError(
                f"{where}: not a JSON object ({error}). If t3d predict was interrupted, run the same command "
                "again to complete the file"
            ) from error
        if not isinstance(record, dict) or not isinstance(record.get("path"), str):
            raise ManifestError(f'{where}: not a prediction; it must be {{"path": …, "classes": …}}')
        if record.get("targets", "single") != "single":
            raise _several(where)
        if "error" not in record:
            _refuse_wrong_types(where, record)
        yield number, record


def _refuse_wrong_types(where: str, record: Mapping[str, Any]) -> None:
    def is_number(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    for key in ("start", "end"):
        if record.get(key) is not None and not is_number(record[key]):
            raise ManifestError(f"{where}: {key} is {record[key]!r}; it must be a number of seconds")
    if not isinstance(record.get("source", ""), str):
        raise ManifestError(f"{where}: source is {record['source']!r}; it must be a text")
    classes = record.get("classes")
    if not isinstance(classes, dict) or not classes:
        raise ManifestError(
            f'{where}: no class probabilities; a line must have the field "classes", such as '
            '{"Jump": 0.25, "Run": 0.75}'
        )
    for label, value in classes.items():
        if not is_number(value):
            raise ManifestError(f"{where}: the probability of {label!r} is {value!r}; it must be a number")


# --- CSV --------------------------------------------------------------------------------------------------


def read_csv(name: str) -> SoftTable:
    """Read a CSV table whose columns of numbers are classes.

    Args:
        name: The file. Columns may also be separated by semicolons or tabs.

    Raises:
        ManifestError: The column `path` or every class is missing, or, with the line, a row has another
            length or a text in place of a number.
    """
    text = read_text(name).text
    separator, header, first = _header(name, text)
    meanings = _meanings(name, header)
    rows = _Rows(name, text, separator, header, meanings, first)
    raw = rows.read()
    if not raw:
        raise _empty(name, 0)
    count = len(raw[0])
    labels = [number for number, meaning in enumerate(meanings) if meaning is None]
    probs = np.full((count, len(labels)), np.nan)
    for column, number in enumerate(labels):
        probs[:, column] = raw[number].to_numpy(zero_copy_only=False)
    failed = np.isnan(probs).all(axis=1)
    if "error" in meanings:
        reasons = raw[meanings.index("error")]
        failed |= pc.fill_null(pc.not_equal(reasons, ""), False).to_numpy(zero_copy_only=False)
    if failed.all():
        raise _empty(name, int(failed.sum()))
    columns = {}
    for key in _VIDEO:
        if key in meanings:
            column = raw[meanings.index(key)].filter(pa.array(~failed))
            columns[key] = (
                column if key in ("start", "end") else pc.if_else(pc.equal(column, ""), None, column)
            )
    if "source" in columns and columns["source"].null_count == len(columns["source"]):
        del columns["source"]

    def lines() -> Iterator[int]:
        return (line for (line, _), bad in zip(rows.records(), failed.tolist(), strict=True) if not bad)

    classes = _checked_names(name, [header[number] for number in labels])
    return SoftTable(columns, classes, probs[~failed], lines, int(failed.sum()))


@dataclass(frozen=True)
class _Rows:
    """Rows of a CSV table.

    Args:
        name: The file.
        text: Its text.
        separator: Character between fields.
        header: Names of the columns.
        meanings: What each column is: a name of `_VIDEO` or `_OTHER`, or None for a class.
        first: Number of lines of the header, including empty lines before it.
    """

    name: str
    text: str
    separator: str
    header: Sequence[str]
    meanings: Sequence[str | None]
    first: int

    def read(self) -> list[pa.Array]:
        """Return the columns: text, or float64 for seconds and classes. None if there is no row."""
        stream = io.StringIO(self.text, newline="")
        for _ in range(self.first):
            stream.readline()
        body = self.text[stream.tell() :]
        if not body.strip():
            return []
        try:
            return self._columns(body, pa.float64())
        except pa.ArrowInvalid as error:
            try:  # decimal commas
                columns = self._columns(body, pa.string())
                numbers = [meaning in _NUMBERS for meaning in self.meanings]
                return [
                    to_numbers(column, self.separator) if number else column
                    for column, number in zip(columns, numbers, strict=True)
                ]
            except pa.ArrowInvalid:
                raise self._named_error(error) from error

    def _columns(self, body: str, number: pa.DataType) -> list[pa.Array]:
        """Return the columns: text, or seconds and classes as the type `number`."""
        names = [str(place) for place in range(len(self.header))]
        kinds = [number if meaning in _NUMBERS else pa.string() for meaning in self.meanings]
        table = pyarrow.csv.read_csv(
            io.BytesIO(body.encode()),
            read_options=pyarrow.csv.ReadOptions(column_names=names),
            parse_options=pyarrow.csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict(zip(names, kinds, strict=True)),
                null_values=[""],
                strings_can_be_null=number == pa.string(),
            ),
        )
        return [table[name].combine_chunks() for name in names]

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows with their lines."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self.separator)
        return ((reader.line_num, row) for row in reader if row and reader.line_num > self.first)

    def _named_error(self, error: Exception) -> ManifestError:
        """Find the line of a mistake by reading slowly."""
        for line, row in self.records():
            where = f"{self.name}, line {line}"
            if len(row) != len(self.header):
                return ManifestError(
                    f"{where}: {len(row)} fields for {len(self.header)} columns. If t3d predict was "
                    "interrupted, run the same command again to complete the file"
                )
            for column, meaning, value in zip(self.header, self.meanings, row, strict=True):
                if meaning not in _NUMBERS or is_number(value, self.separator, finite=False):
                    continue
                kind = "a probability" if meaning is None else "a number of seconds"
                hint = "; remove a column that is not a class" if meaning is None else ""
                return ManifestError(f"{where}: {column} is {value!r}, not {kind}{hint}")
        return ManifestError(f"{self.name}: cannot be read as a table ({error})")


def _header(name: str, text: str) -> tuple[str, list[str], int]:
    """Return the separator, the names of the columns, and the number of lines that they end on.

    Raises:
        ManifestError: No column is named `path`.
    """
    first: list[str] = []
    for separator in (",", ";", "\t"):
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        header = [column.strip() for column in next((row for row in reader if row), [])]
        if "path" in header:
            return separator, header, reader.line_num
        first = max(first, header, key=len)
    if not first:
        raise _empty(name, 0)
    raise ManifestError(
        f"{name}: the column 'path' is missing; the first line is {', '.join(map(repr, first[:10]))}; rename "
        "the column of the files to 'path'"
    )


def _meanings(name: str, header: Sequence[str]) -> list[str | None]:
    """Return what each column is: a name of `_VIDEO` or `_OTHER`, or None for a class.

    Raises:
        ManifestError: There is no class, a column is named twice, or the table is of several labels per
            video.
    """
    for layout in _LAYOUTS:
        if tuple(header[: len(layout)]) == layout:
            meanings = [*layout, *[None] * (len(header) - len(layout))]
            break
    else:
        if several := [column for column in header if column in _SEVERAL]:
            raise _several(f"{name} (column {several[0]!r})")
        named = [column if column in (*_VIDEO, *_OTHER) else None for column in header]
        twice = [column for column in named if column is not None and named.count(column) > 1]
        if twice:
            raise ManifestError(f"{name}: the column {twice[0]!r} is named twice; rename one")
        meanings = list(named)
    if None not in meanings:
        raise ManifestError(
            f"{name}: no column of a class; the columns are {', '.join(header)}. Besides `path`, a table "
            "needs one column per class, with its probability for each video"
        )
    return meanings


# --- both -------------------------------------------------------------------------------------------------


def _checked_names(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return class names in Unicode's composed form.

    Raises:
        ManifestError: A name is empty or repeated.
    """
    composed = [normalize("NFC", label).strip() for label in classes]
    if "" in composed:
        raise ManifestError(f"{name}: a column of probabilities has no name; name its class")
    if twice := [label for label in composed if composed.count(label) > 1]:
        raise ManifestError(f"{name}: the class {twice[0]!r} occurs twice; keep one column per class")
    return tuple(composed)


def _shown(classes: Sequence[str] | Mapping[str, object]) -> str:
    names = list(classes)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _empty(name: str, failed: int) -> ManifestError:
    reason = f"none of its {failed} videos could be read" if failed else "the table has no rows"
    return ManifestError(f"{name}: {reason}, so it has no class probabilities")


def _several(where: str) -> ManifestError:
    return ManifestError(
        f"{where}: predictions of several labels per video; soft labels are the probabilities of classes of "
        "which exactly one applies. Predict with a model of one label per video"
    )
