"""torch's DataLoader with workers that outlive signals to the run and pass on T3D's errors unchanged."""

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

    A T3DError that is raised in a worker is raised here unchanged. torch's own loader raises another error,
    whose message is a traceback.

    Args:
        dataset: Map-style or iterable dataset.
        options: Options of `torch.utils.data.DataLoader`.

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
    """Ignore the signals that ask a run to stop: the run first saves its state, then ends its workers.

    Ctrl-C in a terminal and SIGTERM from a cluster go to every process of a run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_workers() -> None:
    """Kill the workers that are left when this process ends: they ignore the signals of multiprocessing.

    A traceback may keep a loader and its workers alive.
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
    del batches  # ends the workers now: a traceback would keep them alive
    raise batch


class _Caught(Dataset[Any]):
    """Wrap a map-style dataset and return its T3DErrors as items."""

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
    """Wrap an iterable dataset and yield its T3DErrors as items."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.dataset
        except T3DError as error:
            yield error


class _Collate:
    """Collate items, unless one of them is an error: then the error is the batch."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, items: Any) -> Any:
        for item in items if isinstance(items, list) else [items]:
            if isinstance(item, T3DError):
                return item
        return self.collate(items)
