"""Read the next items in a thread while the caller works on the current one."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue
from typing import TypeVar

import torch

Item = TypeVar("Item")

_END = object()
_LOOK = 0.05  # seconds after which a waiting thread looks whether the caller has stopped
_JOIN = 5.0  # seconds to wait for the thread, which may be in the middle of a long read


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def read_ahead(items: Iterable[Item], *, ahead: int = 2) -> Generator[Item, None, None]:
    """Yield the items in their order. A thread gets the next ones meanwhile, and resizes with one core.

    An error of the items is raised after the items before it. The thread ends with the generator.

    Args:
        items: The items.
        ahead: Number of items that may wait for the caller.

    Example:
        >>> list(read_ahead(range(3)))
        [0, 1, 2]
    """
    waiting: Queue[object] = Queue(maxsize=ahead)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=_LOOK)
                return
            except Full:
                continue

    def read() -> None:
        torch.set_num_threads(1)  # of this thread: the cores belong to the model
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
            put(_END)
        except BaseException as error:
            put(_Raised(error))

    threads = torch.get_num_threads()
    thread = threading.Thread(target=read, name="t3d read ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(_JOIN)
        torch.set_num_threads(threads)  # the number of threads that are started later
