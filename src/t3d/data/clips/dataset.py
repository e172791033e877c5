"""Videos as clips: random ones for training (`TrainClips`), those that are scored (`VideoClips`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.random_clips import RandomClips
from t3d.data.clips.sampler import SampleKey
from t3d.data.clips.sampling import random_clip
from t3d.data.clips.spans import clip_times, usable_part
from t3d.data.clips.transforms import crop_views, random_view, stack
from t3d.data.clips.views import PAPER_VIEWS, FrameOrder, Views
from t3d.data.config import AugmentConfig
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import Entry
from t3d.errors import Failed, VideoError


class ClipItem(NamedTuple):
    """One clip of one video. torch's own loaders collate it, field by field.

    Args:
        video: Row of the video in its manifest.
        clip: Which clip of the video, from 0; its crops, if several are scored, all have its number.
        frames: uint8 [T, C, H, W].
        label: Row of the class, or -1. With several labels per video, float32 [K]: 1 where a class applies,
            else 0; NaN if the video is unlabeled. With soft labels, their probabilities, float32 [K].
        share: Share of the video that is scored with this view: 1 / (clips · crops).
        start: Time of the clip's first frame, in seconds from the first frame of the file.
        end: Time at which its last frame ends.
    """

    video: int
    clip: int
    frames: torch.Tensor
    label: int | torch.Tensor
    share: float = 1.0
    start: float = 0.0
    end: float = 0.0


@dataclass(frozen=True)
class Batch:
    """One batch of clips, as loaders return it.

    Args:
        frames: uint8 [B, T, C, H, W], or None if no video of the batch could be read.
        labels: int64 [B], -1 where there is none; or float32 [B, K], see `ClipItem`.
        videos: Row of each clip's video, int64 [B].
        clips: Number of each clip within its video, int64 [B].
        shares: Share of its video that each is, float64 [B], see `ClipItem`.
        bad: The videos that could not be read.
        times: Start and end of each clip in seconds, float64 [B, 2], see `ClipItem`.
    """

    frames: torch.Tensor | None
    labels: torch.Tensor
    videos: torch.Tensor
    clips: torch.Tensor
    shares: torch.Tensor
    bad: tuple[Failed, ...]
    times: torch.Tensor = field(default_factory=lambda: torch.zeros(0, 2, dtype=torch.float64))

    def pin_memory(self) -> Batch:
        """Return the batch in pinned memory, which a GPU copies asynchronously; loaders call it."""
        return self if self.frames is None else replace(self, frames=self.frames.pin_memory())


def collate(items: list[ClipItem | Failed]) -> Batch:
    """Stack clips into a batch; videos that could not be read are listed apart."""
    good = [item for item in items if isinstance(item, ClipItem)]
    return Batch(
        frames=stack([item.frames for item in good]) if good else None,
        labels=_stacked([item.label for item in good]),
        videos=torch.tensor([item.video for item in good], dtype=torch.int64),
        clips=torch.tensor([item.clip for item in good], dtype=torch.int64),
        shares=torch.tensor([item.share for item in good], dtype=torch.float64),
        bad=tuple(item for item in items if isinstance(item, Failed)),
        times=torch.tensor([(item.start, item.end) for item in good], dtype=torch.float64).reshape(-1, 2),
    )


def _stacked(labels: list[int | torch.Tensor]) -> torch.Tensor:
    """Stack the labels of a batch; all are of one kind, since they come from one manifest."""
    several = [label for label in labels if isinstance(label, torch.Tensor)]
    return torch.stack(several) if several else torch.tensor(labels, dtype=torch.int64)


class TrainClips(RandomClips[ClipItem]):
    """One random clip and view per video. Every draw follows from (seed, epoch, row).

    A row number gives the clip of the current epoch, see `RandomClips`.

    Args:
        manifest: The videos.
        spec: What a clip is.
        store: Where frames come from.
        augment: How a clip is varied.
        seed: Where all draws come from.
        targets: Probability of each class of each video, float32 [N, K], instead of labels.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> spec = ClipSpec(num_frames=16, size=112, resize=128)
        >>> videos = Manifest.from_folder("videos")  # doctest: +SKIP
        >>> clips = TrainClips(
        ...     videos, spec, store=FrameStore(spec), augment=AugmentConfig(), seed=0
        ... )  # doctest: +SKIP
        >>> clips[0].frames.shape  # doctest: +SKIP
        torch.Size([16, 3, 112, 112])
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     clips.set_epoch(epoch)
        ...     for batch in DataLoader(clips, batch_size=8, shuffle=True):
        ...         x = normalize(batch.frames, spec)  # B C T H W
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        *,
        store: FrameStore,
        augment: AugmentConfig,
        seed: int,
        targets: npt.NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__(manifest, spec, store=store, seed=seed)
        self.augment = augment
        self.targets = targets

    def draw(self, key: SampleKey, entry: Entry) -> ClipItem:
        """Return a random clip and view of a video, see `RandomClips`."""
        rng = np.random.default_rng((self.seed, *(key if key.visit else key[:2])))
        frames = self.store.open(entry.path)
        low, part = usable_part(frames, entry, self.spec)
        clip = frames.get(low + random_clip(part, self.spec, rng))
        view = random_view(clip, self.spec, augment=self.augment, rng=rng)
        if self.targets is not None:
            return ClipItem(key.row, 0, view, torch.tensor(self.targets[key.row]))
        return ClipItem(key.row, 0, view, label_of(key.row, self.manifest))


class VideoClips(IterableDataset[ClipItem | Failed]):
    """The clips of every video that are scored, and the crops of each, one after another.

    A long video costs the memory of one clip and one crop.

    Args:
        manifest: The videos.
        spec: What a clip is.
        store: Where frames come from.
        order: `normal`, or what is done to the frames of each clip to see how much depends on time:
            `shuffled` (drawn from seed, video and clip), `reversed`, `static` (the middle frame throughout).
        seed: For `shuffled`.
        views: Which clips, and which crops of them; by default the non-overlapping ones and the center.

    Raises:
        ConfigError: The views do not go with the spec.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        *,
        store: FrameStore,
        order: FrameOrder = "normal",
        seed: int = 0,
        views: Views = PAPER_VIEWS,
    ) -> None:
        views.check(spec)
        self.manifest = manifest
        self.spec = spec
        self.store = store
        self.order: FrameOrder = order
        self.seed = seed
        self.views = views

    def __iter__(self) -> Iterator[ClipItem | Failed]:
        for row in range(len(self.manifest)):
            yield from self.of(row)

    def of(self, row: int) -> Iterator[ClipItem | Failed]:
        """The views of one video, clip by clip."""
        entry = self.manifest[row]
        try:
            frames = self.store.open(entry.path)
            low, part = usable_part(frames, entry, self.spec)
            clips = list(self.views.clips_of(part, self.spec))
            share = 1 / (len(clips) * self.views.crops)
            for number, clip in enumerate(clips):
                rng = np.random.default_rng((self.seed, row, number))
                parts = [reorder(part, self.order, rng) for part in np.split(clip, self.spec.segments)]
                wanted = low + np.concatenate(parts)
                span = clip_times(frames.times, wanted)
                for view in crop_views(frames.get(wanted), self.spec, crops=self.views.crops):
                    yield ClipItem(row, number, view, label_of(row, self.manifest), share, *span)
        except VideoError as error:
            # Scoring drops the clips of this video that it already has.
            yield Failed(str(entry.path), error.reason, row)


class ClipBatches(IterableDataset[Batch]):
    """The clips of all videos in batches that are the same however many processes and workers share them.

    A net's scores of a clip depend, by rounding, on the clips that share its batch. So neighboring
    rows, as many as a batch holds clips, go to one worker, and no batch holds clips of two such parts.

    Args:
        clips: The clips.
        batch_size: Most clips in a batch.
        rank: This process, from 0.
        world_size: Number of processes.
    """

    def __init__(self, clips: VideoClips, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.clips = clips
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size

    def videos(self) -> int:
        """Return how many videos this process scores."""
        rows = range(len(self.clips.manifest))
        return sum(row // self.batch_size % self.world_size == self.rank for row in rows)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        rows, size = len(self.clips.manifest), self.batch_size
        part, parts = self.rank + self.world_size * number, self.world_size * workers
        for first in range(part * size, rows, parts * size):
            items = chain.from_iterable(map(self.clips.of, range(first, min(first + size, rows))))
            while some := list(islice(items, size)):
                yield collate(some)


def label_of(row: int, manifest: Manifest) -> int | torch.Tensor:
    """Return the label of a manifest's row as `ClipItem` holds it."""
    label = manifest.label_column.vector(row)
    return label if isinstance(label, int) else torch.from_numpy(label)


def reorder(
    clip: npt.NDArray[np.int64], order: FrameOrder, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the frame indices of a clip in another order, see `VideoClips`.

    Example:
        >>> reorder(np.array([3, 5, 7]), "static", np.random.default_rng(0))
        array([5, 5, 5])
    """
    if order == "shuffled":
        return rng.permutation(clip)
    if order == "reversed":
        return clip[::-1].copy()
    if order == "static":
        return np.full_like(clip, clip[len(clip) // 2])
    return clip
