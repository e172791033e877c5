"""Process many files in supervised processes.

A file that exceeds its time limit, or crashes the process that reads it, is reported. The others continue.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as TooLongError
from dataclasses import dataclass
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from t3d.progress import track
from t3d.workers.deaths import death_of

_AHEAD = 4  # files queued per process, so that none waits

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    """
    outcomes = _outcomes(function, items, workers=workers, timeout=timeout)
    yield from track(outcomes, title, len(items))


def _outcomes(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, timeout: float
) -> Iterator[tuple[Item, Result | Lost]]:
    if not items:
        return
    # Not forked: this process may have threads, and a child would inherit their locks in any state. Ctrl-C,
    # which a terminal sends to all processes, is ignored: the parent stops the children.
    context = multiprocessing.get_context("spawn")
    ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)
    waiting: dict[Any, Item] = {}
    coming = iter(items)
    count = min(workers, len(items))
    with ProcessPool(count, initializer=signal.signal, initargs=ignore_interrupts, context=context) as pool:
        try:
            while True:
                while len(waiting) < _AHEAD * workers and (item := next(coming, None)) is not None:
                    waiting[pool.schedule(function, args=(item,), timeout=timeout)] = item
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), _outcome(future, timeout)
        except BaseException:
            pool.stop()  # type: ignore[no-untyped-call]
            raise


def _outcome(future: Any, timeout: float) -> Any:
    try:
        return future.result()
    except TooLongError:
        return Lost(f"timeout: not finished within {timeout:g} s")
    except ProcessExpired as error:
        death = death_of("the process that read it", error.exitcode)
        if death.signal != signal.SIGKILL:  # the file is probably the cause
            return Lost(death.problem)
        return Lost(f"{death.problem}. {death.remedy}, and run the same command again to retry the file")
