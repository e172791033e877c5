"""Errors of runs. If a run can be resumed, its error has the folder and command as attributes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from t3d.device import explained_memory
from t3d.errors import ConfigError, StoppedError
from t3d.training.config import RunConfig

RESUMABLE = ("t3d train", "t3d transfer")
"""Commands whose runs can be resumed."""


def steadier(config: RunConfig) -> str:
    """Return the options that keep a run from diverging, as the end of an error message."""
    rate = config.optim.lr
    return f"Try a lower optim.lr (now {rate}), a longer optim.warmup_epochs or optim.max_grad_norm = 1"


@contextmanager
def step_memory(config: RunConfig) -> Iterator[None]:
    """Say what to change if the memory of the device runs out in a training step within the `with` block.

    Args:
        config: Options of the run.

    Raises:
        OutOfMemoryError: Memory ran out, on a CPU or a GPU.
    """
    clip, parts = config.clip, config.optim.grad_accum_steps
    doing = (
        f"in a training step of {config.model.name}: {config.optim.batch_size} clips of {clip.num_frames} × "
        f"{clip.size} × {clip.size}, computed in {parts} {'part' if parts == 1 else 'parts'}"
    )
    remedy = (
        "Raise optim.grad_accum_steps, set model.grad_checkpointing to layers or blocks, or choose smaller "
        "clips (clip.size, clip.num_frames), and start the run again"
    )
    with explained_memory(doing, remedy):
        yield


class InterruptedRunError(StoppedError):
    """A signal (SIGINT or SIGTERM) stopped the run, which saved its state first.

    Args:
        folder: Run folder.
        number: Number of the signal.
        command: Command that started the run and resumes it. Empty if it cannot be resumed.
        state: State of the run, as the end of the message.
    """

    def __init__(self, folder: Path, number: int, command: str, *, state: str = "its state is saved") -> None:
        super().__init__(f"{folder}: {signal.Signals(number).name} stopped the run; {state}", number)
        self.folder = folder
        self.command = command


class RunExistsError(ConfigError):
    """The folder of a new run already contains a run.

    Args:
        folder: The run folder.
        command: The command that started the run and resumes it.
    """

    def __init__(self, folder: Path, command: str) -> None:
        resume = "resume it, " if command in RESUMABLE else ""
        super().__init__(
            f"{folder} already contains a run of {command}; {resume}choose another `out`, or set "
            "overwrite=True to delete it"
        )
        self.folder = folder
        self.command = command if resume else ""


class WrongCommandError(ConfigError):
    """Another command started the run that should be resumed.

    Args:
        folder: The run folder.
        command: The command that started the run and can resume it.
        asked: The command that should resume it.
    """

    def __init__(self, folder: Path, command: str, *, asked: str) -> None:
        super().__init__(f"{folder} is a run of {command}; {asked} cannot resume it")
        self.folder = folder
        self.command = command if command in RESUMABLE else ""
