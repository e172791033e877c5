"""Divide videos into lists for training, validation and testing, and write them: `t3d data split`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError, at_least
from t3d.io.files import atomic_path

PARTS = ("train", "val", "test")
"""The lists, which are written as `train.csv`, `val.csv` and `test.csv`."""


@dataclass(frozen=True)
class Shares:
    """Shares of the videos in the lists that are held out; all others are in the training list.

    Args:
        val_fraction: Share of the videos in `val.csv`, whole groups at a time. 0 writes no such list.
        test_fraction: Share of the videos in `test.csv`, whole groups at a time. 0 writes no such list.
        seed: Seed of the draw. The same videos and the same seed give the same lists.
    """

    val_fraction: float = 0.15
    test_fraction: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 0 and below 1, such as 0.15")
        if not 0 < self.val_fraction + self.test_fraction < 1:
            raise ConfigError(
                f"val_fraction + test_fraction is {self.val_fraction + self.test_fraction:g}; it must be "
                "between 0 and 1, so that each list can have videos"
            )
        at_least("seed", self.seed, 0)


def split(videos: Manifest, shares: Shares) -> dict[str, Manifest]:
    """Divide videos by group, each class near the shares in every list.

    A group (column `source`) is never divided. With one label per video, a class of a single group is in the
    training list alone, and one of two groups in the training and the test list. If no class has more groups,
    a validation list next to the test list is an error.

    Args:
        videos: The videos, with labels or without.
        shares: How many videos the lists get.

    Returns:
        The lists by name, `train` first; all have all classes, rows in the order of `videos`.

    Raises:
        ManifestError: There are too few groups for the lists.

    Example:
        >>> table = {"path": list("abcd"), "label": [0] * 4, "start": [0.0] * 4, "end": [1.0] * 4}
        >>> videos = Manifest(("Jump",), pa.table(table | {"source": list("abcd")}))
        >>> parts = split(videos, Shares(val_fraction=0.25, test_fraction=0.25))
        >>> {name: len(part) for name, part in parts.items()}
        {'train': 2, 'val': 1, 'test': 1}
    """
    rest, parts = videos, dict[str, Manifest]()
    left = 1.0  # share of the videos that are not in a list yet
    for name, fraction in (("test", shares.test_fraction), ("val", shares.val_fraction)):
        if fraction:
            rest, parts[name] = _held_out(
                rest, fraction / left, shares.seed, name, after_test="test" in parts
            )
            left -= fraction
    parts["train"] = rest
    return {name: parts[name] for name in PARTS if name in parts}


def write_lists(
    parts: Mapping[str, Manifest], folder: str | os.PathLike[str], *, overwrite: bool
) -> list[Path]:
    """Write lists as `NAME.csv` files that every command reads.

    Videos below the folder are written relative to it, so that the folder can be moved with its lists. Other
    videos are written with their whole path.

    Args:
        parts: The lists by name.
        folder: Where to write them; it is created if needed.
        overwrite: Replace the lists of an earlier split. They stay as they are until all new lists are
            written.

    Returns:
        The files.

    Raises:
        ManifestError: A list exists and `overwrite` is false.
    """
    existing = refuse_existing(folder, overwrite=overwrite)
    files = [Path(folder) / f"{name}.csv" for name in parts]
    with ExitStack() as all_or_none:  # a list of this split next to one of another would be a leak
        for file, part in zip(files, parts.values(), strict=True):
            part.write_csv(all_or_none.enter_context(atomic_path(file)))
    for stale in set(existing) - set(files):
        stale.unlink()
    return files


def refuse_existing(folder: str | os.PathLike[str], *, overwrite: bool) -> list[Path]:
    """Return the lists that a folder holds.

    Raises:
        ManifestError: There is one, and `overwrite` is false.
    """
    existing = [path for name in PARTS if (path := Path(folder) / f"{name}.csv").exists()]
    if existing and not overwrite:
        raise ManifestError(
            f"{', '.join(map(str, existing))}: already exists; choose another folder (`out`), or pass "
            "`overwrite`"
        )
    return existing


def missing_classes(parts: Mapping[str, Manifest]) -> dict[str, list[str]]:
    """Return the classes that have no video in a list, by list; lists that have all classes are left out."""
    missing = {
        name: [label for label, count in part.class_counts().items() if not count]
        for name, part in parts.items()
    }
    return {name: labels for name, labels in missing.items() if labels}


def _held_out(
    videos: Manifest, fraction: float, seed: int, name: str, *, after_test: bool
) -> tuple[Manifest, Manifest]:
    """Hold out a share of the videos; classes of a single group stay in the rest."""
    free = np.flatnonzero(~_lone_rows(videos))
    if len(videos.select(free).sources()) < 2:
        if after_test:
            raise ManifestError(
                f"no group is left for the list {name!r}: after the test list, no class has two groups left; "
                f"set {name}_fraction to 0 or add groups"
            )
        raise ManifestError(
            f"no group can be held out for the list {name!r}: there are {len(videos)} videos in "
            f"{len(videos.sources())} groups, and no class has two groups. Groups are never divided. Add "
            "videos of other groups, or name groups more finely (source_pattern, or the column `source`)"
        )
    held = np.zeros(len(videos), np.bool_)
    held[free] = videos.select(free).held_out(fraction, seed=seed)
    return videos.select(~held), videos.select(held)


def _lone_rows(videos: Manifest) -> npt.NDArray[np.bool_]:
    """Return the rows whose group must stay in training, since a class has no other group, bool [N]."""
    kept = np.zeros(len(videos), np.bool_)
    if not videos.label_column.every_class_needed:
        return kept
    _, labels = videos.label_pairs()
    groups = pc.index_in(videos.table["source"], value_set=pa.array(videos.sources())).to_numpy()
    while True:  # a group that stays may leave another of its classes with a single group
        pairs = np.unique(np.stack([labels, groups], axis=1)[~kept], axis=0)
        label, count = np.unique(pairs[:, 0], return_counts=True)
        lone = pairs[np.isin(pairs[:, 0], label[count == 1]), 1]
        if not lone.size:
            return kept
        kept |= np.isin(groups, lone)
