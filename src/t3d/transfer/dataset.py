"""Dataset of unlabeled videos: clips for the student, with frames or features for the teacher.

Legend: B clips, T frames of a clip, X frames of the teacher, D features, S side of the teacher's images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.random_clips import RandomClips
from t3d.data.clips.sampler import SampleKey
from t3d.data.clips.sampling import random_clip
from t3d.data.clips.spans import usable_part
from t3d.data.clips.transforms import center_view, random_view, stack
from t3d.data.config import AugmentConfig
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import Entry
from t3d.errors import Failed
from t3d.transfer.features import FeatureStore
from t3d.transfer.pairs import Indices, frames_of, other_time


@dataclass(frozen=True)
class PairItem:
    """Clip of one video with the frames or features of the teacher.

    Args:
        video: Row of the video in its manifest.
        frames: The clip, uint8 [T, C, H, W].
        teacher: Frames, uint8 [X, 3, S, S], or their features, float32 [X, D].
        other: Frames or features of another time of the video. None if not requested, or if the video is too
            short.
    """

    video: int
    frames: torch.Tensor
    teacher: torch.Tensor
    other: torch.Tensor | None


@dataclass(frozen=True)
class PairBatch:
    """Batch of a loader.

    Args:
        frames: Clips, uint8 [B, T, C, H, W]. None if every video of the batch was bad.
        teacher: Frames, uint8 [M, X, 3, S, S], or features, float32 [M, X, D]. The first B belong to the
            clips. If `other` is not None, B more from another time follow, with zeros for a video that has
            no other time.
        other: Mask of the videos with frames of another time, bool [B]. None if not requested.
        videos: Row of each clip's video, int64 [B].
        bad: Videos that could not be read.
    """

    frames: torch.Tensor | None
    teacher: torch.Tensor
    other: torch.Tensor | None
    videos: torch.Tensor
    bad: tuple[Failed, ...]

    def pin_memory(self) -> PairBatch:
        """Return the batch in pinned memory, for asynchronous copies to a GPU. Loaders call it."""
        if self.frames is None:
            return self
        return replace(self, frames=self.frames.pin_memory(), teacher=self.teacher.pin_memory())


class CollatePairs:
    """Collate function that stacks items and lists bad videos separately.

    Args:
        other_time: Whether items have frames of another time.
    """

    def __init__(self, other_time: bool) -> None:
        self.other_time = other_time

    def __call__(self, items: list[PairItem | Failed]) -> PairBatch:
        """Make a batch from items of the dataset."""
        good = [item for item in items if isinstance(item, PairItem)]
        teacher = [item.teacher for item in good]
        if self.other_time:
            teacher += [torch.zeros_like(item.teacher) if item.other is None else item.other for item in good]
        return PairBatch(
            frames=stack([item.frames for item in good]) if good else None,
            teacher=torch.stack(teacher) if teacher else torch.empty(0),
            other=torch.tensor([item.other is not None for item in good], dtype=torch.bool)
            if self.other_time
            else None,
            videos=torch.tensor([item.video for item in good], dtype=torch.int64),
            bad=tuple(item for item in items if isinstance(item, Failed)),
        )


@dataclass(frozen=True)
class TeacherView:
    """Frames or features for the teacher, from the time span of a clip.

    Args:
        store: Source of the frames, at the teacher's size.
        count: Number of frames, X.
        features: Stored features of the teacher, so that no frames are decoded. None: the teacher computes
            the features.
        augment: Augmentation of the frames. None takes the center.
    """

    store: FrameStore
    count: int
    features: FeatureStore | None = None
    augment: AugmentConfig | None = None

    def plain(self) -> TeacherView:
        """Return the same view without augmentation."""
        return replace(self, augment=None)

    def of(self, path: Path) -> Callable[[Indices, np.random.Generator], torch.Tensor]:
        """Return a function from the teacher's frame indices, int64 [X], to its frames or features.

        Raises:
            VideoError: The video cannot be read.
        """
        features = self.features
        if features is not None:
            return lambda numbers, rng: features.get(path, numbers)  # noqa: ARG005
        frames = self.store.open(path)
        return lambda numbers, rng: _view(frames.get(numbers), self.store.spec, self.augment, rng)


class TransferClips(RandomClips[PairItem]):
    """Dataset of one random clip per video, with the teacher's frames of the same time.

    A row number gives the clip of the current epoch, see `RandomClips`. Loaders need
    `collate_fn=CollatePairs(other_time)`.

    Every random draw depends only on (seed, epoch, row). Clip and frames get independent random
    views, so that pixel positions do not reveal a pair (PAPER: Supervision transfer, our choice).

    Args:
        manifest: Videos.
        spec: Length and size of clips, and distance of their frames.
        store: Source of the frames of a clip.
        augment: Augmentation of the clip. None takes the center.
        seed: Seed of all draws.
        teacher: View of the teacher.
        other_time: Also return frames of another time.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: ClipSpec,
        *,
        store: FrameStore,
        augment: AugmentConfig | None,
        seed: int,
        teacher: TeacherView,
        other_time: bool = False,
    ) -> None:
        super().__init__(manifest, spec, store=store, seed=seed)
        self.augment = augment
        self.teacher = teacher
        self.other_time = other_time

    def draw(self, key: SampleKey, entry: Entry) -> PairItem:
        """Return a random clip of a video with what the teacher sees, see `RandomClips`."""
        rng = np.random.default_rng((self.seed, key.epoch, key.row))
        frames = self.store.open(entry.path)
        low, part = usable_part(frames, entry, self.spec)
        clip = random_clip(part, self.spec, rng)
        other = other_time(clip, part, self.spec, rng) if self.other_time else None
        pixels = frames.get(low + clip)
        view, count = self.teacher.of(entry.path), self.teacher.count
        own = view(low + frames_of(clip, count, part), rng)
        others = None if other is None else view(low + frames_of(other, count, part), rng)
        return PairItem(key.row, _view(pixels, self.spec, self.augment, rng), own, others)


def _view(
    frames: torch.Tensor, spec: ClipSpec, augment: AugmentConfig | None, rng: np.random.Generator
) -> torch.Tensor:
    if augment is None:
        return center_view(frames, spec)
    return random_view(frames, spec, augment=augment, rng=rng)
