"""UCF101's official lists (Soomro et al. 2012, CRCV-TR-12-01): one file a part of each of three splits.

`trainlist01.txt` has lines `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`, followed by the number of the
class. `testlist01.txt` has the same without the number. Lines end as on Windows. Files of the class
`HandstandPushups` are named `v_HandStandPushups_…`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from t3d.data.listing import in_name_order
from t3d.data.manifest.readers import read_lines
from t3d.data.manifest.sources import default_sources
from t3d.data.official.listed import OfficialList
from t3d.data.official.published import PUBLISHED
from t3d.data.paths import strings
from t3d.errors import ManifestError

_LINE = re.compile(r"(?P<name>[^/\\]+)[/\\](?P<stem>[^/\\]+)\.\w+(?:\s+\d+)?")
_STEM = re.compile(r"v_(?P<name>.+)_g\d+_c\d+", re.IGNORECASE)
_FILE = re.compile(r"(?P<part>train|test)list0?(?P<split>[123])", re.IGNORECASE)


def read_ucf101(split_list: str | os.PathLike[str]) -> OfficialList:
    """Read one of the official lists, for `open_list`.

    Args:
        split_list: Such as `trainlist01.txt`; by this name it is known which published list it should equal.

    Raises:
        ManifestError: With the line: another form, or a file listed twice.
    """
    listed = _read_list(split_list)
    names = [name for name, _ in listed]
    called = _FILE.fullmatch(Path(split_list).stem)
    return OfficialList(
        where=os.fspath(split_list),
        stems=strings([stem for _, stem in listed]),
        names=strings(names),
        sources=default_sources(strings([f"{name}/{stem}.avi" for name, stem in listed])),
        classes=in_name_order(set(names)),
        published=PUBLISHED[f"UCF101 split {called['split']} {called['part'].lower()}"] if called else None,
        class_of=_class_of,
    )


def lists_ucf101(file: Path) -> bool:
    """Say whether a list is UCF101's, by its own name or by those of the files that it lists first.

    Raises:
        ManifestError: It cannot be read.
    """
    if _FILE.fullmatch(file.stem):
        return True
    matches = [_LINE.fullmatch(line) for _, line in read_lines(file)[:20]]
    return bool(matches) and all(match and _STEM.fullmatch(match["stem"]) for match in matches)


def _class_of(stem: str) -> str | None:
    match = _STEM.fullmatch(stem)
    return match["name"] if match else None


def _read_list(file: str | os.PathLike[str]) -> list[tuple[str, str]]:
    entries: dict[str, tuple[str, str]] = {}
    for number, line in read_lines(file):
        match = _LINE.fullmatch(line)
        if not match:
            raise ManifestError(
                f"{os.fspath(file)}, line {number}: {line!r} is not of the form "
                "'Class/v_Class_g01_c01.avi' or 'Class/v_Class_g01_c01.avi 1'"
            )
        stem = match["stem"]
        if stem.casefold() in entries:
            raise ManifestError(
                f"{os.fspath(file)}, line {number}: {stem!r} is listed twice; take one line out"
            )
        entries[stem.casefold()] = (match["name"], stem)
    if not entries:
        raise ManifestError(f"{os.fspath(file)}: the list is empty")
    return list(entries.values())
