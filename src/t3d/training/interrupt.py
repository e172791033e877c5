"""Signals: the step under way ends and the state is saved before a run stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way ends and its state is saved."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's own signature)
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: stop at once
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agree(accelerator: Accelerator, caught: list[int], due: bool) -> tuple[int, bool]:
    """Return the signal to stop by, or 0, and whether a checkpoint is due: if on one process, then on all."""
    stop = caught[0] if caught else 0
    if accelerator.num_processes == 1:
        return stop, due
    flags = torch.tensor([[stop, due]], device=accelerator.device)
    stop, late = accelerator.gather(flags).amax(0).tolist()
    return stop, bool(late)
