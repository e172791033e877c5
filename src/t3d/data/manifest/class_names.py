"""Names of classes that a list gives by number, from a class file that is given or is next to the list."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.manifest.text_file import read_text
from t3d.errors import ManifestError

_FILE = re.compile(
    r"(.*[_-])?(class(es|ind|[_-]?(names?|list|labels?|ids?|map))|labels?|(class|label)[_-]?(names?|map)|categor(y|ies))"
    r"([_-].*)?\.(txt|csv|json)",
    re.IGNORECASE,
)
_LARGEST = 4 << 20  # bytes of a class file


@dataclass(frozen=True)
class Naming:
    """Class names of a column of numbers.

    Args:
        names: The names, or the column as it was, string [N].
        remark: What was done, for the user.
    """

    names: pa.Array
    remark: str


def class_names(file: Path, labels: pa.Array) -> Naming | None:
    """Name the classes of a list by the class file in its folder.

    Args:
        file: The list.
        labels: Its labels, null where there is none, string [N].

    Returns:
        None if labels are not numbers, or if there is no class file. Numbers stay the names of classes where
        no class file, or more than one, gives each of them a name.
    """
    given = pc.unique(labels.drop_null())
    if not len(given) or not pc.all(pc.match_substring_regex(given, r"^\d{1,7}$")).as_py():
        return None
    numbers = [int(text) for text in given.to_pylist()]
    named, refused = {}, []
    for candidate in sorted(file.absolute().parent.iterdir()):
        if not _FILE.fullmatch(candidate.name) or candidate.name == file.name or not candidate.is_file():
            continue
        try:
            names, numbered = read_class_file(candidate)
        except (ManifestError, OSError):
            continue
        if set(given.to_pylist()) <= set(names.values()):
            return None  # the classes have numbers for names
        if not numbered and 0 not in numbers:
            refused.append(f"{candidate.name} may count from 0 or 1, and class 0 does not occur")
        elif set(numbers) <= set(names):
            named[candidate.name] = names
        else:
            worst = max(set(numbers) - set(names))
            refused.append(f"{candidate.name} names {len(names)} classes, and has none for number {worst}")
    distinct = {tuple(names[number] for number in numbers) for names in named.values()}
    if len(distinct) != 1:
        why = f"{' and '.join(named)} give different names" if distinct else "; ".join(refused)
        return Naming(labels, f"class numbers are used as class names ({why})") if why else None
    (name, names), *_ = named.items()
    wanted = pc.index_in(labels, value_set=given)
    table = pa.array([names[number] for number in numbers], pa.string())
    least = min(numbers)
    return Naming(table.take(wanted), f"class numbers are named by {name} ({least} is {names[least]!r})")


def name_classes(classes: Sequence[str], file: str | os.PathLike[str], *, list_name: str) -> dict[str, str]:
    """Return the name of each class of a list by a class file that the user gave.

    Args:
        classes: The classes of the list: numbers, or names of the file.
        file: The class file, see `read_class_file`. Names without numbers count from 0.
        list_name: The list, for messages.

    Returns:
        The name of each class; a class that already has one of the names keeps it.

    Raises:
        ManifestError: The file cannot be read as a class file, or has no name for a class.
    """
    path = Path(file)
    if path.absolute() == Path(list_name).absolute():
        raise ManifestError(
            f"{list_name}: `classes` is the list itself; give the file that names the classes"
        )
    try:
        names, numbered = read_class_file(path)
    except OSError as error:
        raise ManifestError(f"{path}: the class file cannot be read ({error.strerror})") from error
    if set(classes) <= set(names.values()):
        return {name: name for name in classes}
    other = [name for name in classes if not re.fullmatch(r"\d{1,7}", name)]
    if other:
        raise ManifestError(
            f"{list_name}: the class {other[0]!r} is neither a number nor a name in the class file {path}; "
            "leave out `classes`, or give the file that fits the list"
        )
    if unnamed := [name for name in classes if int(name) not in names]:
        counted = "" if numbered else "; its lines have no numbers, so they count from 0"
        known = f"classes {min(names)} to {max(names)}" if len(names) > 1 else f"class {min(names)} only"
        raise ManifestError(
            f"{path}: the class file names {known}, and {list_name} has the class {unnamed[0]}{counted}"
        )
    return {name: names[int(name)] for name in classes}


def read_class_file(file: Path) -> tuple[dict[int, str], bool]:
    """Read the names of classes by their numbers.

    Lines are `NAME` (numbered from 0), `NUMBER NAME` or `NAME NUMBER`, also with commas, tabs and a line of
    column names; JSON is a list of names, or an object from names to numbers or from numbers to names.

    Returns:
        The names by number, and whether the file gives the numbers itself.

    Raises:
        ManifestError: It is in no such form.
        OSError: It cannot be looked at.
    """
    if file.stat().st_size > _LARGEST:
        raise ManifestError(f"{file}: is too large for a class file")
    text = read_text(file).text
    if file.suffix.lower() == ".json":
        try:
            return _of_json(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{file}: is not a class file ({error})") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for start in (0, 1):  # with a line of column names
        pairs = [_pair(line) for line in lines[start:]]
        if pairs and all(pairs):
            numbered = dict(pair for pair in pairs if pair)
            if len(numbered) == len(pairs):
                return numbered, True
    if any("," in line or "\t" in line for line in lines) or len(set(lines)) < len(lines):
        raise ManifestError(f"{file}: is not a class file")
    return dict(enumerate(lines)), False


def _pair(line: str) -> tuple[int, str] | None:
    """Return number and name of a line; None if it has no number, or more than one."""
    fields = next(csv.reader([line.replace("\t", ",")])) if re.search(r"[,\t]", line) else []
    if not fields:
        match = re.fullmatch(r"(\d+)\s+(\D.*)|(.*\D)\s+(\d+)", line)
        if not match:
            return None
        fields = [match[1], match[2]] if match[1] else [match[4], match[3]]
    fields = [field.strip() for field in fields]
    numbers = [field for field in fields if field.isdecimal()]
    names = [field for field in fields if not field.isdecimal()]
    if len(numbers) != 1 or not names or not names[-1]:
        return None
    return int(numbers[0]), names[-1]


def _of_json(value: object) -> tuple[dict[int, str], bool]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict(enumerate(map(str, value))), False
    if not isinstance(value, Mapping):
        raise ValueError("neither a list of names nor an object")
    pairs = [(str(one).strip('"'), str(two).strip('"')) for one, two in value.items()]
    if all(number.isdecimal() for number, _ in pairs):
        return {int(number): name for number, name in pairs}, True
    if all(number.isdecimal() for _, number in pairs) and len({number for _, number in pairs}) == len(pairs):
        return {int(number): name for name, number in pairs}, True
    raise ValueError("its names have no numbers")
