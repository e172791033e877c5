"""Handlers of signals. During start-up, a signal stops a run immediately.

Later, the current step ends first, and the state is saved. The first signal stops a run; further ones do not
interrupt the stop.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
    """Handlers of SIGINT and SIGTERM during a block. Such blocks may be nested.

    Args:
        handle: Function to call with the number of a signal.
    """

    def __init__(self, handle: Callable[[int], None]) -> None:
        self.handle = handle
        self._taken = False
        self._before: dict[int, Any] = {}
        self._outermost: _Handlers = self
        self._ignored_until = 0.0

    def __enter__(self) -> _Handlers:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        outer = getattr(self._before[signal.SIGINT], "__self__", None)
        self._outermost = outer._outermost if isinstance(outer, _Handlers) else self
        try:
            for number in _SIGNALS:
                signal.signal(number, self._take)
        except BaseException:  # a signal that arrived after the first handler was set
            self._restore()
            raise
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
            for each, former in self._outermost._before.items():
                signal.signal(each, former)
            signal.raise_signal(number)

    def _restore(self) -> None:
        """Restore the former handlers, unless a nested block has left its own, to ignore further signals."""
        for number, former in self._before.items():
            if signal.getsignal(number) in (self._take, self._ignore):
                signal.signal(number, former)


class RaisedSignals:
    """End the block immediately on SIGINT or SIGTERM. Further signals do not interrupt its clean-up.

    Python discards an exception that a signal raises within a destructor or a fork. The block then continues,
    and the signal ends it when it has succeeded or failed.

    Args:
        error: Function from the number of the signal to the error to raise.
    """

    def __init__(self, error: Callable[[int], Exception]) -> None:
        self.error = error
        self._taken = 0
        self._handlers = _Handlers(self._stop)

    def __enter__(self) -> None:
        try:
            self._handlers.__enter__()
        except _StopSignal as stopped:
            raise self.error(stopped.number) from None

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, *_: object) -> None:
        with suppress(_StopSignal):  # one that arrives now
            self._handlers.__exit__(_StopSignal if self._taken else kind)
        if not self._taken or (cause is not None and not isinstance(cause, _StopSignal | Exception)):
            return
        raise self.error(self._taken) from (None if isinstance(cause, _StopSignal) else cause)

    def _stop(self, number: int) -> None:
        self._taken = number
        self._handlers.ignore()
        raise _StopSignal(number)


@contextmanager
def deferred_signals() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block has succeeded. Then the former handler gets the first one."""
    deferred: list[int] = []
    with _Handlers(deferred.append):
        yield
    if deferred:
        signal.raise_signal(deferred[0])


class CaughtSignals:
    """SIGINT and SIGTERM during a block, recorded so that the current step ends and its state is saved.

    A second Ctrl+C, at least a second later, stops immediately. An object may be entered again within its
    block.

    Attributes:
        numbers: Signals so far, in order.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._depth = 0
        self._first = 0.0
        self._handlers = _Handlers(self._remember)

    def __enter__(self) -> CaughtSignals:
        self._depth += 1
        if self._depth == 1:
            self._handlers.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._handlers.__exit__(kind)

    def _remember(self, number: int) -> None:
        if not self.numbers:
            self._first = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first > _REPEATED:
            self._handlers.ignore()
            raise KeyboardInterrupt
        self.numbers.append(number)


def agree(accelerator: Accelerator, caught: Sequence[int], due: bool) -> tuple[int, bool]:
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
