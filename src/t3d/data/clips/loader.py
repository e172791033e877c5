"""torch's DataLoader with workers that outlive signals to the run and pass on T3D's errors unchanged."""

from __future__ import annotations

import atexit
import multiprocessing
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any
from weakref import WeakKeyDictionary

from torch.utils.data import DataLoader, Dataset, IterableDataset

from t3d.errors import LostReaderError, T3DError
from t3d.workers.deaths import death_of

_workers: WeakKeyDictionary[BaseProcess, str] = WeakKeyDictionary()
"""Processes that read videos, with their names for messages."""
_handler_replaced = False


class Loader(DataLoader[Any]):
    """Batches of a dataset, read by other processes.

    A T3DError that is raised in a worker is raised here unchanged. torch's own loader raises another error,
    whose message is a traceback. A worker that is killed raises a `LostReaderError`.

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
        with _described_deaths():
            batches = super().__iter__()  # the processes start now, not with the first batch
        started = sorted(set(multiprocessing.active_children()) - before, key=lambda worker: worker.pid or 0)
        for number, worker in enumerate(started, 1):
            _workers[worker] = f"Reading process {number} of {len(started)} (pid {worker.pid})"
        if started:
            _replace_handler()
        return _raised(batches)


def start_worker(number: int) -> None:  # noqa: ARG001 (a loader's worker_init_fn is called with it)
    """Ignore the signals that ask a run to stop: the run first saves its state, then ends its workers.

    Ctrl-C in a terminal and SIGTERM from a cluster go to every process of a run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = _report_unless_stopped


def _report_unless_stopped(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error of a worker's thread, unless the run stopped while it took a batch from that thread."""
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _end_workers() -> None:
    """Kill the workers that are left when this process ends: they ignore the signals of multiprocessing.

    A traceback may keep a loader and its workers alive.
    """
    alive = [worker for worker in _workers if worker.is_alive()]
    if alive and hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would report these deaths
    for worker in alive:
        worker.kill()


@contextmanager
def _described_deaths() -> Iterator[None]:
    """Raise a `LostReaderError` instead of torch's error for a worker that died."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise _lost_reader(str(error)) from None


def _lost_reader(message: str) -> LostReaderError:
    """Return the error for torch's message about workers that died."""
    listed = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\)", message)
    pids = {int(pid) for pid in listed[1].split(",")} if listed else set()
    dead = next((worker for worker in _workers if worker.pid in pids), None)
    if dead is None:
        return LostReaderError(message.strip(), "Lower `workers`")
    dead.join(timeout=1)  # else its exit status may not be known yet
    return death_of(_workers[dead], dead.exitcode)


def _replace_handler() -> None:
    """Raise a `LostReaderError` in torch's handler of SIGCHLD, too, which can interrupt any code."""
    global _handler_replaced
    if _handler_replaced or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    if not callable(handler):
        return

    def report(number: int, frame: FrameType | None) -> None:
        with _described_deaths():
            handler(number, frame)

    signal.signal(signal.SIGCHLD, report)
    _handler_replaced = True


# Runs before multiprocessing waits for its processes, since it is registered after that.
atexit.register(_end_workers)


_END = object()


def _raised(batches: Iterator[Any]) -> Iterator[Any]:
    while True:
        with _described_deaths():
            batch = next(batches, _END)
        if batch is _END:
            return
        if isinstance(batch, T3DError):
            break
        yield batch
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
