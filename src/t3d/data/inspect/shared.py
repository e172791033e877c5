"""Find the overlap between two lists: a leak if one is for training and the other for testing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.index import VideoIndex
from t3d.data.inspect.duplicates import hashed, near_pairs
from t3d.data.manifest.table import VideoTable
from t3d.io.files import content_digest
from t3d.progress import track

Reason = Literal["file", "bytes", "group", "near"]
"""Why a video counts as shared: the same file, the same bytes, the same group (source), a near-duplicate."""

MOST_PAIRS = 5_000_000_000
"""Pairs of files up to which near-duplicates are searched for by default: more take minutes."""


@dataclass(frozen=True)
class Shared:
    """Overlap between two lists.

    Args:
        one: Name of a list.
        two: Name of another.
        files: Files that are in both lists.
        sources: Groups (column `source`) that are in both lists. A file that is its own group does not count.
        same: Pairs of different files with the same bytes, the first of `one`.
        near: Near-duplicates: pairs of files of different groups, the first of `one`, with the share of bits
            that differ, nearest first.
        unhashed: Files of each list whose perceptual hash was not compared: they are not in the index, are
            unreadable or show hardly any detail. All files, if there is no index.
        searched: Whether any near-duplicates were searched for: not without perceptual hashes of both lists.
    """

    one: str
    two: str
    files: tuple[str, ...]
    sources: tuple[str, ...]
    same: tuple[tuple[str, str], ...]
    near: tuple[tuple[str, str, float], ...]
    unhashed: tuple[int, int] = (0, 0)
    searched: bool = True

    def __bool__(self) -> bool:
        """Return whether the lists share anything."""
        return bool(self.files or self.sources or self.same or self.near)


class SharedRow(NamedTuple):
    """A tested video that training has seen, or has seen something like.

    Args:
        row: Its row in the tested list.
        reason: The strongest reason: `file`, then `bytes`, `group`, `near`.
        path: Its file.
        other: A file of the training list that it shares this with.
        distance: Share of bits of the perceptual hashes that differ, for `near`; else 0.
    """

    row: int
    reason: Reason
    path: str
    other: str
    distance: float = 0.0


@dataclass(frozen=True)
class Compared:
    """Comparison of a list with another list: the videos that were and were not compared.

    Args:
        videos: Rows of the list.
        missing: Rows whose file is neither on this machine nor in the index. Only their paths and groups were
            compared.
        hashed: Rows whose perceptual hash was compared: 0 without an index, or with too many pairs.
            Near-duplicates of the other rows cannot be found.
    """

    videos: int
    missing: int = 0
    hashed: int = 0


@dataclass(frozen=True)
class SharedRows:
    """The tested videos that are also in training, in one form or another.

    Args:
        rows: One entry per such video, in the order of the tested list.
        tested: How much of the tested list was compared.
        trained: How much of the training list was compared.
        index_command: Command that creates the index that near-duplicates need; empty if none is known.
        indexed: Whether an index has all files of both lists, so that another index would change nothing.
    """

    rows: tuple[SharedRow, ...]
    tested: Compared
    trained: Compared
    index_command: str = ""
    indexed: bool = False

    def __len__(self) -> int:
        """Count the videos that are shared."""
        return len(self.rows)

    def counts(self) -> dict[Reason, int]:
        """Count the shared videos by reason, all reasons in order."""
        by_reason = Counter(row.reason for row in self.rows)
        return {reason: by_reason[reason] for reason in get_args(Reason)}


def shared_rows(
    tested: VideoTable, trained: VideoTable, index: VideoIndex | None = None, *, near: bool | None = None
) -> SharedRows:
    """Find the tested videos that are in the training list, or are copies or near-duplicates of its videos.

    Paths and groups are compared by name. Files of equal size are read to compare their bytes, unless the
    index knows them. Near-duplicates are found only with an index that has both lists' files.

    Args:
        tested: The list that figures are computed on.
        trained: The list that the model was trained on.
        index: Index of the files of both lists.
        near: Whether to search for near-duplicates; None does so up to `MOST_PAIRS` pairs.

    Example:
        >>> columns = {"path": ["/a.mp4", "/b.mp4"], "label": [0, 0], "start": [0.0, 0], "end": [9.0, 9]}
        >>> videos = VideoTable(("Jump",), pa.table(columns | {"source": ["tape", "film"]}))
        >>> shared = shared_rows(videos, videos.select([1]))
        >>> shared.rows[0].row, shared.counts()["file"], shared.tested.videos
        (1, 1, 2)
    """
    facts = with_sizes(file_facts(tested, index)), with_sizes(file_facts(trained, index))
    if near is None:
        near = facts[0].num_rows * facts[1].num_rows <= MOST_PAIRS
    shared = find_shared(*facts, near=near)
    by_path: dict[str, tuple[Reason, str, float]] = {}
    for one, two, distance in shared.near:
        by_path.setdefault(one, ("near", two, distance))
    tested_files, trained_files = with_groups(*facts)
    by_path |= _of_groups(tested_files, trained_files, shared.sources)
    by_path |= {one: ("bytes", two, 0.0) for one, two in reversed(shared.same)}
    by_path |= {path: ("file", path, 0.0) for path in shared.files}
    rows = tuple(
        SharedRow(row, reason, path, other, distance)
        for row, path in enumerate(tested.table["path"].to_pylist())
        if path in by_path
        for reason, other, distance in [by_path[path]]
    )
    hashes = [hashed(files)["path"] for files in facts]
    near = near and all(map(len, hashes))
    compared = [
        Compared(
            len(videos),
            missing=_rows_of(videos, files.filter(_is_missing(files))["path"]),
            hashed=_rows_of(videos, paths) if near else 0,
        )
        for videos, files, paths in zip((tested, trained), facts, hashes, strict=True)
    ]
    return SharedRows(rows, compared[0], compared[1])


def find_shared(left: pa.Table, right: pa.Table, *, names: tuple[str, str] = ("", ""), near: bool) -> Shared:
    """Find the overlap between the files of two lists.

    Args:
        left: Files of one list, as `file_facts` and `with_sizes` return them.
        right: Files of the other.
        names: What the lists are called.
        near: Whether to search for near-duplicates.
    """
    left, right = with_groups(left, right)
    sizes = set(left["size"].to_pylist()) & set(right["size"].to_pylist())
    left, right = with_digests(left, sizes), with_digests(right, sizes)
    files = set(left["path"].to_pylist()) & set(right["path"].to_pylist())
    sources = set(left["source"].to_pylist()) & set(right["source"].to_pylist())
    # Every pair of one digest, not only one of each: each is a video that should not be there.
    by_digest: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for table, groups in zip((left, right), by_digest, strict=True):
        for path, digest in zip(table["path"].to_pylist(), table["digest"].to_pylist(), strict=True):
            if digest is not None and path not in files:
                groups.setdefault(digest, []).append(path)
    both = by_digest[0].keys() & by_digest[1].keys()
    same = sorted((a, b) for digest in both for a in by_digest[0][digest] for b in by_digest[1][digest])
    pairs = near_pairs(left, right) if near else []
    totals = len(left), len(right)
    hashes = tuple(hashed(each).num_rows for each in (left, right)) if near else (0, 0)
    known = hashes if all(hashes) else (0, 0)  # hashes of one list alone are compared with nothing
    return Shared(
        one=names[0],
        two=names[1],
        files=tuple(sorted(files)),
        sources=tuple(sorted(sources - files)),  # a file that is its own group is in `files`
        same=tuple(same),
        near=tuple(pair for pair in pairs if not files.issuperset(pair[:2])),
        unhashed=(totals[0] - known[0], totals[1] - known[1]),
        searched=all(known),
    )


def file_facts(manifest: VideoTable, index: VideoIndex | None) -> pa.Table:
    """Return the facts of each file of a list.

    Args:
        manifest: The list.
        index: Index of the files.

    Returns:
        Columns `path`, `source` and `FACT_FIELDS`, one row per file.
    """
    rows = manifest.table.group_by("path", use_threads=False).aggregate([("source", "first")])
    facts = (index or VideoIndex.empty()).rows(rows["path"].to_pylist())
    columns = {"path": rows["path"], "source": rows["source_first"]}
    return pa.table(columns | {name: facts[name] for name in facts.column_names}).combine_chunks()


def with_groups(*lists: pa.Table) -> list[pa.Table]:
    """Replace the source of each file that is its own group by its whole path.

    Such a source is only the name of the file, and two folders may have a `fight/1`. A source is a real group
    if at least one file of any of the lists has it and has another name. The lists that are compared must
    therefore be given together.

    Args:
        lists: Files of each list, as `file_facts` returns them.
    """
    pairs = [zip(files["path"].to_pylist(), files["source"].to_pylist(), strict=True) for files in lists]
    own = [[(path, source, _is_own_name(path, source)) for path, source in each] for each in pairs]
    real = {source for each in own for _, source, is_own in each if not is_own}
    groups = [[source if source in real else path for path, source, _ in each] for each in own]
    return [_replaced(files, "source", each) for files, each in zip(lists, groups, strict=True)]


def _is_own_name(path: str, source: str) -> bool:
    """Return whether a source is only the end of the file's path, without the ending of the name."""
    return f"/{os.path.splitext(path)[0].replace(os.sep, '/')}".endswith(f"/{source}")  # noqa: PTH122 (speed)


def _replaced(files: pa.Table, name: str, values: list[Any]) -> pa.Table:
    """Return a table with other values in one column."""
    place = files.schema.get_field_index(name)
    return files.set_column(place, name, pa.array(values, files.schema.field(name).type))


def _of_groups(
    tested: pa.Table, trained: pa.Table, sources: Iterable[str]
) -> dict[str, tuple[Reason, str, float]]:
    """Find, for each tested file of a shared group, a training file of the same group."""
    wanted = pa.array(list(sources), pa.string())
    tested, trained = (files.filter(pc.is_in(files["source"], wanted)) for files in (tested, trained))
    other = dict(zip(trained["source"].to_pylist()[::-1], trained["path"].to_pylist()[::-1], strict=True))
    pairs = zip(tested["path"].to_pylist(), tested["source"].to_pylist(), strict=True)
    return {path: ("group", other[source], 0.0) for path, source in pairs}


def _rows_of(videos: VideoTable, paths: pa.ChunkedArray) -> int:
    """Count the rows of a list that are of some files."""
    return int(pc.sum(pc.is_in(videos.table["path"], paths.combine_chunks())).as_py() or 0)


def _is_missing(files: pa.Table) -> pa.Array:
    """Return which files are neither on this machine nor in the index, bool [N]."""
    return pc.and_(files["size"].is_null(), files["digest"].is_null())


def with_sizes(files: pa.Table) -> pa.Table:
    """Look up the sizes of the files whose bytes the index does not know.

    Args:
        files: As `file_facts` returns them.

    Returns:
        The files; `size` is null for a file that is neither in the index nor on this machine.
    """
    sizes = files["size"].to_pylist()
    paths = files["path"].to_pylist()
    unknown = np.flatnonzero(files["digest"].is_null().to_numpy())
    for row in track(unknown.tolist(), "Looking up file sizes", unit="files"):
        sizes[row] = None  # the index has an outdated one at most
        with suppress(OSError):
            sizes[row] = Path(paths[row]).stat().st_size
    return _replaced(files, "size", sizes)


def with_digests(files: pa.Table, sizes: Collection[int | None] | None = None) -> pa.Table:
    """Compute the digests of files that the index does not know. Only files that may have a copy are read.

    Args:
        files: As `with_sizes` returns them.
        sizes: Files of these sizes are read. Default: the sizes that two files have. Empty files are never
            read.
    """
    size_of, digests, paths = (files[name].to_pylist() for name in ("size", "digest", "path"))
    if sizes is None:
        sizes = {size for size, count in Counter(size_of).items() if count > 1}
    unknown = [row for row, size in enumerate(size_of) if digests[row] is None and size and size in sizes]
    for row in track(unknown, "Reading files of equal size", unit="files"):
        with suppress(OSError):  # an unreadable file has no digest
            digests[row] = content_digest(Path(paths[row]))
    return _replaced(files, "digest", digests)
