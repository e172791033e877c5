"""Files with the same bytes, and near-duplicates: two parts of a dataset that share one leak.

Legend: N files, F = 8 frames of each, spread evenly over it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    import torch

NEAR = 0.1
"""Largest share of differing bits at which two videos count as near-duplicates."""
MOST_COMPARED = 200_000
"""Files up to which every pair is compared by default: more take minutes to hours."""
_ROWS = 4096  # files compared with as many others at a time: 64 MB a table
# A flat frame (a black screen) has few bits set; a video of them tells nothing.
_LEAST_BITS = 24


@dataclass(frozen=True)
class Duplicates:
    """Files of a data set that are there more than once.

    Args:
        same: Groups of files with the same bytes, each in name order.
        near: Near-duplicates: pairs of other files, of different sources, with the share of bits that differ,
            nearest first.
        compared: Whether near-duplicates were searched for.
    """

    same: tuple[tuple[str, ...], ...]
    near: tuple[tuple[str, str, float], ...]
    compared: bool = True


def find_duplicates(files: pa.Table, *, near: bool | None = None) -> Duplicates:
    """Find files with the same bytes, and near-duplicates of different sources.

    Near-duplicates are found with a perceptual hash (dHash, 64 bits for each of 8 frames, at the same shares
    of the videos' lengths). Another size, format or quality changes few bits. So does another moment of a
    scene that hardly moves: such a pair is of one scene, if not of one clip. Every pair is compared, so ten
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
    # Of each group one file stands for all.
    heads = {min(paths) for paths in groups.values()}
    sources = dict(zip(known["path"].to_pylist(), known["source"].to_pylist(), strict=True))
    paths, bits = _bits(known, heads)
    pairs = [pair for pair in _near(paths, bits) if sources[pair[0]] != sources[pair[1]]]
    return Duplicates(tuple(same), tuple(pairs))


def _bits(files: pa.Table, heads: set[str]) -> tuple[list[str], torch.Tensor]:
    """Return the files whose hashes say something, and their bits as -1 and 1, float32 [N, 64 F]."""
    import torch  # not above: options are read, and help is shown, without torch

    paths, hashes = [], []
    for path, values in zip(files["path"].to_pylist(), files["looks"].to_pylist(), strict=True):
        if (
            path in heads
            and values
            and sum(value.bit_count() for value in values) >= _LEAST_BITS * len(values)
        ):
            paths.append(path)
            hashes.append(values)
    if not hashes:
        return [], torch.empty(0, 0)
    packed = np.array(hashes, dtype=">u8").view(np.uint8).reshape(len(hashes), -1)
    return paths, torch.from_numpy(np.unpackbits(packed, axis=1)).float().mul_(2).sub_(1)


def _near(paths: list[str], bits: torch.Tensor) -> list[tuple[str, str, float]]:
    import torch

    pairs = []
    width = bits.shape[1]
    firsts = range(0, len(paths), _ROWS)
    for first, second in combinations_with_replacement(firsts, 2):
        alike = bits[first : first + _ROWS] @ bits[second : second + _ROWS].T  # width - 2 · differing bits
        apart = (width - alike) / (2 * width)
        rows, columns = torch.nonzero(apart <= NEAR, as_tuple=True)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if second + column > first + row:
                one, two = sorted((paths[first + row], paths[second + column]))
                pairs.append((one, two, round(float(apart[row, column]), 4)))
    return sorted(pairs, key=lambda pair: (pair[2], pair[:2]))
