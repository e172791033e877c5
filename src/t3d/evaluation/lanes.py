"""Compute parts of batches at the same time, on all cores of a CPU.

Threads that share one operation wait for each other after it, dozens of times per clip. That is slow if the
cores have other work too, such as reading the next videos. Here each thread computes a part of a batch on
its own, and nobody waits. How a batch is divided depends on its size and on the number of cores only, so its
results are the same whatever else is computed.

Legend: B clips of a batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from t3d.data.clips.dataset import Batch

Function = Callable[[torch.Tensor], torch.Tensor]
"""From clips, uint8 [B, T, C, H, W], to one vector per clip, [B, D]."""
Computed = tuple[Batch, torch.Tensor | None]
"""A batch and the vectors of its clips, [B, D]; None for a batch without frames."""
_FEWEST = 2  # clips of a part: torch computes a single clip on a single thread slowly
_AHEAD = 2  # batches that are computed before the result of the first is taken


@dataclass(frozen=True)
class Independent:
    """Function of clips that several CPU threads may call at the same time, each with a part of a batch.

    Args:
        function: The function. No clip's result depends on the other clips, except by rounding.
    """

    function: Function

    def __call__(self, clips: torch.Tensor) -> torch.Tensor:
        """Call the function."""
        return self.function(clips)


def division(clips: int, cores: int) -> tuple[int, int]:
    """Return into how many parts a batch is divided, and how many threads compute each.

    Example:
        >>> division(8, 2), division(8, 16), division(1, 4)
        ((2, 1), (4, 4), (1, 4))
    """
    parts = max(1, min(cores, clips // _FEWEST))
    return parts, cores // parts


def computed(function: Function, batches: Iterable[Batch]) -> Generator[Computed, None, None]:
    """Yield each batch and the vectors of its clips, in their order.

    Args:
        function: The function. Several threads compute if it is `Independent`, as many as torch would use.
        batches: The batches.
    """
    cores = torch.get_num_threads()
    if not isinstance(function, Independent) or cores == 1:
        for batch in batches:
            yield batch, None if batch.frames is None else function(batch.frames)
        return
    with _lanes(function, cores) as start:
        pending: deque[tuple[Batch, list[Future[torch.Tensor]]]] = deque()
        for batch in batches:
            pending.append((batch, [] if batch.frames is None else start(batch.frames)))
            while len(pending) > _AHEAD or (pending and all(part.done() for part in pending[0][1])):
                yield _joined(*pending.popleft())
        while pending:
            yield _joined(*pending.popleft())


def _joined(batch: Batch, parts: list[Future[torch.Tensor]]) -> Computed:
    return batch, torch.cat([part.result() for part in parts]) if parts else None


@contextmanager
def _lanes(
    function: Independent, cores: int
) -> Iterator[Callable[[torch.Tensor], list[Future[torch.Tensor]]]]:
    """Yield a function that starts to compute a batch, and returns the results of its parts."""
    free = _Cores(cores)

    def compute(clips: torch.Tensor, threads: int) -> torch.Tensor:
        with free.taken(threads):
            if torch.get_num_threads() != threads:  # each thread has its own number
                torch.set_num_threads(threads)
            return function(clips)

    def start(clips: torch.Tensor) -> list[Future[torch.Tensor]]:
        parts, threads = division(len(clips), cores)
        return [pool.submit(compute, part, threads) for part in clips.tensor_split(parts)]

    pool = ThreadPoolExecutor(cores, thread_name_prefix="t3d lane")
    try:
        yield start
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # the number of threads that are started later


class _Cores:
    """Cores that threads take and give back.

    Args:
        count: Number of cores.
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Wait until this many cores are free, and take them for the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()
