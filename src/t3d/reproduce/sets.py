"""Data sets of tables: find the training and test videos of each split."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from t3d.data.catalog import open_manifest, refuse_unused_root
from t3d.data.manifest.manifest import Manifest
from t3d.data.official.listed import open_list
from t3d.data.official.published import PUBLISHED
from t3d.data.official.read import read_official
from t3d.errors import ConfigError, ManifestError
from t3d.recipes import read_recipe
from t3d.reproduce.config import SETS, GivenSet

_HELD_OUT = 0.3  # share of videos without official splits, close to the test share of UCF101 and HMDB51
_DEPTHS = ("", "*/", "*/*/", "*/*/*/")
_YOUTUBE8M_CLIPS = 500_000  # the paper: "about 500,000"


@dataclass(frozen=True)
class Part:
    """Videos of one part of one split.

    Args:
        name: List, table or folder of the videos.
        count: Number of videos.
        root: Folder that relative paths in a list start from.
        index: Index of the files.
        missing: Number of listed videos that are missing.
        fingerprint: Digest of the videos and their labels, the same in any folder.
        drawn: Videos drawn by this module, to be written to `name` before use.
    """

    name: str
    count: int
    root: str | None = None
    index: str | None = None
    missing: int = 0
    fingerprint: str = ""
    drawn: Manifest | None = field(default=None, compare=False)

    def write(self) -> None:
        """Write the drawn videos to their list."""
        if self.drawn is not None and not Path(self.name).exists():
            self.drawn.write_csv(self.name)


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Args:
        number: Number of the split, from 1.
        train: Training videos.
        test: Test videos. None for YouTube-8M, which has no test.
    """

    number: int
    train: Part
    test: Part | None


def published_splits(on: str, numbers: tuple[int, ...], *, small: bool = False) -> tuple[Split, ...]:
    """Return splits with the published counts, to plan a data set without its videos.

    Args:
        on: Name from `SETS`.
        numbers: Numbers of the splits.
        small: Limit the counts to those of the small scale.

    Example:
        >>> published_splits("ucf101", (1,))[0].train.count
        9537
    """
    most = _most(small)
    if on == "youtube8m":
        return (
            Split(1, Part("YouTube-8M", min(_YOUTUBE8M_CLIPS, most.get("pool", _YOUTUBE8M_CLIPS))), None),
        )
    names = {
        number: (f"{SETS[on]} train", f"{SETS[on]} val")
        if on == "kinetics"
        else (f"{SETS[on]} split {number} train", f"{SETS[on]} split {number} test")
        for number in numbers
    }
    splits = []
    for number, pair in names.items():
        counts = [PUBLISHED[name].videos[0] for name in pair]
        few = [
            min(count, most.get(word, count)) for word, count in zip(("train", "test"), counts, strict=True)
        ]
        splits.append(Split(number, Part(pair[0], few[0]), Part(pair[1], few[1])))
    return tuple(splits)


def _most(small: bool) -> Mapping[str, int]:
    """Return the approximate number of videos per part. A part without an entry is not limited."""
    return cast(Mapping[str, int], read_recipe("paper/small")["videos"]) if small else {}


def open_set(
    on: str, given: GivenSet, numbers: tuple[int, ...], *, out: Path, small: bool, partial: bool
) -> tuple[Split, ...]:
    """Find the training and test videos of a data set, and compare them with the published counts.

    Args:
        on: Name from `SETS`.
        given: Location of the data set.
        numbers: Numbers of the splits.
        out: Folder for splits without official lists.
        small: Accept missing splits, partial lists, and videos without official lists, whose test videos are
            whole held-out sources. `recipes/paper/small.yaml` limits the number of videos per part.
        partial: Accept official lists with missing videos.

    Returns:
        Splits in order. YouTube-8M has one split, without a test.

    Raises:
        ConfigError: The videos are not those of the paper: no official lists, or a split is missing.
        ManifestError: A list or the videos cannot be read, or videos are missing.
    """
    few = _Few(on, out, _most(small))
    if on == "youtube8m":
        manifest = _open_pool(given)
        return (Split(1, few.of(_part(given.path, manifest, given), manifest, 1, "pool"), None),)
    lists = _official_lists(on, given.path)
    if not lists:
        if not small:
            raise ConfigError(
                f"data.{on} {given.path}: no official lists of {SETS[on]} ({_LOOKED_FOR[on]}) are in this "
                "folder, and the paper reports accuracies on the official splits; download them with t3d "
                "prepare download (docs/project/reproduce.md), or set `scale` to small, which splits any "
                "videos"
            )
        return tuple(_drawn(on, given, number, few) for number in numbers)
    absent = [number for number in numbers if number not in lists]
    if absent and (not small or len(absent) == len(numbers)):
        raise ConfigError(
            f"data.{on} {given.path}: the lists of split {', '.join(map(str, absent))} are missing "
            f"({_LOOKED_FOR[on]}); the table needs split {', '.join(map(str, numbers))}"
        )
    splits = []
    for number in numbers:
        if number in lists:
            parts = []
            for word, name in zip(("train", "test"), lists[number], strict=True):
                part, manifest = _listed(on, name, given, lenient=small or partial)
                parts.append(few.of(part, manifest, number, word))
            splits.append(Split(number, *parts))
    return tuple(splits)


_LOOKED_FOR = {
    "ucf101": "trainlist01.txt and testlist01.txt, and so on for splits 2 and 3",
    "hmdb51": "CLASS_test_split1.txt, and so on",
    "kinetics": "train.csv and val.csv",
}


def _official_lists(on: str, path: str) -> dict[int, tuple[str, str]]:
    """Return the names of the training and test list per split, searched in a folder and its subfolders."""
    folder = Path(path)
    if not folder.is_dir():
        return {}
    lists: dict[int, tuple[str, str]] = {}
    for number in (1, 2, 3):
        if on == "ucf101":
            train = _first(folder, f"trainlist0{number}.txt")
            test = _first(folder, f"testlist0{number}.txt")
        elif on == "hmdb51":
            first = _first(folder, f"*_test_split{number}.txt")
            train, test = (first and f"{Path(first).parent}:{part}{number}" for part in ("train", "test"))
        else:
            train, test = (_first(folder, name) if number == 1 else None for name in ("train.csv", "val.csv"))
        if train and test:
            lists[number] = (train, test)
    return lists


def _first(folder: Path, pattern: str) -> str | None:
    """Return the matching file at the lowest depth in a folder."""
    for depth in _DEPTHS:
        if files := sorted(folder.glob(depth + pattern)):
            return str(files[0])
    return None


def _listed(on: str, name: str, given: GivenSet, *, lenient: bool) -> tuple[Part, Manifest]:
    root = given.root or given.path
    listed = read_official(name)
    if listed is None:
        raise ManifestError(f"{name}: not a list in the format of {SETS[on]}")
    with _quiet():  # missing videos are reported once, below or in the result
        manifest = open_list(listed, root)
    _refuse_other(on, name, manifest)
    part = _part(name, manifest, given, root=root)
    difference = listed.difference() if listed.published else None
    if not lenient and (part.missing or difference):
        absent = f"{part.missing:,} of {part.missing + part.count:,} listed videos are not in {root}"
        raise ManifestError(
            f"{name}: {difference or absent}, so the accuracy could not be compared with the paper's; "
            "add them, or set `partial`, which reports the number of missing videos in the result"
        )
    return part, manifest


@contextmanager
def _quiet() -> Iterator[None]:
    log = logging.getLogger("t3d.data.official.listed")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@dataclass(frozen=True)
class _Few:
    """Random draw of videos from a part that has too many for the small scale.

    Args:
        on: Data set.
        out: Folder for the lists.
        most: See `_most`.
    """

    on: str
    out: Path
    most: Mapping[str, int]

    def of(self, part: Part, manifest: Manifest, number: int, word: str) -> Part:
        """Draw whole sources from each class, at least one."""
        most = self.most.get(word, len(manifest))
        if len(manifest) <= most:
            return part
        drawn = self.named(manifest.label_subset(most / len(manifest), seed=number), number, word)
        index = part.name if part.name.lower().endswith(".parquet") else part.index
        return replace(drawn, index=index, missing=part.missing)

    def named(self, manifest: Manifest, number: int, word: str) -> Part:
        """Return drawn videos as a part, with a list whose name depends on its contents."""
        mark = fingerprint(manifest)
        file = self.out / "splits" / f"{self.on}-{number}-{word}-{mark[:8]}.csv"
        return Part(str(file), len(manifest), fingerprint=mark, drawn=manifest)


def _drawn(on: str, given: GivenSet, number: int, few: _Few) -> Split:
    """Split videos without official splits by source. Each number is another draw."""
    full = open_manifest(given.path, root=given.root)
    _refuse_other(on, given.path, full)
    index = given.path if given.path.lower().endswith(".parquet") else given.index
    parts = []
    for word, manifest in zip(("train", "test"), full.split_by_source(_HELD_OUT, seed=number), strict=True):
        part = replace(few.named(manifest, number, word), index=index)
        parts.append(few.of(part, manifest, number, word))
    return Split(number, *parts)


def _open_pool(given: GivenSet) -> Manifest:
    refuse_unused_root(given.root, given.path)
    if Path(given.path).is_dir():
        return Manifest.from_files([given.path])
    return open_manifest(given.path, root=given.root).without_labels()


def _part(name: str, manifest: Manifest, given: GivenSet, *, root: str | None = None) -> Part:
    return Part(
        name,
        len(manifest),
        root or given.root,
        given.index,
        sum(manifest.missing.values()),
        fingerprint(manifest),
    )


def _refuse_other(on: str, name: str, manifest: Manifest) -> None:
    if manifest.targets != "single" or not manifest.labeled.all():
        raise ManifestError(
            f"data.{on} {name}: every video needs one label (one folder per class, or a column `label`)"
        )


def fingerprint(manifest: Manifest) -> str:
    """Return a digest of the videos and labels of a manifest, 32 hexadecimal digits.

    It does not depend on the folder of the files.
    """
    digest = hashlib.blake2b(digest_size=16)
    names = manifest.label_names().to_pylist()
    columns = (manifest.table[name].to_pylist() for name in ("path", "start", "end", "source"))
    for label, path, *rest in zip(names, *columns, strict=True):
        digest.update(repr((label, Path(path).name, *rest)).encode())
    return digest.hexdigest()
