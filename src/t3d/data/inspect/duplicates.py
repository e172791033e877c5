"""Files with the same bytes, and near-duplicates: a leak if they are in two parts of a dataset.

Legend: N files, F = 8 frames of each, spread evenly over it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from t3d.progress import track

if TYPE_CHECKING:
    import torch

NEAR = 0.1
"""Largest share of differing bits at which two videos count as near-duplicates."""
MOST_COMPARED = 200_000
"""Files up to which every pair is compared by default: more take minutes to hours."""
_ROWS = 4096  # files compared with as many others at a time: 64 MB a table
# Flat frames (a black screen) have few bits set and all look the same, so they are not compared. With 16 of
# 64 bits, 97 % of the clips of Hockey Fights, which have black borders, are compared; with 24, 44 %.
_LEAST_BITS = 16  # per frame, on average


@dataclass(frozen=True)
class Duplicates:
    """Files that a data set has more than once.

    Args:
        same: Groups of files with the same bytes, each in name order.
        near: Near-duplicates: pairs of other files, of different sources, with the share of bits that differ,
            nearest first.
        compared: Whether near-duplicates were searched.
    """

    same: tuple[tuple[str, ...], ...]
    near: tuple[tuple[str, str, float], ...]
    compared: bool = True


def find_duplicates(files: pa.Table, *, near: bool | None = None) -> Duplicates:
    """Find files with the same bytes, and near-duplicates of different sources.

    Near-duplicates are found with a perceptual hash (dHash, 64 bits for each of 8 frames, at the same shares
    of the videos' lengths). Another size, format or quality changes few bits. So does another moment of a
    scene that hardly moves: such pairs share a scene, but not always a clip. Every pair is compared, so ten
    times as many files take a hundred times as long.

    Args:
        files: Columns `path`, `source`, `digest`, `looks` (the hashes) of an index, one row per file, N rows.
        near: Whether to search for near-duplicates; None does so up to `MOST_COMPARED` files.
    """
    groups: dict[str, list[str]] = {}
    known = files.filter(pc.is_valid(files["digest"]))
    for path, digest in zip(known["path"].to_pylist(), known["digest"].to_pylist(), strict=True):
        groups.setdefault(digest, []).append(path)
    same = sorted(tuple(sorted(paths)) for paths in groups.values() if len(paths) > 1)
    if near is None:
        near = files.num_rows <= MOST_COMPARED
    if not near:
        return Duplicates(tuple(same), (), compared=False)
    # One file represents each group of identical files.
    heads = hashed(
        known.filter(pc.is_in(known["path"], pa.array(sorted(map(min, groups.values())), pa.string())))
    )
    pairs = [(min(one, two), max(one, two), apart) for one, two, apart in _near(heads)]
    return Duplicates(tuple(same), tuple(sorted(pairs, key=_nearest_first)))


def near_pairs(left: pa.Table, right: pa.Table) -> list[tuple[str, str, float]]:
    """Find near-duplicates between two lists of files, of different sources and with different bytes.

    Args:
        left: Columns `path`, `source`, `digest`, `looks`, one row per file.
        right: The other files.

    Returns:
        Pairs of files, the first of `left`, with the share of bits that differ, nearest first.
    """
    return sorted(_near(hashed(left), hashed(right)), key=_nearest_first)


def hashed(files: pa.Table) -> pa.Table:
    """Select the files whose perceptual hash tells something: a flat frame (a black screen) has few bits set.

    Args:
        files: Column `looks`, the hashes of an index.
    """
    useful = [
        bool(values) and sum(value.bit_count() for value in values) >= _LEAST_BITS * len(values)
        for values in files["looks"].to_pylist()
    ]
    return files.filter(pa.array(useful, pa.bool_()))


def uncompared(files: pa.Table) -> dict[str, int]:
    """Count the files without a useful perceptual hash, by reason.

    Args:
        files: Columns `looks` and `error` of an index; both are null where the index does not have the file.
    """
    with_hash = sum(map(bool, files["looks"].to_pylist()))
    unreadable = pc.sum(pc.is_valid(files["error"])).as_py() or 0
    counts = {
        "unreadable": unreadable,
        "not in the index": len(files) - with_hash - unreadable,
        "with hardly any detail": with_hash - hashed(files).num_rows,
    }
    return {reason: count for reason, count in counts.items() if count}


def _nearest_first(pair: tuple[str, str, float]) -> tuple[float, tuple[str, str]]:
    return pair[2], pair[:2]


def _bits(files: pa.Table) -> torch.Tensor:
    """Return the bits of the hashes as -1 and 1, float32 [N, 64 F]."""
    import torch  # not above: options are read, and help is shown, without torch

    hashes = files["looks"].to_pylist()
    if not hashes:
        return torch.empty(0, 0)
    packed = np.array(hashes, dtype=">u8").view(np.uint8).reshape(len(hashes), -1)
    return torch.from_numpy(np.unpackbits(packed, axis=1)).float().mul_(2).sub_(1)


def _near(left: pa.Table, right: pa.Table | None = None) -> Iterator[tuple[str, str, float]]:
    """Yield the near-duplicates between two tables of files, or within one, each pair once."""
    import torch

    one, two = _Files(left), _Files(left if right is None else right)
    width = one.bits.shape[1]
    blocks = list(product(range(0, len(one.paths), _ROWS), range(0, len(two.paths), _ROWS)))
    for first, second in track(blocks, "Searching for near-duplicates", unit="blocks"):
        if right is None and second < first:
            continue
        alike = one.bits[first : first + _ROWS] @ two.bits[second : second + _ROWS].T
        apart = (width - alike) / (2 * width)  # alike = width - 2 · differing bits
        for row, column in torch.nonzero(apart <= NEAR).tolist():
            a, b = first + row, second + column
            if right is None and b <= a:
                continue
            different = one.paths[a] != two.paths[b] and one.digests[a] != two.digests[b]
            if different and one.sources[a] != two.sources[b]:
                yield one.paths[a], two.paths[b], round(float(apart[row, column]), 4)


class _Files:
    """The columns of a table of files, and the bits of their hashes."""

    def __init__(self, files: pa.Table) -> None:
        self.paths, self.sources, self.digests = (
            files[name].to_pylist() for name in ("path", "source", "digest")
        )
        self.bits = _bits(files)
