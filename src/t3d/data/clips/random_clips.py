"""Base class of datasets that give one random clip per video."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, SupportsIndex, TypeVar, overload

from torch.utils.data import Dataset

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.sampler import SampleKey, key_of
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import Entry
from t3d.errors import Failed, VideoError

Item = TypeVar("Item")


class RandomClips(Dataset[Item | Failed], ABC, Generic[Item]):
    """Dataset of one random clip per video.

    A row number gives the clip of the current epoch (see `set_epoch`), so `dataset[0]` and torch's own
    loaders work. A `SampleKey` names its epoch itself: runs use it, with `ResumableBatchSampler`.

    Args:
        manifest: The videos.
        spec: What a clip is.
        store: Where frames come from.
        seed: Where all draws come from.
    """

    def __init__(self, manifest: Manifest, spec: ClipSpec, *, store: FrameStore, seed: int) -> None:
        self.manifest = manifest
        self.spec = spec
        self.store = store
        self.seed = seed
        self.epoch = 0

    @abstractmethod
    def draw(self, key: SampleKey, entry: Entry) -> Item:
        """Return the random clip of a key, whose video is `entry`.

        Raises:
            VideoError: The video cannot be read.
        """

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose clips row numbers give, as torch's `DistributedSampler` does.

        Call it before each epoch, or every epoch has the same clips. Loaders with `persistent_workers` copy
        the dataset once, so they keep the epoch of their first iteration.

        Args:
            epoch: Epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.manifest)

    @overload
    def __getitem__(self, key: SampleKey) -> Item | Failed: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> Item: ...
    def __getitem__(self, key: SampleKey | SupportsIndex) -> Item | Failed:
        """Return a random clip of a video.

        Args:
            key: Row of the video; negative rows count from the end. Or epoch, row and visit.

        Returns:
            The clip; for a `SampleKey` of a video that cannot be read, the reason.

        Raises:
            IndexError: There is no such row.
            VideoError: The video of a row number cannot be read.
        """
        if not isinstance(key, SampleKey):
            key = key_of(key, epoch=self.epoch, length=len(self))
            return self.draw(key, self.manifest[key.row])
        entry = self.manifest[key.row]
        try:
            return self.draw(key, entry)
        except VideoError as error:
            return Failed(str(entry.path), error.reason, key.row)
