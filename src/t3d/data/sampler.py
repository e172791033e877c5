"""Which training clip comes when: an order that is a function of (seed, epoch, step) and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from t3d.errors import ConfigError


class SampleKey(NamedTuple):
    """One visit of one video: the epoch and the visit decide which random clip and view it gives."""

    epoch: int
    row: int
    visit: int = 0


class ResumableBatchSampler(Sampler[list[SampleKey]]):
    """Shuffled batches whose order survives restarts, worker counts and process counts.

    Every epoch is a fresh permutation of all videos; the videos behind its last whole batch are left out of
    that epoch. All processes draw the same permutation, and each takes its own part of every batch.

    With `classes`, an epoch is as long but has every class equally often, to within one: the videos of a
    large class take turns over the epochs, those of a small one come several times, each with another clip.

    Args:
        length: Number of videos.
        batch_size: Videos in one optimiser step, over all processes and passes.
        seed: Where the order comes from.
        rank: This process, from 0.
        world_size: Number of processes.
        accumulate: Forward passes an optimiser step is spread over; each is one batch of this sampler.
        classes: Class of each video, int64 [length]; None takes videos as they are.

    Raises:
        ConfigError: The batch cannot be split evenly, or is larger than the number of videos.

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
    ) -> None:
        if batch_size % (world_size * accumulate):
            raise ConfigError(
                f"a batch of {batch_size} cannot be split evenly over {world_size} processes × {accumulate} "
                f"passes; choose optim.batch_size as a multiple of {world_size * accumulate}"
            )
        if batch_size > length:
            raise ConfigError(
                f"optim.batch_size is {batch_size}, and there are only {length} training videos; "
                f"choose {length} or less"
            )
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
        """Optimiser steps in an epoch."""
        return self.length // self.batch_size

    def set_state(self, *, epoch: int, step: int) -> None:
        """Go to a place: the next iteration gives what is left of `epoch` after `step` optimiser steps.

        Raises:
            ConfigError: There is no such place.
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
        part = self.batch_size // (self.world_size * self.accumulate)
        for step in range(self.step, self.steps_per_epoch):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            mine = batch[self.rank :: self.world_size].tolist()
            for k in range(self.accumulate):
                yield [SampleKey(epoch, row, visit) for row, visit in mine[k * part : (k + 1) * part]]

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Row and number of visit of every place in an epoch, int64 [length, 2]."""
        rng = np.random.default_rng((self.seed, epoch))
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

    def _turns(
        self, number: int, rows: npt.NDArray[np.int64], first: int, count: int
    ) -> npt.NDArray[np.int64]:
        """A part of an endless series in which a class's rows take turns, shuffled anew in every round.

        Returns:
            Row and round, counted from the first round of the part, int64 [count, 2].
        """
        begin, behind = first // len(rows), first % len(rows)
        rounds = []
        for lap in range(begin, (first + count - 1) // len(rows) + 1):
            order = np.random.default_rng((self.seed, lap, number, 1)).permutation(rows)
            rounds.append(np.stack([order, np.full_like(order, lap - begin)], axis=1))
        return np.concatenate(rounds)[behind : behind + count]
