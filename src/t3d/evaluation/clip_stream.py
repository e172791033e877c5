"""Clips of videos with the vectors that a model gives them: read, computed and joined at the same time.

Legend: B clips of a batch, D length of a vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from t3d.data.clips.dataset import Batch, ClipBatches, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import DivergedError, Failed
from t3d.evaluation.lanes import Function, computed
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import ClipRow, ClipTimes
from t3d.progress import Bar, progress
from t3d.workers.threads import in_order

Item = TypeVar("Item")

_AHEAD = 2  # batches that are read before they are asked for


@dataclass
class ScoredClips:
    """Clips of one or more batches, all of one part of the manifest.

    Args:
        part: Number of the part: the videos whose clips share batches.
        rows: Clips that are complete.
        bad: Videos that could not be read.
        times: Times of the clips.
        finished: Number of videos that are complete, or could not be read.
        videos: Share of the videos, in videos, that these clips are.
    """

    part: int = 0
    rows: list[ClipRow] = field(default_factory=list)
    bad: list[Failed] = field(default_factory=list)
    times: ClipTimes = field(default_factory=dict)
    finished: int = 0
    videos: float = 0.0

    def add(self, other: ScoredClips) -> None:
        """Append the clips of another batch."""
        self.rows.extend(other.rows)
        self.bad.extend(other.bad)
        self.times.update(other.times)
        self.finished += other.finished


def scored_clips(
    function: Function,
    manifest: Manifest,
    protocol: Protocol,
    *,
    store: FrameStore | None,
    compute: Compute,
    share: tuple[int, int] = (0, 1),
    shown: str | Bar,
) -> Generator[ScoredClips, None, None]:
    """Read videos, and yield the vectors of their clips, batch by batch.

    The next batches are read and computed meanwhile.

    Args:
        function: See `each_clip`.
        manifest: The videos.
        protocol: Which clips and crops are asked for.
        store: Where frames come from; None decodes.
        compute: Batch size, and processes that read videos.
        share: Rank of this process, and number of processes.
        shown: Title of the progress, or a bar to advance by the videos scored.

    Raises:
        ConfigError: The views do not go with the spec.
        DivergedError: A vector holds an infinite number or NaN.
    """
    clips = VideoClips(
        manifest,
        protocol.spec,
        store=store or FrameStore(protocol.spec),
        order=protocol.order,
        seed=protocol.seed,
        views=protocol.views,
    )
    source = ClipBatches(clips, batch_size=compute.batch_size, rank=share[0], world_size=share[1])
    joined = _Joined(protocol.views.crops)
    with ExitStack() as stack:
        bar = stack.enter_context(progress(shown, source.videos())) if isinstance(shown, str) else shown
        batches: Iterator[Batch] = iter(Loader(source, batch_size=None, num_workers=compute.workers))
        if compute.workers == 0 and torch.get_num_threads() > 1:
            batches = stack.enter_context(closing(read_ahead(batches)))
        for batch, vectors in stack.enter_context(closing(computed(function, batches))):
            clips_of_batch = joined.add(batch, None if vectors is None else _finite(vectors))
            clips_of_batch.part = clips_of_batch.part // compute.batch_size
            bar.advance(clips_of_batch.videos)
            yield clips_of_batch


def read_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """Yield the items in their order. A thread gets the next ones meanwhile, and resizes with one core.

    Args:
        items: The items.

    Example:
        >>> list(read_ahead(range(3)))
        [0, 1, 2]
    """

    def with_one_core(items: Iterable[Item]) -> Iterator[Item]:
        torch.set_num_threads(1)  # of the reading thread: the cores belong to the model
        yield from items

    threads = torch.get_num_threads()
    try:
        yield from in_order(with_one_core, [items], threads=1, most=_AHEAD)
    finally:
        torch.set_num_threads(threads)  # the number of threads that are started later


class _Joined:
    """Joins the crops of clips, and counts the clips of videos, over batches.

    Args:
        crops: Number of crops of each clip.
    """

    def __init__(self, crops: int) -> None:
        self._count = crops
        # Crops of a clip may be in two batches, and other workers' batches between these.
        self._crops: defaultdict[tuple[int, int], list[npt.NDArray[np.float64]]] = defaultdict(list)
        self._done: defaultdict[int, float] = defaultdict(float)  # share of each video that is not complete

    def add(self, batch: Batch, vectors: npt.NDArray[np.float64] | None) -> ScoredClips:
        """Return the clips that are complete with this batch."""
        scored = ScoredClips(bad=list(batch.bad), videos=float(batch.shares.sum()))
        rows = batch.videos.tolist()
        clips = list(zip(rows, batch.clips.tolist(), strict=True))
        if vectors is not None:
            scored.times.update(zip(clips, map(tuple, batch.times.tolist()), strict=True))
            for clip, vector in zip(clips, vectors, strict=True):
                self._crops[clip].append(vector)
                if len(self._crops[clip]) == self._count:
                    scored.rows.append((*clip, np.mean(self._crops.pop(clip), 0)))
        for row, share in zip(rows, batch.shares.tolist(), strict=True):
            self._done[row] += share
            if self._done[row] > 1 - share / 2:
                del self._done[row]
                scored.finished += 1
        for failed in batch.bad:
            scored.videos += 1 - self._done.pop(failed.row, 0.0)  # the rest of a video that broke
            scored.finished += 1
        scored.part = rows[0] if rows else batch.bad[0].row
        return scored


def _finite(vectors: torch.Tensor) -> npt.NDArray[np.float64]:
    """Return vectors as float64 [B, D].

    Raises:
        DivergedError: Some are infinite or NaN: they would pass for videos that cannot be read.
    """
    values: npt.NDArray[np.float64] = vectors.double().cpu().numpy()
    if not np.isfinite(values).all():
        raise DivergedError("the model's outputs are not finite numbers, so its weights have diverged")
    return values
