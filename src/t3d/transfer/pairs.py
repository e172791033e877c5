"""Positive and negative pairs of clips and frames.

Legend: N rows, B clips of a batch, M sets of frames. The first B sets belong to the clips, in order. With
`other_time`, B more sets follow, from another time of the same videos.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.by_time import other_clip
from t3d.data.clips.sampling import Extent
from t3d.data.clips.timeline import Timeline
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import SCHEMA
from t3d.io.files import content_digest

Indices = npt.NDArray[np.int64]


def source_groups(manifest: Manifest, index: VideoIndex | None = None) -> Indices:
    """Number the groups of rows that may show the same thing.

    Two rows are in one group if they have the same source, the same file or identical files. Groups that
    share a row are merged.

    Args:
        manifest: Videos, N rows.
        index: Index of the files. With it, files need not be read to compare their contents.

    Returns:
        Group number per row, from 0, int64 [N].

    Example:
        >>> import pyarrow as pa
        >>> columns = {"path": ["a", "b", "a"], "label": [None] * 3, "start": [0, 0, 5], "end": [1, 1, 6]}
        >>> source_groups(Manifest((), pa.table(columns | {"source": ["x", "y", "z"]})))
        array([0, 1, 0])
    """
    paths = sorted({entry.path for entry in manifest})
    contents = _contents(paths, VideoIndex.empty() if index is None else index)
    seen: dict[Hashable, int] = {}
    root = list(range(len(manifest)))

    def find(row: int) -> int:
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for row, entry in enumerate(manifest):
        # A file without a digest differs from all others, so its path identifies its contents.
        for key in (("source", entry.source), ("bytes", contents.get(entry.path, entry.path))):
            first = find(seen.setdefault(key, row))
            root[find(row)] = first
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(find(row), len(numbers)) for row in range(len(root))], dtype=np.int64)


def joined(manifest: Manifest, index: VideoIndex | None = None) -> Manifest:
    """Set the source of each row to that of the first row of its group, so that no split divides a group."""
    groups = source_groups(manifest, index)
    names = manifest.table["source"].to_pylist()
    _, first = np.unique(groups, return_index=True)
    sources = pa.array([names[first[group]] for group in groups], pa.string())
    place = SCHEMA.get_field_index("source")
    return Manifest(manifest.classes, manifest.table.set_column(place, SCHEMA.field(place), sources))


def _contents(paths: list[Path], index: VideoIndex) -> dict[Path, str]:
    """Return the digest of each file that is in the index or has the size of another file.

    All other files are different from each other.
    """
    digests: dict[Path, str] = {}
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        with suppress(OSError):
            if (digest := index.digest(path)) is not None:
                digests[path] = digest
            elif path.is_file():
                by_size[path.stat().st_size].append(path)
    known = bool(digests)
    for same in by_size.values():
        for path in same if known or len(same) > 1 else []:
            digests[path] = content_digest(path)
    return digests


def frames_of(clip: Indices, count: int, video: Extent | None = None) -> Indices:
    """Return the teacher's frames of a clip: the middles of `count` equal parts of its time span.

    Args:
        clip: Frame indices of the clip, int64 [T].
        count: Number of frames, X.
        video: What the clip is cut from. Parts are equal in time if it has the times of the frames, else in
            number of frames.

    Returns:
        Ascending frame indices, int64 [X].

    Example:
        >>> frames_of(np.array([10, 14, 18, 22]), 2)
        array([13, 19])
    """
    first, last = int(clip.min()), int(clip.max())
    if isinstance(video, Timeline):
        return video.between(first, last, count=count)
    span = last - first + 1
    return first + (2 * np.arange(count, dtype=np.int64) + 1) * span // (2 * count)


def other_time(clip: Indices, video: Extent, spec: ClipSpec, rng: np.random.Generator) -> Indices | None:
    """Draw a non-overlapping clip of the same video, each with the same probability.

    Args:
        clip: Frame indices, int64 [T].
        video: Number of frames of the video, or their times.
        spec: Length of clips, and distance of their frames.
        rng: Random generator.

    Returns:
        Frame indices, int64 [T]. None if the video is too short.
    """
    if isinstance(video, Timeline):
        return other_clip(video, clip, spec, rng)
    total, first = video, int(clip[0])
    before = max(first - spec.span + 1, 0)  # starts from 0 to first - span
    after = max(total - spec.span - (first + spec.span) + 1, 0)  # starts from first + span to total - span
    if total < spec.span or before + after == 0:
        return None
    at = int(rng.integers(before + after))
    start = at if at < before else first + spec.span + at - before
    return start + spec.step * np.arange(spec.num_frames)


def allowed_pairs(groups: torch.Tensor, other: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the masks of the positive and negative pairs of a batch.

    Args:
        groups: Group of each clip's video, int64 [B].
        other: Mask of the videos with frames of another time, bool [B]. None without such frames.

    Returns:
        Masks of the positive and of the negative pairs, bool [B, M]. A pair in neither mask is not used.
    """
    own = torch.eye(len(groups), dtype=torch.bool, device=groups.device)
    apart = groups[:, None] != groups[None]
    if other is None:
        return own, apart
    # Frames of another time are negatives for the clip of the same video, and for clips of other sources.
    later = (apart | own) & other[None]
    return torch.cat([own, torch.zeros_like(own)], 1), torch.cat([apart, later], 1)
