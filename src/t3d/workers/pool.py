"""Process many files in supervised processes.

A file that exceeds its time limit, or crashes the process that reads it, is reported. The others continue.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as TooLongError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from t3d.progress import track
from t3d.workers.deaths import death_of

_TRIES = 5  # of a file that was waiting when a pool broke
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
    # Not forked: this process may have threads, and a child would inherit their locks in any state. Ctrl-C,
    # which a terminal sends to all processes, is ignored: the parent stops the children.
    context = multiprocessing.get_context("spawn")
    ignore_interrupts = (signal.SIGINT, signal.SIG_IGN)
    coming = enumerate(items)
    again: deque[tuple[int, Item]] = deque()  # of a pool that broke
    tries: Counter[int] = Counter()
    count = min(workers, len(items))
    done = not items
    while not done:
        waiting: dict[Any, tuple[int, Item]] = {}
        with ProcessPool(
            count, initializer=signal.signal, initargs=ignore_interrupts, context=context
        ) as pool:
            try:
                while True:
                    while len(waiting) < _AHEAD * workers:
                        if (given := again.popleft() if again else next(coming, None)) is None:
                            break
                        try:
                            future = pool.schedule(function, args=(given[1],), timeout=timeout)
                        except RuntimeError as error:  # the pool has just broken
                            again.appendleft(given)
                            raise BrokenProcessPool from error
                        waiting[future] = given
                    if not waiting:
                        done = True
                        break
                    for finished in wait(waiting, return_when=FIRST_COMPLETED).done:
                        outcome = _outcome(finished, timeout)
                        yield waiting.pop(finished)[1], outcome
            except BrokenProcessPool:  # a process died before the pool knew which file it reads
                pool.stop()  # type: ignore[no-untyped-call]
            except BaseException:
                pool.stop()  # type: ignore[no-untyped-call]
                raise
        for number, item in waiting.values():
            tries[number] += 1
            if tries[number] < _TRIES:
                again.append((number, item))
            else:
                yield item, Lost(f"the process that should read it died {_TRIES} times before it began")


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
