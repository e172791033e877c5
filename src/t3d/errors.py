"""Errors of the project. Each message contains the received value, the allowed values and a fix."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


class T3DError(Exception):
    """Base class of the errors of this project."""


class VideoError(T3DError):
    """A video file cannot be read.

    Args:
        path: Path of the file.
        reason: Reason in one sentence.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        # Without this, pickle cannot restore a worker's exception that has two arguments.
        return type(self), (self.path, self.reason)


@dataclass(frozen=True)
class Failed:
    """File that could not be used. It is reported and counted, and never replaced by another file.

    Args:
        path: Path of the file.
        reason: Reason in one sentence.
        row: Row in the manifest. -1 without a manifest.
    """

    path: str
    reason: str
    row: int = -1

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def as_json(report: Any) -> dict[str, Any]:
    """Return a report as plain values for JSON.

    A failed file becomes `{"path": …, "reason": …, "row": …}`, without `row` if there is no manifest.

    Args:
        report: A dataclass.
    """
    return asdict(report, dict_factory=lambda items: {k: v for k, v in items if (k, v) != ("row", -1)})


class ManifestError(T3DError):
    """A table of videos and labels is missing, empty or inconsistent."""


class NoClassFolderError(ManifestError):
    """Videos are directly in a folder that should have one folder per class."""


class CheckpointError(T3DError):
    """A weights file or checkpoint is corrupt or belongs to another model."""


class DivergedError(T3DError):
    """The loss, a weight or a score is infinite or NaN."""


class FetchError(T3DError):
    """A file cannot be fetched.

    Args:
        url: Address of the file.
        reason: Reason in one sentence.
    """

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"{url}: {reason}")
        self.url = url
        self.reason = reason

    def __reduce__(self) -> tuple[type[FetchError], tuple[str, str]]:
        return type(self), (self.url, self.reason)  # see VideoError


class ResumableError(T3DError):
    """The machine stopped the work: a disk is full, or a process was killed. Finished work is kept.

    Args:
        problem: What happened, as a sentence without its period.
        remedy: What to do before resuming, as an imperative without its period.
        signal: Number of the signal that ended a process. None if no signal did.

    Attributes:
        folder: Run folder to resume. None if the same command resumes the work.
        command: Command that resumes the run in `folder`.
    """

    def __init__(self, problem: str, remedy: str, signal: int | None = None) -> None:
        super().__init__(problem, remedy, signal)
        self.problem = problem
        self.remedy = remedy
        self.signal = signal
        self.folder: Path | None = None
        self.command = ""
        self._state = ""

    def stopped_run(self, folder: Path, command: str, *, state: str) -> None:
        """Record that the error stopped a run, which `command` resumes.

        Args:
            folder: Run folder. The options of the run are in its `config.yaml`.
            command: Command that started the run and resumes it, such as `t3d train`.
            state: What the folder contains, as a sentence without its period.
        """
        self.folder, self.command, self._state = folder, command, state

    def same_command(self) -> None:
        """Record that the command that was running resumes the work, and not the one of an inner run."""
        self.folder, self.command, self._state = None, "", ""

    def __str__(self) -> str:
        if self.folder is None:
            return f"{self.problem}. {self.remedy}, and run the same command again"
        remedy = self.remedy.replace("`workers`", f"the number of workers in {self.folder / 'config.yaml'}")
        return f"{self.problem}. {self._state}. {remedy}, and resume the run"


_WRITE_REMEDIES = {
    errno.ENOSPC: "Free some space on the disk",
    errno.EDQUOT: "Free some space, or raise your disk quota",
    errno.EFBIG: "Raise the limit on the size of files (`ulimit -f`)",
}


class WriteError(ResumableError):
    """A file cannot be written. An earlier file of the same name is unchanged."""

    @classmethod
    def of(cls, path: str | os.PathLike[str], error: OSError) -> WriteError:
        """Return the error for a failed write.

        Args:
            path: The file that should be written, by its final name.
            error: Error of the system.
        """
        reason = os.strerror(error.errno) if error.errno else str(error)
        remedy = _WRITE_REMEDIES.get(error.errno or 0, "Check the disk and the permissions of the folder")
        return cls(f"{os.fspath(path)}: cannot be written: {reason}", remedy)


class LostReaderError(ResumableError):
    """A process that reads videos was killed or crashed."""


class ArchiveError(T3DError):
    """An archive cannot be unpacked, or unpacking it would be unsafe."""


class ConfigError(T3DError):
    """An option has an invalid value."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Suggest the allowed name that is most similar to a wrong one, and list the allowed names.

    Args:
        name: Wrong name.
        allowed: Existing names.

    Returns:
        The end of an error message.

    Example:
        >>> did_you_mean("t3d12", ["t3d121", "densenet3d121"])
        "did you mean 't3d121'? Known: densenet3d121, t3d121"
    """
    name = name[:100]  # longer ones would take long to compare
    options = sorted(allowed)
    folded = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    shown = ", ".join(options[:30]) + (f", … ({len(options)} in all)" if len(options) > 30 else "")
    return f"did you mean {folded[near[0]]!r}? Known: {shown}" if near else f"known: {shown}"


def at_least(name: str, value: float, least: float) -> None:
    """Raise an error for an option below its smallest value, or NaN.

    Raises:
        ConfigError: `value` is below `least`.
    """
    if not value >= least:
        raise ConfigError(f"{name} is {value}; it must be at least {least}")


def between(name: str, value: float, low: float, high: float) -> None:
    """Raise an error for an option outside its range, or NaN.

    Raises:
        ConfigError: `value` is below `low` or above `high`.
    """
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must lie between {low} and {high}")


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise an error for an option that is not one of the allowed words.

    Raises:
        ConfigError: `value` is not in `allowed`. The message suggests the most similar one.
    """
    words = tuple(allowed)
    if value not in words:
        raise ConfigError(f"{name} is {value!r}; {did_you_mean(str(value), words)}")


def shortened(text: str, length: int = 200) -> str:
    """Return a text with its middle left out if it is long, for a message about a received value.

    Example:
        >>> shortened("a" * 1000, 9)
        'aaaa…aaaa'
    """
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Replace characters that control a terminal, so that a name cannot change the display.

    File names and class names can contain them. Replaced are control characters other than the tab and the
    line feed, marks that change the direction of text, and bytes that are not UTF-8.

    Example:
        >>> printable("run\x1b[2J.mp4")
        'run\\x1b[2J.mp4'
    """
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
