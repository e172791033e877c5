"""Videos whose features are alike: near-duplicates by cosine, and clusters.

Legend: N videos, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
_BLOCK = 1024  # rows compared with all others at a time
_MOST_PAIRS = 1_000_000  # more are not kept: almost everything is alike then


@dataclass(frozen=True)
class Group:
    """Videos that belong together.

    Args:
        rows: Their rows, the most typical one first.
        cosine: The smallest cosine of a linked pair of near-duplicates, or the mean cosine to the center of a
            cluster.
    """

    rows: tuple[int, ...]
    cosine: float


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicates among videos.

    Args:
        groups: Groups of linked videos, the largest first.
        pairs: Number of pairs whose cosine is at least the bound.
        all_found: False if there were too many pairs to keep.
    """

    groups: tuple[Group, ...]
    pairs: int
    all_found: bool


def near_duplicates(features: Floats, bound: float) -> NearDuplicates:
    """Find groups of videos that are linked by pairs with a high cosine.

    Args:
        features: Features, [N, D].
        bound: Smallest cosine of a pair.

    Example:
        >>> near_duplicates(np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.1]]), 0.99).groups[0].rows
        (0, 2)
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    unit = unit_length(features)
    ones: list[npt.NDArray[np.int64]] = []
    others: list[npt.NDArray[np.int64]] = []
    cosines: list[Floats] = []
    pairs, kept = 0, 0
    for first in range(0, len(unit), _BLOCK):
        similar = unit[first : first + _BLOCK] @ unit.T
        one, other = np.nonzero(similar >= bound)
        later = other > one + first
        one, other = one[later], other[later]
        pairs += len(one)
        if kept < _MOST_PAIRS:
            ones.append(one + first)
            others.append(other)
            cosines.append(similar[one, other])
            kept += len(one)
    if not pairs:
        return NearDuplicates((), 0, True)
    one, other, cosine = np.concatenate(ones), np.concatenate(others), np.concatenate(cosines)
    links = coo_matrix((np.ones(len(one)), (one, other)), shape=(len(unit), len(unit)))
    number, member = connected_components(links, directed=False)
    least = np.full(number, np.inf)
    np.minimum.at(least, member[one], cosine)
    order = np.argsort(member, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    groups = [Group(tuple(part.tolist()), float(least[member[part[0]]])) for part in parts if len(part) > 1]
    groups.sort(key=lambda group: (-len(group.rows), -group.cosine))
    return NearDuplicates(tuple(groups), pairs, kept == pairs)


def clusters(features: Floats, count: int | None = None, *, seed: int = 0) -> tuple[Group, ...]:
    """Divide videos into clusters (k-means on features of unit length), the largest first.

    Args:
        features: Features, [N, D].
        count: Number of clusters. None: the square root of half the number of videos, from 2 to 24.
        seed: Seed of the start.

    Returns:
        The clusters; none for fewer than 3 videos, and at most one per video.
    """
    if len(features) < 3:
        return ()
    from sklearn.cluster import KMeans

    unit = unit_length(features)
    wanted = int(np.clip(np.sqrt(len(unit) / 2).round(), 2, 24)) if count is None else count
    distinct = len(np.unique(unit, axis=0))
    fitted = KMeans(min(wanted, distinct), n_init=4, random_state=seed).fit(unit)
    centers = unit_length(fitted.cluster_centers_)
    groups = []
    for number, center in enumerate(centers):
        rows = np.flatnonzero(fitted.labels_ == number)
        if not len(rows):
            continue
        cosines = unit[rows] @ center
        order = rows[np.argsort(-cosines, kind="stable")]
        groups.append(Group(tuple(order.tolist()), float(cosines.mean())))
    return tuple(sorted(groups, key=lambda group: -len(group.rows)))


def unit_length(features: Floats) -> Floats:
    """Divide each feature by its length, [N, D]. A feature of zeros stays."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)
