"""Process many files in supervised processes.

A file that exceeds its time limit, or crashes the process that reads it, is reported. The others continue.

Each process has its own pipe and gets one file at a time, so it is always known which file a dead process was
reading. Pools that share one queue learn it from a message of the process, which may arrive after its death.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from typing import Any, TypeVar

from t3d.progress import track
from t3d.workers.deaths import death_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_PENDING = object()  # no outcome yet


@dataclass(frozen=True)
class Lost:
    """Outcome of a file that exceeded its time limit or crashed its process.

    Args:
        reason: What happened, in one sentence.
    """

    reason: str


def watched(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, timeout: float, title: str
) -> Iterator[tuple[Item, Result | Lost]]:
    """Call a function for each of many files in other processes, and show the progress.

    Args:
        function: The function; it and what it needs must be importable.
        items: Its arguments, one per file.
        workers: Processes.
        timeout: Time limit per file, in seconds.
        title: Title of the progress, see `t3d.progress`.

    Yields:
        Each item with its result, or with `Lost` and the reason, in order of completion. No file waits for a
            slower one.

    Raises:
        Exception: Any error that `function` raises: a bug is not a property of a file.
        LostReaderError: A process died before it was given a file.
    """
    outcomes = _outcomes(function, items, workers=workers, timeout=timeout)
    yield from track(outcomes, title, len(items))


def _outcomes(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, timeout: float
) -> Iterator[tuple[Item, Result | Lost]]:
    coming = iter(items)
    busy: list[_Process] = []
    try:
        for item in islice(coming, workers):
            busy.append(_Process(function))
            busy[-1].give(item)
        while busy:
            _wait(busy, timeout)
            for process in tuple(busy):
                if (outcome := process.outcome(timeout)) is _PENDING:
                    continue
                item = process.item
                try:
                    process.give(next(coming))
                except StopIteration:
                    process.stop()
                    busy.remove(process)
                yield item, outcome  # the process reads the next file meanwhile
    finally:
        for process in busy:
            process.stop()


def _wait(processes: Sequence[_Process], timeout: float) -> None:
    """Wait until a process has sent something, has died, or has exceeded the time limit."""
    begun = [process.began for process in processes if process.began is not None]
    patience = max(0.0, min(begun) + timeout - time.monotonic()) if begun else None
    wait([source for process in processes for source in (process.pipe, process.process.sentinel)], patience)


class _Process:
    """A process that calls the function for one item after another; another one replaces it if it dies."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.item: Any = None
        self.began: float | None = None  # when the process took the item, by the monotonic clock
        self._start()

    def give(self, item: Any) -> None:
        self.item, self.began = item, None
        if not self.process.is_alive():
            self.stop()
            self._start()
        with suppress(OSError):  # it has died: `outcome` finds out
            self.pipe.send(item)

    def outcome(self, timeout: float) -> Any:
        """Return the item's result, `Lost`, or `_PENDING`; raise what the function raised."""
        dead = not self.process.is_alive()  # asked before the pipe: what it sent before its death counts
        while (message := self._message()) is not None:
            kind, content = message
            if kind == "error":
                raise content
            if kind == "result":
                return content
            self.began = time.monotonic()
            self.works = True
        if dead and self.began is None and self.works:  # killed between two files
            self.give(self.item)
        elif dead:
            return self._death()
        if self.began is not None and time.monotonic() > self.began + timeout:
            self.stop()
            return Lost(f"timeout: not finished within {timeout:g} s")
        return _PENDING

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _message(self) -> tuple[str, Any] | None:
        try:
            return self.pipe.recv() if self.pipe.poll() else None
        except (EOFError, OSError):  # closed, or cut within a message
            return None

    def _death(self) -> Lost:
        self.stop()
        death = death_of("the process that read it", self.process.exitcode)
        if self.began is None:
            raise death
        if death.signal != signal.SIGKILL:  # the file is probably the cause
            return Lost(death.problem)
        return Lost(f"{death.problem}. {death.remedy}, and run the same command again to retry the file")

    def _start(self) -> None:
        # Not forked: this process may have threads, and a child would inherit their locks in any state.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.function), daemon=True)
        self.process.start()
        theirs.close()
        self.works = False  # it has taken a file


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent stops this one
    with suppress(EOFError, OSError):  # the parent has ended
        while True:
            item = pipe.recv()
            pipe.send(("began", None))
            try:
                answer = ("result", function(item))
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = ("error", error)
            try:
                pipe.send(answer)
            except (PicklingError, TypeError, AttributeError) as error:
                pipe.send(("error", TypeError(f"{function} gave something that cannot be sent: {error}")))
