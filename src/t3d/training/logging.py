"""What a run tells: a progress bar, one line an epoch, `log.jsonl`, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from t3d.io.files import atomic_path


class RunLog:
    """The log of a run. On processes other than the main one it does nothing.

    Args:
        path: The file; TensorBoard's folder lies beside it.
        main: Whether this is the main process.
        steps: Optimiser steps of the whole run, for the bar.
        done: Steps already taken, when a run goes on; later lines of an interrupted run are cut off.
        validated: Whether the validation behind step `done` is over; if not, its line is cut off too.
    """

    def __init__(self, path: Path, *, main: bool, steps: int, done: int = 0, validated: bool = True) -> None:
        self.main = main
        self.console = Console(quiet=not main)
        self._bar: Progress | None = None
        if not main:
            return
        _cut(path, done, validated)
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=done + 1)
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=steps, completed=done)

    def write(self, kind: str, step: int, **values: float | int) -> None:
        """Add a line of numbers.

        Args:
            kind: `train` or `val`.
            step: Optimiser steps taken so far.
            **values: The numbers, by name.
        """
        if not self.main:
            return
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def say(self, text: str) -> None:
        """Print a line, above the bar where there is one."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self, description: str) -> None:
        """Move the bar on by one step."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=description)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.main:
            return
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log; none where there is no log."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def _cut(path: Path, done: int, validated: bool) -> None:
    """Drop the lines behind the place where the run goes on, since it writes them again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # the line that was being written when the run was killed
            continue
        if values["step"] < done or (values["step"] == done and (validated or values["kind"] == "train")):
            kept.append(line)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
