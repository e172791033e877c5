"""Hold out whole sources, with every class in both parts and each class near the fraction.

Legend: N rows, K sources, S strata (the classes that occur, and one for unlabeled rows).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.errors import ConfigError, ManifestError

_log = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def hold_out(
    labels: Ints,
    sources: pa.Array,
    *,
    classes: Sequence[str],
    fraction: float,
    seed: int,
    refuse_lone: bool = True,
) -> Mask:
    """Choose the rows to hold out.

    Within each class the sources are shuffled and held out from the front, up to the point nearest to the
    fraction. The next class compensates for the rounding of the last one, so the total is near the fraction
    too. If every source belongs to one class, a class is off by at most the rows of its largest source. An
    exception is a class with so few sources that one must be held out, or left, to have it in both parts.

    If sources span classes (a scene in which several actions were filmed), sources are then moved one by one,
    and exchanged in pairs, while that brings the classes nearer to the fraction. To have every class in both
    parts comes first. If that is impossible, a warning lists the classes.

    A video with several labels counts as one row per label. Its rows share their source, so also their part.

    (scikit-learn's StratifiedGroupKFold supports only the fractions 1/k, leaves classes out if sources span
    them, and its time grows with sources × classes × k.)

    Args:
        labels: Class of each row, -1 for none, int64 [N].
        sources: Source of each row, string [N].
        classes: Class names.
        fraction: Share to hold out, between 0 and 1.
        seed: Seed of the draw. The result depends on the seed, the labels and the sources, not on the order
            of rows or classes.
        refuse_lone: Refuse a class whose rows come from one source. Otherwise it usually stays in the rest,
            and a warning lists it.

    Returns:
        True where a row is held out, bool [N].

    Raises:
        ConfigError: `fraction` is not between 0 and 1.
        ManifestError: There are no rows, or all rows of a class come from one source.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the fraction to hold out is {fraction}; it must be between 0 and 1, such as 0.2")
    if not len(labels):
        raise ManifestError("an empty manifest cannot be split")
    names = [*classes, "\U0010ffff"]  # unlabeled rows after every class
    rank = np.argsort(np.argsort(np.array(names, dtype=object), kind="stable"))
    _, first, strata = np.unique(
        rank[np.where(labels < 0, len(classes), labels)], return_index=True, return_inverse=True
    )
    codes, num_sources = _codes(sources)
    pairs, counts = np.unique(codes * len(first) + strata, return_counts=True)
    source_of, stratum_of = np.divmod(pairs, len(first))
    lone = np.flatnonzero(np.bincount(stratum_of) == 1)
    if lone.size and (refuse_lone or num_sources == 1):
        row = int(first[lone[0]])
        others = f" (like {lone.size - 1} more)" if lone.size > 1 else ""
        videos = (
            f"class {classes[labels[row]]!r}{others} has videos"
            if labels[row] >= 0
            else "the unlabeled videos are"
        )
        raise ManifestError(
            f"{videos} of one group only ({sources[row].as_py()!r}), so none can be held out; add a video of "
            "another group, or, if these are separate recordings, name their groups in the column `source` "
            "or by source_pattern"
        )
    table = _Table(source_of, stratum_of, counts, num_sources, fraction)
    rng = np.random.default_rng(seed)
    held = table.fill(rng)
    if len(pairs) > num_sources:
        # With few sources that span classes the search finds local optima, but is fast: repeat it.
        starts = [held] + [table.fill(rng) for _ in range(min(19, 20_000 // len(pairs)))]
        held = min((table.improve(start, rng) for start in starts), key=table.cost)
        table.warn(held, [classes[labels[i]] if labels[i] >= 0 else "(unlabeled)" for i in first])
    return held[codes]


def label_share(labels: Ints, sources: pa.Array, *, fraction: float, seed: int) -> Mask:
    """Choose the rows whose labels are used, as if only a share of the videos had been labeled.

    In each class the sources are put into a random order. They are taken from the front, up to the number of
    rows nearest to the fraction, but at least one. With the same seed, a smaller share is therefore part of a
    larger one. If a source spans classes, only its rows of the class that it was taken for count.

    Args:
        labels: Class of each row, int64 [N].
        sources: Source of each row, string [N].
        fraction: Share of each class's rows, above 0, up to 1.
        seed: Seed of the order, which depends only on the seed and the names of the sources.

    Returns:
        True where a row is used, bool [N].

    Raises:
        ConfigError: `fraction` is not above 0 or is above 1.

    Example:
        >>> labels, sources = np.array([0, 0, 0, 0, 1, 1]), pa.array(["a", "a", "b", "c", "d", "e"])
        >>> label_share(labels, sources, fraction=0.5, seed=0).tolist()
        [False, False, False, True, False, True]
    """
    _refuse_share(fraction)
    ranks, _ = _ranks(sources, seed)
    used = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        _, place, counts = np.unique(ranks[rows], return_inverse=True, return_counts=True)
        reached = np.cumsum(counts)
        taken = int(np.argmin(np.abs(reached - fraction * len(rows)))) + 1
        used[rows] = place < taken
    return used


def source_share(rows: Ints, labels: Ints, sources: pa.Array, *, fraction: float, seed: int) -> Mask:
    """Choose the rows whose labels are used if videos have several.

    The sources are put into a random order, and taken from the front up to the number of rows nearest to the
    fraction. For a class that none of them has, the first source that has it is added. With the same seed, a
    smaller share is therefore part of a larger one. (Class by class, as in `label_share`, a video with many
    labels would be drawn for any of them, which exceeds the share.)

    Args:
        rows: Row of each label, int64 [M].
        labels: The label, int64 [M]; below 0 for a row without one.
        sources: Source of each row, string [N].
        fraction: Share of all rows, above 0, up to 1.
        seed: Seed of the order, which depends only on the seed and the names of the sources.

    Returns:
        True where a row is used, bool [N].

    Raises:
        ConfigError: `fraction` is not above 0 or is above 1.

    Example:
        >>> sources = pa.array(["a", "b", "c", "d"])
        >>> source_share(np.arange(4), np.array([0, 0, 0, 1]), sources, fraction=0.25, seed=0).tolist()
        [False, False, True, True]
    """
    _refuse_share(fraction)
    ranks, num_sources = _ranks(sources, seed)
    reached = np.cumsum(np.bincount(ranks, minlength=num_sources))
    taken = int(np.argmin(np.abs(reached - fraction * len(ranks)))) + 1
    known = labels >= 0
    first = np.full(labels.max(initial=-1) + 1, num_sources)
    np.minimum.at(first, labels[known], ranks[rows[known]])
    return (ranks < taken) | np.isin(ranks, first)


def _refuse_share(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ConfigError(f"the share of labels is {fraction}; it must be above 0 and at most 1, such as 0.1")


def _ranks(sources: pa.Array, seed: int) -> tuple[Ints, int]:
    """Return the place of each row's source in a random order of the sources, int64 [N] in [0, K)."""
    codes, num_sources = _codes(sources)
    order = np.random.default_rng(seed).permutation(num_sources)
    rank = np.empty(num_sources, dtype=np.int64)
    rank[order] = np.arange(num_sources)
    return rank[codes], num_sources


def _codes(sources: pa.Array) -> tuple[Ints, int]:
    """Number the sources in the order of their names, int64 [N] in [0, K)."""
    encoded = pc.dictionary_encode(sources)
    order = pc.array_sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[encoded.indices.to_numpy()], len(order)


class _Table:
    """Sparse counts of the rows per stratum and source, and the cost of a choice of sources."""

    def __init__(self, source_of: Ints, stratum_of: Ints, counts: Ints, num_sources: int, fraction: float):
        self.stratum_of, self.counts, self.fraction = stratum_of, counts, fraction
        self.source_of = source_of
        self.starts = np.searchsorted(source_of, np.arange(num_sources + 1))
        self.totals = np.bincount(stratum_of, weights=counts)
        largest_first = np.lexsort((stratum_of, -counts, source_of))
        main = largest_first[self.starts[:-1]]
        self.main_stratum, self.main_count = stratum_of[main], counts[main]

    def fill(self, rng: np.random.Generator) -> Mask:
        """Hold out, in each stratum, the number of shuffled sources that is nearest to the fraction."""
        held = np.zeros(len(self.main_stratum), np.bool_)
        shuffled = rng.permutation(len(held))
        shuffled = shuffled[np.argsort(self.main_stratum[shuffled], kind="stable")]
        bounds = np.searchsorted(self.main_stratum[shuffled], np.arange(len(self.totals) + 1))
        debt = 0.0  # rows that are missing from the held-out part so far
        for stratum in rng.permutation(len(self.totals)):
            members = shuffled[bounds[stratum] : bounds[stratum + 1]]
            if not members.size:
                continue
            sizes = self.main_count[members]
            steps = np.concatenate([[0], np.cumsum(sizes)])
            wanted = self.fraction * steps[-1]
            most = sizes.max() / 2  # so that a small class never compensates for a large one
            num = int(np.abs(steps - (wanted + np.clip(debt, -most, most))).argmin())
            num = min(max(num, 1), members.size - 1) if members.size > 1 else num
            held[members[:num]] = True
            debt += wanted - steps[num]
        return held

    def rows(self, held: Mask) -> Floats:
        """Count the rows held out of each stratum, float64 [S]."""
        mine = held[self.source_of]
        stratum, weights = self.stratum_of[mine], self.counts[mine].astype(np.float64)
        return np.bincount(stratum, weights, len(self.totals)).astype(np.float64)

    def cost(self, held: Mask) -> float:
        return self._cost(self.rows(held))

    def _cost(self, rows: Floats) -> float:
        shares = rows / self.totals
        total = rows.sum() / self.totals.sum()
        absent = 10 * np.count_nonzero(rows == 0) + 100 * np.count_nonzero(rows == self.totals)
        return float(np.square(shares - self.fraction).sum() + (total - self.fraction) ** 2 + absent)

    def _moved(self, rows: Floats, source: int, was_held: bool) -> Floats:
        mine = slice(self.starts[source], self.starts[source + 1])
        moved = rows.copy()
        moved[self.stratum_of[mine]] += -self.counts[mine] if was_held else self.counts[mine]
        return moved

    def improve(self, held: Mask, rng: np.random.Generator) -> Mask:
        """Move single sources between the parts, then exchange pairs of them, while that lowers the cost."""
        held = held.copy()
        rows = self.rows(held)
        cost = self._cost(rows)
        better = True
        while better:
            better = False
            for source in rng.permutation(len(held)):
                moved = self._moved(rows, source, bool(held[source]))
                if (now := self._cost(moved)) < cost - 1e-12:
                    rows, cost, better = moved, now, True
                    held[source] = ~held[source]
            if not better and len(held) <= 200:
                for one, other in np.argwhere(held[:, None] & ~held[None, :]):
                    moved = self._moved(self._moved(rows, one, True), other, False)
                    if held[one] and not held[other] and (now := self._cost(moved)) < cost - 1e-12:
                        rows, cost, better = moved, now, True
                        held[[one, other]] = held[[other, one]]
        return held

    def warn(self, held: Mask, names: list[str]) -> None:
        rows = self.rows(held)
        for part, absent in (("held-out", rows == 0), ("remaining", rows == self.totals)):
            if absent.any():
                labels = [repr(names[i]) for i in np.flatnonzero(absent)]
                more = f" and {len(labels) - 20} more classes" if len(labels) > 20 else ""
                listed = ", ".join(labels[:20]) + more
                _log.warning("sources span classes so that the %s part has no %s", part, listed)
