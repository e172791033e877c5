"""HMDB51's official split files (Kuehne et al. 2011): one file a class and split, `CLASS_test_split1.txt`.

Its lines are `April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1`: a clip, and what the split does with it (0
nothing, 1 training, 2 testing). Every file lists all clips of its class. A clip's name has the film or web
video it was cut from, its class, and notes of the annotators. These are: visible part of the body (head,
upper, full, lower), camera motion (nm, cm), number of people, camera's side (front, back, left, right),
quality (bad, medium, good), number.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, cast

from t3d.data.listing import absolute, in_name_order, scan
from t3d.data.manifest.readers import read_lines
from t3d.data.manifest.sources import default_sources
from t3d.data.official.listed import OfficialList
from t3d.data.official.published import PUBLISHED
from t3d.data.paths import strings
from t3d.errors import ConfigError, ManifestError, did_you_mean

Part = Literal["train", "test"]

_FILE = re.compile(r"(?P<name>.+)_test_split(?P<split>\d+)\.txt", re.IGNORECASE)
_LINE = re.compile(r"(?P<stem>[^/\\]+)\.\w+\s+(?P<code>\d+)")
_CODES = {"train": 1, "test": 2}
_NAMED = re.compile(r"(?P<folder>.+):(?P<word>\w*)", re.DOTALL)
_WORDS = {f"{part}{split}": (part, split) for part in _CODES for split in (1, 2, 3)}


def read_hmdb51(splits: str | os.PathLike[str], *, split: int, part: Part) -> OfficialList:
    """Read one part of one split, for `open_list`.

    Args:
        splits: The folder of the split files, `testTrainMulti_7030_splits`.
        split: 1, 2 or 3.
        part: `train` or `test`.

    Raises:
        ConfigError: There is no such split or part.
        ManifestError: No file of this split; with the line: another form, an unknown code, or a clip listed
            twice.
    """
    if split not in (1, 2, 3) or part not in _CODES:
        raise ConfigError(
            f"HMDB51 has the splits 1, 2, 3 with the parts train and test; got {split}, {part!r}"
        )
    files = {match["name"]: file for match, file in _split_files(splits) if int(match["split"]) == split}
    if not files:
        raise ManifestError(
            f"{os.fspath(splits)}: no file CLASS_test_split{split}.txt in it; "
            "give the folder of HMDB51's split files, testTrainMulti_7030_splits"
        )
    classes = in_name_order(set(files))
    class_of: dict[str, str] = {}
    listed: list[tuple[str, str]] = []
    for name in classes:
        for number, line in read_lines(files[name]):
            match = _LINE.fullmatch(line)
            if not match or int(match["code"]) > 2:
                raise ManifestError(
                    f"{files[name]}, line {number}: {line!r} is not of the form 'NAME.avi CODE' "
                    "with the code 0 (not used), 1 (training) or 2 (testing)"
                )
            stem = match["stem"]
            if stem.casefold() in class_of:
                raise ManifestError(
                    f"{files[name]}, line {number}: {stem!r} is listed twice, as "
                    f"{class_of[stem.casefold()]!r} and {name!r}; take one line out"
                )
            class_of[stem.casefold()] = name
            if int(match["code"]) == _CODES[part]:
                listed.append((name, stem))
    if not listed:
        raise ManifestError(
            f"{os.fspath(splits)}: split {split} lists no clip with code {_CODES[part]} ({part})"
        )
    return OfficialList(
        where=f"{os.fspath(splits)}:{part}{split}",
        stems=strings([stem for _, stem in listed]),
        names=strings([name for name, _ in listed]),
        sources=default_sources(strings([f"{name}/{stem}.avi" for name, stem in listed])),
        classes=classes,
        published=PUBLISHED[f"HMDB51 split {split} {part}"],
        class_of=class_of.get,
    )


def has_split_files(folder: str | os.PathLike[str]) -> bool:
    """Return whether HMDB51's split files are in a folder."""
    return bool(_split_files(folder))


def named_part(name: str) -> tuple[str, Part, int] | None:
    """Read what a user names on the command line: `FOLDER:train1` is split 1's training part.

    Args:
        name: A name that may or may not be of this form.

    Returns:
        The folder, the part and the split; None if it is something else.

    Raises:
        ManifestError: It is the folder of HMDB51's split files, or one of them, without a part of a split.

    Example:
        >>> named_part("videos") is None
        True
    """
    path, match = Path(name), _NAMED.fullmatch(name)
    if path.is_dir() and has_split_files(path):
        folder, word = name, ""
    elif path.is_file() and _FILE.fullmatch(path.name):
        folder, word = str(path.parent), ""
    elif (
        match
        and Path(match["folder"]).is_dir()
        and (match["word"] in _WORDS or has_split_files(match["folder"]))
    ):
        folder, word = match.groups()
    else:
        return None
    if word not in _WORDS:
        raise ManifestError(
            f"{name}: HMDB51's split files are read together; name their folder and a part of a split, "
            f"{folder}:train1; {did_you_mean(word, _WORDS)}"
        )
    part, split = _WORDS[word]
    return folder, cast(Part, part), split


def _split_files(folder: str | os.PathLike[str]) -> list[tuple[re.Match[str], str]]:
    matches = ((_FILE.fullmatch(entry.name), entry.path) for entry in scan(absolute(folder)))
    return [(match, path) for match, path in matches if match]
