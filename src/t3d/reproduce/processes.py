"""All processes of a command that torchrun started: who writes, and how a failure ends all of them.

The main process alone writes files and prints. The other processes wait for its decisions. If a process
fails, all of them end, and one of them reports why.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate.utils import gather_object

from t3d.errors import ConfigError, OtherProcessError, T3DError
from t3d.evaluation.scoring import ONE_PROCESS, Processes
from t3d.training.start import leave_at_exit, make_accelerator, stay_at_exit

_WORK = timedelta(hours=24)
"""Longest work of one process that the others wait for."""
_REPORT = timedelta(seconds=10)
"""Time for all processes to fail in the same way. A process that fails alone then ends alone."""

Result = TypeVar("Result")


class AllProcesses:
    """All processes of this command: one, or as many as torchrun or accelerate launch started.

    Every process must make the same calls in the same order.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = 0
        self.scoring = ONE_PROCESS
        if self.count > 1:
            self.accelerator = make_accelerator()
            self.rank = self.accelerator.process_index
            self.scoring = Processes(self.rank, self.count, gather_object)
            self._work: Any = dist.new_group(backend="gloo", timeout=_WORK)
            self._report: Any = dist.new_group(backend="gloo", timeout=_REPORT)

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.rank == 0:
            print(text, flush=True)

    def refuse_batch(self, batch_size: int, passes: int, *, where: str) -> None:
        """Raise an error if the processes cannot share a batch evenly.

        Args:
            batch_size: Clips per optimizer step.
            passes: Forward passes per optimizer step.
            where: Name of the run.

        Raises:
            ConfigError: A pass of a process would not have the same number of clips as the others.
        """
        if batch_size % (self.count * passes):
            raise ConfigError(
                f"{where}: a batch of {batch_size} clips cannot be split evenly over {self.count} processes "
                f"× {passes} passes (`grad_accum_steps`); use another number of processes or passes"
            )

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Do work in the main process while the others wait, and return its result in all of them.

        Raises:
            OtherProcessError: The main process failed, or ended. It raises its own error.
        """
        if self.count == 1:
            return work()
        sent: list[Any] = [None, None]
        failed: Exception | None = None
        if self.rank == 0:
            try:
                sent[0] = work()
            except Exception as error:
                failed, sent[1] = error, _summary(error)
        with _lost_processes():
            dist.broadcast_object_list(sent, src=0, group=self._work)
        self._end(failed, [sent[1]])
        result: Result = sent[0]
        return result

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run the block in all processes, which do not wait for each other in it. If one fails, all fail.

        Raises:
            OtherProcessError: Another process failed first. It raises its own error.
        """
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.count == 1:
                raise
            failed = error
        if self.count > 1:
            self._end(failed, self._gather(_summary(failed), self._work))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run the block in all processes, which wait for each other in it, such as a training.

        If the block fails in the same way in all processes, one of them raises its error. If it fails in one
        process, this one raises its error. The others then lose the connection, and end without a message.

        Raises:
            OtherProcessError: Another process failed. It raises its own error.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1:
                self._fail(error)
            raise

    def _fail(self, error: Exception) -> None:
        began = time.monotonic()
        try:
            failures = self._gather(_summary(error), self._report)
        except OtherProcessError as lost:
            stay_at_exit()
            ended = time.monotonic() - began < 0.9 * _REPORT.total_seconds()
            if ended and isinstance(error, RuntimeError):  # an exchange with a process that has ended
                raise lost from error
            return
        self._end(error, failures)

    def _gather(self, summary: tuple[str, int | None] | None, group: Any) -> list[Any]:
        failures: list[Any] = [None] * self.count
        with _lost_processes():
            dist.all_gather_object(failures, summary, group=group)
        return failures

    def _end(self, own: Exception | None, failures: list[tuple[str, int | None] | None]) -> None:
        """Raise the first failure, if there is one. All processes have reached this place."""
        first = next((rank for rank, failure in enumerate(failures) if failure is not None), None)
        if first is None:
            return
        leave_at_exit(self.accelerator)
        if own is not None and first == self.rank:
            raise own
        failure = failures[first]
        assert failure is not None
        raise OtherProcessError(*failure) from own

    def finish(self) -> None:
        """Let this process leave the others when it exits. All have reached this place."""
        if self.count > 1:
            leave_at_exit(self.accelerator)


def _summary(error: Exception | None) -> tuple[str, int | None] | None:
    """Return what other processes need to know about a failure: its message and its signal."""
    if error is None:
        return None
    return str(error) or type(error).__name__, getattr(error, "signal", None)


@contextmanager
def _lost_processes() -> Iterator[None]:
    try:
        yield
    except T3DError:
        raise
    except RuntimeError as error:
        raise OtherProcessError(f"another process of this command has ended ({error})") from error
