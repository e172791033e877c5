"""torch's loader, whose processes outlive the signals to a run, and pass on our errors as they are."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any
from weakref import WeakSet

from torch.utils.data import DataLoader, Dataset, IterableDataset

from t3d.errors import T3DError

_workers: WeakSet[BaseProcess] = WeakSet()


class Loader(DataLoader[Any]):
    """Batches of a dataset, read by other processes.

    An error of ours that is raised in one of them is raised here, as it was. torch's own loader raises
    another one, whose message is a traceback.

    Args:
        dataset: What is read.
        options: As of `torch.utils.data.DataLoader`.

    Example:
        >>> [batch.tolist() for batch in Loader([1, 2, 3, 4], batch_size=2)]
        [[1, 2], [3, 4]]
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        kind = _CaughtStream if isinstance(dataset, IterableDataset) else _Caught
        super().__init__(kind(dataset), worker_init_fn=start_worker, **options)
        self.collate_fn = _Collate(self.collate_fn)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # torch promises its own class
        before = set(multiprocessing.active_children())
        batches = super().__iter__()  # the processes start now, not with the first batch
        _workers.update(set(multiprocessing.active_children()) - before)
        return _raised(batches)


def start_worker(number: int) -> None:  # noqa: ARG001 (a loader's worker_init_fn is called with it)
    """Let a worker outlive the signals that ask a run to stop: the run first saves its state, then ends it.

    A terminal's Ctrl-C and a cluster's SIGTERM go to every process of a run at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_workers() -> None:
    """End the processes that are left when this one ends: they are deaf to the signal that it sends them.

    Such are those of a loader that an error's traceback keeps alive.
    """
    for worker in list(_workers):
        if worker.is_alive():
            worker.kill()


# Runs before multiprocessing waits for its processes, since it is registered after that.
atexit.register(_end_workers)


def _raised(batches: Iterator[Any]) -> Iterator[Any]:
    for batch in batches:
        if isinstance(batch, T3DError):
            break
        yield batch
    else:
        return
    del batches  # its processes end now: a traceback would keep them
    raise batch


class _Caught(Dataset[Any]):
    """A dataset whose errors are items."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except T3DError as error:
            return error


class _CaughtStream(IterableDataset[Any]):
    """The same of a dataset that is gone through."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.dataset
        except T3DError as error:
            yield error


class _Collate:
    """Makes a batch of items, unless one of them is an error: then that is the batch."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Any) -> Any:
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, T3DError):
                return item
        return self.collate(items)
