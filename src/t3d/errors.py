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
from unicodedata import category

_REVERSING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of right-to-left text


class T3DError(Exception):
    """Base class of the errors of this project. All of them can be pickled and copied.

    A worker of torch's own `DataLoader` passes on only the type of an error and a text: the traceback, which
    ends with the message. An error that reading data raises must therefore accept a single text.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's own way calls the type with the message alone, which fails for types with more arguments.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[T3DError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> T3DError:
    """Return an error as it was, without calling its constructor."""
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(attributes)
    return error


class OutOfMemoryError(T3DError):
    """The memory of the device ran out."""


class VideoError(T3DError):
    """A video file cannot be read.

    Args:
        path: Path of the file.
        reason: Reason in one sentence. Empty if `path` is a whole message, see `T3DError`.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str = "") -> None:
        name = printable(os.fspath(path))
        super().__init__(f"{name}: {reason}" if reason else name)
        self.path = os.fspath(path)
        self.reason = reason


class StoppedError(T3DError):
    """A signal (SIGINT or SIGTERM) stopped a command. Its exit status is 128 plus the number of the signal.

    Args:
        message: What is kept, and how to continue.
        number: Number of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class OtherProcessError(T3DError):
    """Another process of the same command failed, and reports why. This one ends without a message.

    Args:
        message: Message of the other process.
        number: Number of the signal that stopped it. None if it was an error.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.signal = number


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
        return f"{printable(self.path)}: {self.reason}"


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


class ExportError(T3DError):
    """A model cannot be exported, or the exported model does not compute the same."""


class DivergedError(T3DError):
    """The loss, a weight or a score is infinite or NaN."""


class FetchError(T3DError):
    """A file cannot be fetched.

    Args:
        url: Address of the file.
        reason: Reason in one sentence. Empty if `url` is a whole message, see `T3DError`.
    """

    def __init__(self, url: str, reason: str = "") -> None:
        super().__init__(f"{url}: {reason}" if reason else url)
        self.url = url
        self.reason = reason


class PushError(T3DError):
    """A model cannot be uploaded. Nothing in the repository has changed."""


class ResumableError(T3DError):
    """The machine stopped the work: a disk is full, or a process was killed. Finished work is kept.

    Args:
        problem: What happened, as a sentence without its period.
        remedy: What to do before resuming, as an imperative without its period. Empty if `problem` is a whole
            message, see `T3DError`.
        signal: Number of the signal that ended a process. None if no signal did.

    Attributes:
        folder: Run folder to resume. None if the same command resumes the work.
        command: Command that resumes the run in `folder`.
    """

    def __init__(self, problem: str, remedy: str = "", signal: int | None = None) -> None:
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
        if not self.remedy:
            return self.problem
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
    shown = ", ".join(map(printable, options[:30])) + (
        f", … ({len(options)} in all)" if len(options) > 30 else ""
    )
    return f"did you mean {folded[near[0]]!r}? Known: {shown}" if near else f"known: {shown}"


def printable(text: str) -> str:
    r"""Return text with control characters escaped, so that no name breaks a line or colors a terminal.

    Args:
        text: Name of a class or file.

    Example:
        >>> printable("red\n\x1b[31m")
        'red\\n\\x1b[31m'
    """
    return "".join(ascii(char)[1:-1] if _is_control(char) else char for char in text)


def printable_lines(text: str) -> str:
    """Return text of several lines as `printable` does, with the line breaks kept.

    Args:
        text: Message that contains names.
    """
    return "\n".join(map(printable, text.split("\n")))


def without_credentials(text: str) -> str:
    """Remove user names and passwords of URLs from a message.

    Example:
        >>> without_credentials("cannot open rtsp://me:secret@camera/1")
        'cannot open rtsp://camera/1'
    """
    return re.sub(r"(?<=://)[^\s/]*@", "", text)


def without_secrets(text: str) -> str:
    """Remove user names, passwords and queries of URLs from a text, such as a command.

    Example:
        >>> without_secrets("t3d explain 'https://me:secret@example.org/a.mp4?signature=1'")
        "t3d explain 'https://example.org/a.mp4?…'"
    """
    return re.sub(r"(://[^\s'\"?#]*)[?#][^\s'\"]*", r"\1?…", without_credentials(text))


def _is_control(char: str) -> bool:
    """Return whether a character controls a terminal, breaks a line, reverses text or cannot be encoded."""
    return category(char) in ("Cc", "Zl", "Zp", "Cs") or char in _REVERSING


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
        raise ConfigError(f"{name} is {value}; it must be between {low} and {high}")


def one_of(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise an error for an option that is not one of the allowed words.

    Raises:
        ConfigError: `value` is not in `allowed`. The message suggests the most similar one.
    """
    words = tuple(allowed)
    if value not in words:
        raise ConfigError(f"{name} is {value!r}; {did_you_mean(str(value), words)}")


def first_line(error: BaseException) -> str:
    """Return the first line of the message of another library's error, for a message of ours.

    An error without a message, such as that of a bare `assert`, gives the name of its type.

    Example:
        >>> first_line(RuntimeError("no memory")), first_line(AssertionError())
        ('no memory', 'AssertionError')
    """
    lines = (line.strip() for line in str(error).splitlines())
    return shortened(next(filter(None, lines), type(error).__name__))


def shortened(text: str, length: int = 200) -> str:
    """Return a text with its middle left out if it is long, for a message about a received value.

    Example:
        >>> shortened("a" * 1000, 9)
        'aaaa…aaaa'
    """
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"
