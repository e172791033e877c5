"""Order of the training clips: a function of (seed, epoch, step) and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import index
from typing import NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from t3d.errors import ConfigError


class SampleKey(NamedTuple):
    """One visit of one video: the epoch and the visit decide which random clip and view it gives."""

    epoch: int
    row: int
    visit: int = 0


def key_of(row: SupportsIndex, *, epoch: int, length: int) -> SampleKey:
    """Return the key of a row in an epoch.

    Args:
        row: Row of the video; negative rows count from the end.
        epoch: Epoch, from 0.
        length: Number of videos.

    Raises:
        IndexError: There is no such row, which also ends a loop over the dataset.

    Example:
        >>> key_of(-1, epoch=2, length=5)
        SampleKey(epoch=2, row=4, visit=0)
    """
    number = index(row)
    if not -length <= number < length:
        raise IndexError(f"row {number} does not exist; there are {length} videos, numbered from 0")
    return SampleKey(epoch, number % length)


@dataclass(frozen=True, eq=False)
class ShardOrder:
    """Shuffling of videos in shards that lets each shard be read sequentially.

    Args:
        shard_of: Shard of each video, int64 [N].
        window: A video moves by fewer places than this.
        lanes: Parts of an epoch that are read in parallel; a divisor of the batch size.
    """

    shard_of: npt.NDArray[np.int64]
    window: int = 10_000
    lanes: int = 1


class ResumableBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches whose order survives restarts, worker counts and process counts.

    Every epoch is a new permutation of all videos. The videos after its last whole batch are left out of that
    epoch. All processes draw the same permutation, and each takes its own part of every batch.

    With `classes`, an epoch has the same length, but every class equally often, to within one. The videos of
    a large class take turns over the epochs. Those of a small class come several times, each time with
    another clip.

    With `shards`, the permutation keeps the videos of a shard near each other. Every epoch draws an order of
    the shards, and deals their videos into `shards.lanes` runs of equal length. Within each run it moves
    every video by less than `shards.window` places. A batch takes equally many from each lane, in lane
    order, so a process reads only the lanes of its part of the batch.

    Args:
        length: Number of videos.
        batch_size: Videos in one optimizer step, over all processes and passes.
        seed: Seed of the order.
        rank: This process, from 0.
        world_size: Number of processes.
        accumulate: Forward passes per optimizer step; each is one batch of this sampler.
        classes: Class of each video, int64 [length]; None samples every video once.
        shards: Shuffling of videos in shards; None for files, which are read in any order.

    Raises:
        ConfigError: The batch cannot be split evenly, or is larger than the number of videos; or `classes`
            and `shards` are both given.

    Example:
        >>> sampler = ResumableBatchSampler(5, batch_size=2, seed=0)
        >>> sampler.set_state(epoch=3, step=1)
        >>> [[key.epoch for key in batch] for batch in sampler]
        [[3, 3]]
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        classes: npt.NDArray[np.int64] | None = None,
        shards: ShardOrder | None = None,
    ) -> None:
        if batch_size % (world_size * accumulate):
            raise ConfigError(
                f"a batch of {batch_size} cannot be split evenly over {world_size} processes × {accumulate} "
                f"passes; choose optim.batch_size as a multiple of {world_size * accumulate}"
            )
        if batch_size > length:
            raise ConfigError(
                f"optim.batch_size is {batch_size}, but there are only {length} training videos; "
                f"choose {length} or less"
            )
        if classes is not None and shards is not None:
            raise ConfigError(
                "data.balance samples videos in any order, but shards are read sequentially; pack a balanced "
                "list (t3d prepare shards), or train from files"
            )
        if shards is not None and batch_size % shards.lanes:
            raise ConfigError(
                f"data.lanes is {shards.lanes}, but a batch of {batch_size} cannot be split evenly over "
                "them; choose a divisor of optim.batch_size"
            )
        self.shards = shards
        self.length = length
        self.rows_of = None if classes is None else [np.flatnonzero(classes == c) for c in np.unique(classes)]
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.epoch = 0
        self.step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.length // self.batch_size

    def set_state(self, *, epoch: int, step: int) -> None:
        """Continue at a place: the next iteration yields the rest of `epoch` after `step` optimizer steps.

        Raises:
            ConfigError: The step or the epoch does not exist.
        """
        if epoch < 0 or not 0 <= step <= self.steps_per_epoch:
            raise ConfigError(
                f"there is no epoch {epoch}, step {step}: epochs count from 0 and have "
                f"{self.steps_per_epoch} steps"
            )
        self.epoch = epoch
        self.step = step

    def __len__(self) -> int:
        return (self.steps_per_epoch - self.step) * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch = self.epoch
        order = self._order(epoch)
        share = self.batch_size // self.world_size
        part = share // self.accumulate
        for step in range(self.step, self.steps_per_epoch):
            first = step * self.batch_size + self.rank * share
            for begin in range(first, first + share, part):
                yield [SampleKey(epoch, row, visit) for row, visit in order[begin : begin + part].tolist()]

    def coming(self) -> npt.NDArray[np.int64]:
        """Return the rows that this process reads in the rest of the epoch, in order, int64 [N]."""
        share = self.batch_size // self.world_size
        rows = self._order(self.epoch)[: self.steps_per_epoch * self.batch_size, 0]
        return rows.reshape(self.steps_per_epoch, self.world_size, share)[self.step :, self.rank].reshape(-1)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return row and visit of each place in an epoch, at least of its whole batches, int64 [N, 2]."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.shards is not None:
            order = self._shard_by_shard(self.shards, rng)
            return np.stack([order, np.zeros_like(order)], axis=1)
        if self.rows_of is None:
            order = rng.permutation(self.length)
            return np.stack([order, np.zeros_like(order)], axis=1)
        share, over = divmod(self.length, len(self.rows_of))
        longer = set(rng.permutation(len(self.rows_of))[:over].tolist())
        places = [
            self._turns(number, rows, epoch * (share + 1), share + (number in longer))
            for number, rows in enumerate(self.rows_of)
        ]
        return rng.permutation(np.concatenate(places))

    def _shard_by_shard(self, shards: ShardOrder, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the rows of an epoch's whole batches in an order that keeps shards together, int64 [N]."""
        places = rng.permutation(int(shards.shard_of.max()) + 1)[shards.shard_of]
        by_shard = np.argsort(places, kind="stable")
        bounds = np.arange(shards.lanes + 1) * self.length // shards.lanes
        part = self.batch_size // shards.lanes  # of each batch, from each lane
        lanes = []
        for low, high in pairwise(bounds.tolist()):
            moved = np.arange(high - low) + rng.uniform(0, shards.window, high - low)
            lane = by_shard[low:high][np.argsort(moved)]
            lanes.append(lane[: self.steps_per_epoch * part].reshape(self.steps_per_epoch, part))
        return np.stack(lanes, axis=1).reshape(-1)

    def _turns(
        self, number: int, rows: npt.NDArray[np.int64], first: int, count: int
    ) -> npt.NDArray[np.int64]:
        """Return a part of an endless series in which a class's rows take turns, reshuffled in every round.

        Returns:
            Row and round, counted from the first round of the part, int64 [count, 2].
        """
        begin, behind = first // len(rows), first % len(rows)
        rounds = []
        for lap in range(begin, (first + count - 1) // len(rows) + 1):
            order = np.random.default_rng((self.seed, lap, number, 1)).permutation(rows)
            rounds.append(np.stack([order, np.full_like(order, lap - begin)], axis=1))
        return np.concatenate(rounds)[behind : behind + count]
