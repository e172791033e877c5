"""Writing files so that nothing half-written is ever left under its final name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from t3d.errors import ConfigError

TEMPORARY = ".*.part*"
"""Pattern of the temporary names."""
ABANDONED = 3600.0
"""Seconds without a change after which nobody is still writing a temporary file."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`, which takes `path`'s place when the block ends well.

    Args:
        path: The final name; its folder is made if it is missing, an existing file is replaced.

    Yields:
        The temporary name, of its own for every writer. It keeps the ending, since some writers choose the
        format by it.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(final)
    try:
        temporary.touch(exist_ok=False)
        rights = temporary.stat().st_mode  # as new files have here; safetensors would keep others out
        temporary.unlink()
        yield temporary
        temporary.chmod(rights)
        with temporary.open("rb+") as file:  # else a power failure may leave the final name without content
            os.fsync(file.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_name(final: Path) -> Path:
    """A new name beside a file's final one, of the kind that `sweep` deletes."""
    return final.with_name(f".{uuid.uuid4().hex}.part{final.suffix}")


def sweep(folder: Path, *, older_than: float = 0.0) -> None:
    """Delete what a killed process left half-written in a folder.

    Args:
        folder: Where `atomic_path` gave names.
        older_than: Seconds since the last change; `ABANDONED` where others may be writing just now.
    """
    for file in folder.glob(TEMPORARY):
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - file.stat().st_mtime >= older_than:
                file.unlink()


def lock_alone(descriptor: int, what: Path) -> None:
    """Let no other run write here; the system lets go when a process ends, however it ends.

    Args:
        descriptor: An open file or folder, which keeps others out until it is closed.
        what: What is written to, for the message.

    Raises:
        ConfigError: Another run is writing to it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"another run is writing to {what}; wait for its end") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let no other run write to a folder while the block runs; see `lock_alone`.

    Raises:
        ConfigError: Another run is writing to it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        lock_alone(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def content_digest(path: Path) -> str:
    """What a file contains, as 32 hexadecimal digits (BLAKE2b, 128 bits).

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class FileDigests:
    """Names files by what they contain; a file that did not change since is not read again.

    Args:
        prefix: What else the name depends on.
        known: Gives the `content_digest` of a file as it is now where that is known; else None.
    """

    def __init__(self, prefix: bytes, *, known: Callable[[Path], str | None] = lambda _: None) -> None:
        self.prefix = prefix
        self.known = known
        self._seen: dict[tuple[str, int, int], str] = {}

    def __call__(self, path: Path) -> str:
        """A file's name: 32 hexadecimal digits.

        Raises:
            OSError: It cannot be read.
        """
        content = self.known(path)
        if content is None:
            stat = path.stat()
            key = (str(path), stat.st_size, stat.st_mtime_ns)
            if key not in self._seen:
                self._seen[key] = content_digest(path)
            content = self._seen[key]
        return hashlib.blake2b(self.prefix + content.encode(), digest_size=16).hexdigest()
