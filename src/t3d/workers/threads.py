"""Threads that read ahead: the values of many items, in order, from several threads of this process."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")

_LOOK = 1.0  # seconds; on Windows, Ctrl-C does not interrupt a wait without a limit


def in_order(
    read: Callable[[Item], Iterable[Value]], items: Sequence[Item], *, threads: int, most: int
) -> Generator[Value, None, None]:
    """Yield all values of all items in order, while threads read the next ones.

    Each item is read by one thread. An error of an item is raised after the values before it. Closing the
    generator stops the threads, each after the value that it is reading.

    Args:
        read: Returns the values of an item, one after the other.
        items: The items.
        threads: Number of threads. 0: the caller's thread reads each value when it is asked for.
        most: Number of values that wait for the caller: of all items together, and of the first one.

    Example:
        >>> list(in_order(range, [2, 0, 3], threads=2, most=4))
        [0, 1, 0, 1, 2]
    """
    if threads == 0:
        for item in items:
            yield from read(item)
        return
    ahead = _Ahead(read, items, most)
    pool = [
        threading.Thread(target=ahead.work, name=f"t3d reader {number}")
        for number in range(min(threads, len(items)))
    ]
    try:
        for thread in pool:
            thread.start()
        for place in range(len(items)):
            while waiting := ahead.take(place):
                yield from waiting
    finally:
        ahead.stop()
        for thread in pool:
            if thread.ident is not None:  # it was started
                thread.join()


class _Queue(Generic[Value]):
    """Values of one item that wait for the caller."""

    def __init__(self) -> None:
        self.values: deque[Value] = deque()
        self.complete = False
        self.error: BaseException | None = None


class _Ahead(Generic[Item, Value]):
    """Values that were read ahead, by item. A value of the first unfinished item always finds room."""

    def __init__(self, read: Callable[[Item], Iterable[Value]], items: Sequence[Item], most: int) -> None:
        self._read = read
        self._items = items
        self._most = most
        self._changed = threading.Condition()
        self._queues: dict[int, _Queue[Value]] = {}
        self._next = 0  # item that no thread has started
        self._first = 0  # item that the caller takes values of
        self._waiting = 0  # values in all queues
        self._stopped = False

    def work(self) -> None:
        """Read items until there are none. Runs in a thread."""
        while (place := self._started()) is not None:
            error: BaseException | None = None
            try:
                for value in self._read(self._items[place]):
                    if not self._put(place, value):
                        return
            except BaseException as caught:
                error = caught
            with self._changed:
                queue = self._queues[place]
                queue.complete, queue.error = True, error
                self._changed.notify_all()

    def take(self, place: int) -> list[Value]:
        """Wait for values of an item, and return them; none if it is finished.

        Raises:
            BaseException: What reading the item raised.
        """
        with self._changed:
            self._first = place
            self._changed.notify_all()
            while (queue := self._queues.get(place)) is None or not (queue.values or queue.complete):
                self._changed.wait(_LOOK)
            values = list(queue.values)
            queue.values.clear()
            self._waiting -= len(values)
            self._changed.notify_all()
            if not values:
                del self._queues[place]
                if queue.error is not None:
                    raise queue.error
            return values

    def stop(self) -> None:
        """End the threads, each when it has its next value."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _started(self) -> int | None:
        """Return the next item, which the calling thread reads; None if there is none."""
        with self._changed:
            if self._stopped or self._next == len(self._items):
                return None
            self._queues[self._next] = _Queue()
            self._next += 1
            return self._next - 1

    def _put(self, place: int, value: Value) -> bool:
        """Wait for room, and add a value. Return False if the caller has stopped."""
        with self._changed:
            values = self._queues[place].values
            while not self._stopped:
                if self._waiting < self._most or (place == self._first and len(values) < self._most):
                    values.append(value)
                    self._waiting += 1
                    self._changed.notify_all()
                    return True
                self._changed.wait(_LOOK)
            return False
