"""Log of a run: progress bar, one line per epoch, `log.jsonl`, TensorBoard and other trackers."""

from __future__ import annotations

import importlib.util
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from t3d.errors import printable_lines
from t3d.io.journal import Journal, read_journal
from t3d.progress import progress
from t3d.training.trackers import Trackers


class RunLog:
    """Log of a run. It does nothing on processes other than the main one.

    Args:
        path: Path of the log file. TensorBoard's folder is next to it.
        main: Whether this is the main process.
        steps: Optimizer steps of the whole run, for the progress bar.
        done: Optimizer steps before a resume. Later lines of the interrupted run are removed.
        validated: Whether the validation after step `done` is finished. If not, its line is removed, too.
        trackers: Names of trackers that record the run, too, see `t3d.training.trackers`.
        options: Options of the run, for the trackers.
    """

    def __init__(
        self,
        path: Path,
        *,
        main: bool,
        steps: int,
        done: int = 0,
        validated: bool = True,
        trackers: Sequence[str] = (),
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.main = main
        if not main:
            return
        self._files = ExitStack()
        self._journal = self._files.enter_context(Journal(path))
        self._journal.keep(lambda line: _is_before(line, done, validated))
        self._board: Any = None
        self._loss = ""
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._files.enter_context(_quiet_board())
            with self._optional_board():
                self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=done + 1)
        self._trackers = Trackers(trackers, path.parent, options)
        self._files.callback(self._trackers.close)
        # Without a last line: the trainer prints how long the run took, also over restarts.
        bar = progress("Training", steps, unit="steps", done=done, last_line=False)
        self._bar = self._files.enter_context(bar)

    def write(self, kind: str, step: int, **values: float | int) -> None:
        """Add a line of numbers.

        Args:
            kind: `train` or `val`.
            step: Optimizer steps taken so far.
            **values: Numbers by name.
        """
        if not self.main:
            return
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._journal.add(line)
        if kind == "train":
            self._loss = f", loss {values['loss']:.3f}" if "loss" in values else ""
        self._trackers.log({f"{kind}/{name}": value for name, value in values.items()}, step)
        with self._optional_board():
            for name, value in values.items():
                if self._board is not None:
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    @contextmanager
    def _optional_board(self) -> Iterator[None]:
        """Stop writing for TensorBoard if that fails: the log has the same numbers."""
        try:
            yield
        except OSError as error:
            self._board = None
            warnings.warn(f"no longer writing for TensorBoard: {error}", stacklevel=2)

    def say(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        if self.main:
            print(printable_lines(text), flush=True)

    def advance(self, note: str) -> None:
        """Advance the progress by one step, with a note such as the epoch."""
        if self.main:
            self._bar.advance(note=note + self._loss)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.main:
            return
        try:
            with self._optional_board():
                if self._board is not None:
                    self._board.close()
        finally:
            self._files.__exit__(kind, error, trace)


@contextmanager
def _quiet_board() -> Iterator[None]:
    """Suppress the traceback of TensorBoard's thread if it cannot write. Its next call reports the error."""
    before = threading.excepthook

    def report(failure: threading.ExceptHookArgs) -> None:
        if not (issubclass(failure.exc_type, OSError) and "AsyncWriter" in type(failure.thread).__name__):
            before(failure)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log. Empty if there is no log."""
    return list(read_journal(path))


def _is_before(line: dict[str, Any], done: int, validated: bool) -> bool:
    """Return whether a line is of a step that a resumed run does not take again."""
    before: bool = line["step"] < done or (line["step"] == done and (validated or line["kind"] == "train"))
    return before
