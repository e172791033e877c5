"""Join the groups (column `source`) of videos that are copies or near-duplicates of each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from t3d.data.index import VideoIndex
from t3d.data.inspect.duplicates import find_duplicates, hashed, uncompared
from t3d.data.inspect.shared import file_facts, with_digests, with_groups, with_sizes
from t3d.data.manifest.table import VideoTable

Videos = TypeVar("Videos", bound=VideoTable)


@dataclass(frozen=True)
class Grouped(Generic[Videos]):
    """A list whose copies and near-duplicates are in one group.

    Args:
        videos: The list. A group that was joined has the first of its groups' names.
        own: Files that were their own group before.
        copies: Files that have the same bytes as an earlier one.
        near: Pairs of near-duplicates.
        hashed: Files whose perceptual hash was compared.
        uncompared: Files whose perceptual hash could not be compared, by reason.
        files: All files.
        largest: Rows of the largest group.
    """

    videos: Videos
    own: int
    copies: int
    near: int
    hashed: int
    uncompared: dict[str, int]
    files: int
    largest: int


def join_groups(videos: Videos, index: VideoIndex | None = None, *, near: bool = False) -> Grouped[Videos]:
    """Make one group of all groups that share a file, the same bytes, or near-duplicates.

    Near-duplicates chain: if A is near B, and B is near C, all three are one group.

    Args:
        videos: The list.
        index: Index of its files. Files that it does not have are read if two have the same size.
        near: Whether to join near-duplicates; their perceptual hashes come from the index.

    Example:
        >>> columns = {"path": ["/a.mp4", "/a.mp4"], "label": [0, 0], "start": [0.0, 9], "end": [9.0, 18]}
        >>> videos = VideoTable(("Jump",), pa.table(columns | {"source": ["tape", "film"]}))
        >>> join_groups(videos).videos.sources()
        ['film']
    """
    (facts,) = with_groups(with_digests(with_sizes(file_facts(videos, index))))
    duplicates = find_duplicates(facts, near=near)
    paths = facts["path"].combine_chunks()
    names = pa.array(videos.sources(), pa.string())
    rows = pc.index_in(videos.table["path"].combine_chunks(), value_set=paths).to_numpy()
    sources = pc.index_in(videos.table["source"].combine_chunks(), value_set=names).to_numpy()
    pairs = [(group[0], other) for group in duplicates.same for other in group[1:]]
    pairs += [(one, two) for one, two, _ in duplicates.near]
    # Files and groups are the nodes of one graph: a row joins its file and its group, a pair two files.
    ends = pc.index_in(pa.array([path for pair in pairs for path in pair], pa.string()), value_set=paths)
    one, two = ends.to_numpy().reshape(-1, 2).T
    start, end = np.concatenate([rows, one]), np.concatenate([sources + len(paths), two])
    nodes = len(paths) + len(names)
    graph = coo_array((np.ones(len(start), np.int8), (start, end)), shape=(nodes, nodes))
    _, part = connected_components(graph, directed=False)
    of_source = part[len(paths) :]  # sources are in name order, so the first of a part names it
    _, first, part_of = np.unique(of_source, return_index=True, return_inverse=True)
    joined = names.take(pa.array(first[part_of][sources]))
    place = videos.table.schema.get_field_index("source")
    table = videos.table.set_column(place, videos.table.schema.field(place), joined)
    largest = np.bincount(part_of[sources]).max(initial=0)
    return Grouped(
        videos=replace(videos, table=table),
        own=pc.sum(pc.equal(facts["path"], facts["source"])).as_py() or 0,
        copies=sum(len(group) - 1 for group in duplicates.same),
        near=len(duplicates.near),
        hashed=hashed(facts).num_rows if near else 0,
        uncompared=uncompared(facts) if near else {},
        files=len(paths),
        largest=int(largest),
    )
