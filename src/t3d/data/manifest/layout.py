"""Form of a list: its separator, its columns, and whether its first line names them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from t3d.data.listing import VIDEO_ENDINGS, is_video
from t3d.data.manifest.column_names import Columns, has_needed, name_columns
from t3d.data.manifest.text_file import TextFile
from t3d.errors import ManifestError
from t3d.io.files import is_url

SEPARATORS = {
    ",": "commas",
    "\t": "tabs",
    ";": "semicolons",
    "|": "vertical bars",
    " ": "spaces",
}
_SAMPLE = 100  # rows that say what the columns of a list without names are
_HEAD = 1 << 20  # characters that these rows are taken from
_FEWEST_FRAMES = 8  # smaller numbers of frames could be class numbers
_ENDINGS = "|".join(re.escape(ending) for ending in sorted(VIDEO_ENDINGS))
_PATH_FIRST = re.compile(rf"(.*?(?:{_ENDINGS}))(?: +([^,;|\t].*))?", re.IGNORECASE)
_TWO_PATHS = re.compile(rf"(?:{_ENDINGS})[,;|\t]", re.IGNORECASE)
_NUMBERS_LAST = re.compile(r"([^,;|\t]*?\S)((?: +-?\d+)+)")
_INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True)
class Layout:
    """Form of a table.

    Args:
        separator: What separates its columns; a space separates the path from what follows.
        names: Name of each column, see `Named`.
        header: Whether the first line names the columns.
        first: Number of the first line after the names, from 1.
        renamed: See `Named`.
        extra: See `Named`.
    """

    separator: str
    names: tuple[str, ...]
    header: bool
    first: int
    renamed: tuple[tuple[str, str], ...] = ()
    extra: tuple[str, ...] = ()


def find_layout(file: TextFile, allowed: Columns) -> Layout:
    """Find out how a list is written, if it can be read in one way only.

    Args:
        file: The list.
        allowed: The columns that it may have.

    Raises:
        ManifestError: It is empty, or it is unclear which column holds what; the message says what was seen,
            and what to write.
    """
    name, first = file.name, 1
    declared = re.match(r"sep=(.)\r?\n", file.text)  # a line that Excel writes and reads
    separators: Sequence[str] = [*SEPARATORS]
    if declared and declared[1] in SEPARATORS:
        separators, first = [declared[1]], 2
    samples = {sep: rows for sep in separators if (rows := _sample(file.text, sep, first))}
    if not samples:
        raise ManifestError(
            f"{name}: the table is empty; its first line must name the columns: {', '.join(allowed.known)}"
        )
    named = {sep: rows for sep, rows in samples.items() if has_needed(rows[0][1], allowed)}
    if named:
        sep = _most_columns(name, {sep: len(rows[0][1]) for sep, rows in named.items()})
        (line, header), *rest = named[sep]
        meaning = name_columns(
            f"{name}, line {line}",
            [field.strip() or placeholder(at) for at, field in enumerate(header)],
            [row for _, row in rest],
            allowed,
        )
        return Layout(sep, meaning.names, True, line + 1, tuple(meaning.renamed.items()), meaning.extra)
    if allowed.needed == "path":
        unnamed = {sep: names for sep, rows in samples.items() if (names := _unnamed(sep, rows))}
        if unnamed:
            sep = _most_columns(name, {sep: len(names) for sep, names in unnamed.items()})
            extra = tuple(name for name in unnamed[sep] if name not in allowed.known)
            return Layout(sep, unnamed[sep], False, first, (), extra)
    raise _unclear(name, samples, allowed)


def records(text: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table with their line numbers, without rows in which nothing is written.

    Raises:
        csv.Error: A row is not CSV.
    """
    count = len(layout.names)
    for line, row in _rows(text, layout.separator, layout.first):
        if layout.separator == " " and row[0]:
            split = _split(row[0]) if layout.names[0] == "path" else None
            row = [split[0], *_following(split[1], count - 1)] if split else row[0].split()
        while len(row) > count and not row[-1].strip():
            row.pop()
        if len(row) < count and all(map(_is_placeholder, layout.names[len(row) :])):
            row = [*row, *[""] * (count - len(row))]
        if any(field and not field.isspace() for field in row):
            yield line, row


def placeholder(at: int) -> str:
    """Return the name of a column that has none."""
    return f"column {at + 1}"


def _is_placeholder(name: str) -> bool:
    return re.fullmatch(r"column \d+", name) is not None


def _rows(text: str, separator: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields from a line on; for a space, the line as one field."""
    stream = io.StringIO(text, newline="")
    for _ in range(first - 1):
        stream.readline()
    if separator == " ":
        for number, line in enumerate(stream, first):
            yield number, [line.strip()]
        return
    reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
    for row in reader:
        yield first - 1 + reader.line_num, row


def _sample(text: str, separator: str, first: int) -> list[tuple[int, list[str]]]:
    """Return the first rows that are not blank; none where they cannot be read in this way."""
    head = text[:_HEAD]
    rows = (row for row in _rows(head, separator, first) if any(field.strip() for field in row[1]))
    try:
        sample = list(islice(rows, _SAMPLE + 1))
    except csv.Error:
        return []
    if len(sample) <= _SAMPLE and len(head) < len(text):
        sample = sample[:-1]  # its end is cut off
    if separator == " " and sample:
        line, header = sample[0]
        names = not _split(header[0]) and not re.search(r"[,;|\t]", header[0])
        sample[0] = line, header[0].split() if names else header
    return sample


def _most_columns(name: str, widths: dict[str, int]) -> str:
    """Return the separator that gives more columns than any other; the first if all give one."""
    widest = [sep for sep in widths if widths[sep] == max(widths.values())]
    if len(widest) > 1 and widths[widest[0]] > 1:
        several = " or ".join(SEPARATORS[sep] for sep in widest)
        raise ManifestError(
            f"{name}: its columns may be separated by {several}; put quotation marks around fields that "
            "contain a separator"
        )
    return widest[0]


# --- lists without names of columns ------------------------------------------------------------------------


def _unnamed(separator: str, rows: list[tuple[int, list[str]]]) -> tuple[str, ...] | None:
    """Name the columns of a list whose first line is a row; None where they are not clear."""
    fields = [row for _, row in rows]
    if separator == " ":
        split = [_split(row[0]) for row in fields]
        if any(len(row) > 1 for row in fields) or any(each is None for each in split):
            return None
        return _named_rest([each[1] for each in split if each is not None])
    if len({len(row) for row in fields}) > 1:
        return None
    columns = [[field.strip() for field in column] for column in zip(*fields, strict=True)]
    while len(columns) > 1 and not any(columns[-1]):
        columns.pop()  # separators at the ends of the lines
    paths = [at for at, column in enumerate(columns) if all(map(_is_path, column))]
    if len(paths) != 1:
        return None
    others = columns[: paths[0]] + columns[paths[0] + 1 :]
    if not others:
        names = ["path"]
    elif len(others) == 1:
        names = ["label"]
        names.insert(paths[0], "path")
    elif len(others) == 2 and paths[0] == 0 and _counts(others[0]) and all(map(_is_integer, others[1])):
        names = ["path", "frames", "label"]
    else:
        return None
    return (*names, *(placeholder(at) for at in range(len(names), len(fields[0]))))


def _named_rest(rest: list[str]) -> tuple[str, ...] | None:
    """Name what follows the paths of lines separated by spaces; None where it is not clear."""
    if not any(rest):
        return ("path",)
    words = [each.split() for each in rest]
    if not all(words):
        return None
    numbers = all(_is_integer(word) for each in words for word in each)
    widths = {len(each) for each in words}
    if widths == {1}:
        return ("path", "label")
    if numbers:
        frames = widths == {2} and _counts([each[0] for each in words])
        return ("path", "frames", "label") if frames else None
    if any(_is_integer(each[0]) and len(each) > 1 for each in words):
        return None
    return ("path", "label")  # class names of several words


def _split(line: str) -> tuple[str, str] | None:
    """Split a line into a path and what follows it; None if this is possible in several ways, or in none.

    Example:
        >>> [_split(line) for line in ("my clips/a.mp4 12 3", "frames/a 12 3", "a.mp4 b.mp4", "path label")]
        [('my clips/a.mp4', '12 3'), ('frames/a', '12 3'), None, None]
    """
    if line.startswith('"'):
        quoted, closed, rest = line[1:].partition('"')
        return (quoted, rest.strip()) if closed and rest[:1] in ("", " ") else None
    path, _, last = line.rpartition(" ")
    if _is_integer(last) and " " not in path and is_video(path):
        return path, last
    if match := _PATH_FIRST.fullmatch(line):
        rest = (match[2] or "").strip()
        return (
            None
            if _TWO_PATHS.search(line) or _PATH_FIRST.fullmatch(rest) or _PATH_FIRST.match(f"{rest} ")
            else (match[1], rest)
        )
    match = _NUMBERS_LAST.fullmatch(line)
    if match and not _is_integer(match[1]):
        return match[1], match[2].strip()
    return None


def _following(rest: str, columns: int) -> list[str]:
    return rest.split(None, columns - 1) if columns > 1 else [rest] if columns else []


def _is_path(value: str) -> bool:
    return (is_video(value) or is_url(value)) and not _TWO_PATHS.search(value)


def _is_integer(value: str) -> bool:
    return _INTEGER.fullmatch(value) is not None


def _counts(column: list[str]) -> bool:
    """Return whether numbers count frames, and cannot be those of classes."""
    return all(_is_integer(value) and int(value) >= _FEWEST_FRAMES for value in column)


def _unclear(name: str, samples: dict[str, list[tuple[int, list[str]]]], allowed: Columns) -> ManifestError:
    """Say what was seen in a list that cannot be understood, and what to write."""
    sep = max(samples, key=lambda each: len(samples[each][0][1]))
    line, fields = samples[sep][0]
    split = _split(fields[0]) if len(fields) == 1 else None
    if split:
        sep, fields = " ", [split[0], *split[1].split()]
    shown = ", ".join(repr(field.strip()) for field in fields[:6]) + (", …" if len(fields) > 6 else "")
    by = f", separated by {SEPARATORS[sep]}" if len(fields) > 1 else ""
    seen = f"{name}, line {line}: {len(fields)} {'column' if len(fields) == 1 else 'columns'}{by}: {shown}"
    if allowed.needed != "path":
        return ManifestError(
            f"{name}, line {line}: the column {allowed.needed!r} is missing; there are {shown}{by}"
        )
    if split or any(_is_path(field.strip()) for field in fields):
        return ManifestError(
            f"{seen}. This line is a row, and it is unclear what its columns are; name them in a first line, "
            "such as path,label or path,start,end,label (path,labels for several labels with | between them)"
        )
    second = samples[sep][1][1] if len(samples[sep]) > 1 else []
    paths = [at for at, field in enumerate(second[: len(fields)]) if _is_path(field.strip())]
    hint = "name the column of the files 'path'"
    if len(paths) == 1:
        hint = f"rename {fields[paths[0]].strip()!r} to 'path'"
        if len(fields) == 2:
            hint += f" and {fields[1 - paths[0]].strip()!r} to 'label'"
    return ManifestError(f"{seen}; the column 'path' is missing: {hint}. Known: {', '.join(allowed.known)}")
