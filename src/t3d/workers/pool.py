"""Do the same to many files, in processes that are watched.

A file that hangs is given up after a while, one that takes its process down is named, and neither stops the
others.
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
from rich.console import Console
from rich.progress import track

_AHEAD = 4  # files handed out for each process, so that none waits

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lost:
    """What a file that was not done has in the place of a result.

    Args:
        reason: What happened, in one sentence.
    """

    reason: str


def watched(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, patience: float, title: str
) -> Iterator[tuple[Item, Result | Lost]]:
    """Call a function for each of many files, in other processes, and show how far it is.

    Args:
        function: What is called; it and what it needs must be importable.
        items: What it is called with, one a file.
        workers: Processes.
        patience: Seconds after which a file is given up.
        title: What is being done, for the progress bar.

    Yields:
        Each item with its result, or with how it was lost, as they come: no file waits for a slower one.

    Raises:
        Exception: What `function` raises: a mistake of ours is no fact about a file.
    """
    outcomes = _outcomes(function, items, workers=workers, patience=patience)
    yield from shown(outcomes, title, len(items))


def shown(outcomes: Iterator[Result], title: str, total: int) -> Iterator[Result]:
    """Show on a terminal how far a work is.

    Args:
        outcomes: What is passed on, one after the other.
        title: What is being done.
        total: How many will come.
    """
    console = Console(stderr=True)
    yield from track(outcomes, title, total, console=console, disable=not console.is_terminal)


def _outcomes(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, patience: float
) -> Iterator[tuple[Item, Result | Lost]]:
    if not items:
        return
    # Not forked: this process may have threads, whose locks a child would inherit in any state. And deaf to
    # Ctrl-C, which a terminal sends to all: the parent ends them.
    context = multiprocessing.get_context("spawn")
    deaf = (signal.SIGINT, signal.SIG_IGN)
    waiting: dict[Any, Item] = {}
    coming = iter(items)
    count = min(workers, len(items))
    with ProcessPool(count, initializer=signal.signal, initargs=deaf, context=context) as pool:
        try:
            while True:
                while len(waiting) < _AHEAD * workers and (item := next(coming, None)) is not None:
                    waiting[pool.schedule(function, args=(item,), timeout=patience)] = item
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), _outcome(future, patience)
        except BaseException:
            pool.stop()  # type: ignore[no-untyped-call]
            raise


def _outcome(future: Any, patience: float) -> Any:
    try:
        return future.result()
    except TooLongError:
        return Lost(f"was given up: not read to its end within {patience:g} s")
    except ProcessExpired as error:
        return Lost(f"the process that read it died (exit status {error.exitcode})")
