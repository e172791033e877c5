"""Handlers of signals. During start-up, a signal stops a run immediately.

Later, the current step ends first, and the state is saved.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _StopSignal(KeyboardInterrupt):
    """Exception for a signal in the main thread. `except Exception` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def raised_signals(error: Callable[[int], Exception]) -> Iterator[None]:
    """End the block immediately on SIGINT or SIGTERM.

    Args:
        error: Function from the number of the signal to the error to raise.
    """

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's own signature)
        raise _StopSignal(number)

    try:
        with _handled_by(stop):
            yield
    except _StopSignal as stopped:
        raise error(stopped.number) from None


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM, so that the current step ends and its state is saved."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's own signature)
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second Ctrl+C stops immediately
        caught.append(number)

    with _handled_by(remember):
        yield caught


def agree(accelerator: Accelerator, caught: list[int], due: bool) -> tuple[int, bool]:
    """Return the signal that stops the run (or 0), and whether a checkpoint is due.

    A signal or a due checkpoint on one process applies to all processes.
    """
    stop = caught[0] if caught else 0
    if accelerator.num_processes == 1:
        return stop, due
    flags = torch.tensor([[stop, due]], device=accelerator.device)
    stop, late = accelerator.gather(flags).amax(0).tolist()
    return stop, bool(late)
