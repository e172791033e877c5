"""Handlers of signals. During start-up, a signal stops a run immediately.

Later, the current step ends first, and the state is saved. The first signal stops a run; further ones do not
interrupt the stop.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelerate import Accelerator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REPEATED = 1.0
"""Seconds after a Ctrl+C in which a second one is a copy of it: `timeout` sends every signal twice."""
_STOPPING = 10.0
"""Seconds of a stop in which signals are ignored. A later signal is handled as before the run."""

_process_ends = False


def end_process_when_stopped() -> None:
    """Declare that this process ends after a run in it was stopped, as a command does.

    Signals are then ignored between the end of the run and the end of the process, too.
    """
    global _process_ends
    _process_ends = True


def ignore_signals() -> None:
    """Ignore SIGINT and SIGTERM until the process ends, also after Python has removed its own handlers."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _StopSignal(KeyboardInterrupt):
    """Exception for a signal in the main thread. `except Exception` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Handlers:
    """Handlers of SIGINT and SIGTERM during a block.

    Args:
        handle: Function to call with the number of a signal.
    """

    def __init__(self, handle: Callable[[int], None]) -> None:
        self.handle = handle
        self._taken = False
        self._before: dict[int, Any] = {}
        self._ignored_until = 0.0

    def __enter__(self) -> _Handlers:
        self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if _process_ends and self._taken and kind is not None:
            self.ignore()
        else:
            self._restore()

    def ignore(self) -> None:
        """Ignore further signals for some seconds, so that they do not interrupt a stop."""
        self._ignored_until = time.monotonic() + _STOPPING
        for number in _SIGNALS:
            signal.signal(number, self._ignore)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signal's own signature)
        self._taken = True
        self.handle(number)

    def _ignore(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 (signal's own signature)
        if time.monotonic() > self._ignored_until:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, former in self._before.items():
            signal.signal(number, former)


@contextmanager
def raised_signals(error: Callable[[int], Exception]) -> Iterator[None]:
    """End the block immediately on SIGINT or SIGTERM. Further signals do not interrupt its clean-up.

    Args:
        error: Function from the number of the signal to the error to raise.
    """

    def stop(number: int) -> None:
        handlers.ignore()
        raise _StopSignal(number)

    handlers = _Handlers(stop)
    try:
        with handlers:
            yield
    except _StopSignal as stopped:
        raise error(stopped.number) from None


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block has succeeded. Then the former handler gets the first one."""
    deferred: list[int] = []
    with _Handlers(deferred.append):
        yield
    if deferred:
        signal.raise_signal(deferred[0])


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM, so that the current step ends and its state is saved.

    A second Ctrl+C, at least a second later, stops immediately.
    """
    caught: list[int] = []
    first = 0.0

    def remember(number: int) -> None:
        nonlocal first
        if not caught:
            first = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - first > _REPEATED:
            handlers.ignore()
            raise KeyboardInterrupt
        caught.append(number)

    handlers = _Handlers(remember)
    with handlers:
        yield caught


def agree(accelerator: Accelerator, caught: list[int], due: bool) -> tuple[int, bool]:
    """Return the signal that stops the run (or 0), and whether a checkpoint is due.

    A signal or a due checkpoint on one process applies to all processes.
    """
    stop = caught[0] if caught else 0
    if accelerator.num_processes == 1:
        return stop, due
    import torch  # not above: commands that do not train import this module, too

    flags = torch.tensor([[stop, due]], device=accelerator.device)
    stop, late = accelerator.gather(flags).amax(0).tolist()
    return stop, bool(late)
