"""Lock: a hidden file that one process at a time holds, and that a killed process releases immediately.

`lock` keeps everyone else out. `share` is for readers: many hold it, and `lock_unshared` takes the exclusive
lock only while nobody does. The operating system frees the lock of a process that ends, however it ends. The
holder deletes the hidden file when it releases the lock. The next holder deletes that of a killed process.
"""

from __future__ import annotations

import glob
import json
import os
import socket
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import lock_descriptor

from t3d.errors import ConfigError, printable
from t3d.io.files import writing

_HEX = "[0-9a-f]" * 32
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """A lock that this process holds, until `release` or the end of the process.

    A forked child does not hold its parent's locks.

    Args:
        path: The hidden file.
        descriptor: The file, open and locked.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor
        _held.add(self)

    def sign(self) -> None:
        """Write this process into the hidden file, for the message to others. See `holder_of`."""
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        note = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        if self._descriptor is not None:
            with suppress(OSError):  # the disk may be full
                os.ftruncate(self._descriptor, 0)  # of a killed holder
                os.write(self._descriptor, json.dumps(note).encode())

    def release(self) -> None:
        """Delete the hidden file and let the next one in; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if _is_still(self.path, descriptor):
            with suppress(OSError):  # Windows deletes no open file: the next holder finds it unlocked
                self.path.unlink()  # while it is locked: whoever waits for it sees that it is gone
        os.close(descriptor)

    def _forget(self) -> None:
        """Close what a forked child inherited; the parent's lock stays."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def lock(path: Path, *, wait: bool = False) -> Lock | None:
    """Lock a file or folder against every other caller of `lock`.

    Args:
        path: The file, which need not exist, or the folder. A file's lock is `.NAME.lock` next to it, a
            folder's is `.lock` in it.
        wait: Whether to wait until the lock is free.

    Returns:
        The lock; None if another process holds it.

    Raises:
        OSError: The lock cannot be made, or the file system has no locks.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with lock(target):
        ...     print(lock(target))
        None
    """
    held = _acquire(_lock_path(path), wait=wait)
    if held is not None:
        held.sign()
    return held


def holder_of(path: Path) -> str:
    """Return who holds the lock of a file or folder, in words. Empty if that is unknown.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with lock(target):
        ...     holder_of(target)  # doctest: +ELLIPSIS
        'process ... on ..., since ...'
    """
    with suppress(OSError, ValueError, KeyError, TypeError):  # Windows lets nobody else read a locked file
        note = json.loads(_lock_path(path).read_bytes())
        return printable(f"process {note['pid']} on {note['host']}, since {note['since']}")
    return ""


def share(path: Path) -> Lock:
    """Lock a file as one of many readers; waits while somebody holds its exclusive lock.

    Raises:
        OSError: The lock cannot be made.
    """
    exclusive = _lock_path(path)
    while True:
        reader = _acquire(path.with_name(f".{path.name}.{uuid.uuid4().hex}.lock"), wait=True)
        assert reader is not None
        # Looked for after the reader's own lock is there: an exclusive holder either sees that, or is seen.
        if not exclusive.exists():
            return reader
        reader.release()
        other = _acquire(exclusive, wait=True)
        assert other is not None
        other.release()


def lock_unshared(path: Path) -> Lock | None:
    """Lock a file that has no readers; see `share`.

    Returns:
        The lock; None if the file has readers or is locked.

    Raises:
        OSError: The lock cannot be made.
    """
    exclusive = lock(path)
    if exclusive is None:
        return None
    try:
        for entry in path.parent.glob(f".{glob.escape(path.name)}.{_HEX}.lock"):
            reader = _acquire(entry, wait=False)
            if reader is None:
                exclusive.release()
                return None
            reader.release()  # its process was killed
    except BaseException:
        exclusive.release()
        raise
    return exclusive


@contextmanager
def alone_in(path: Path) -> Iterator[None]:
    """Keep other runs from writing to a folder or file while the block runs.

    Raises:
        ConfigError: Another run is writing to it.
        OSError: The lock cannot be made.
    """
    with writing(path, _lock_path(path)):
        held = lock(path)
    if held is None:
        holder = holder_of(path)
        raise ConfigError(
            f"another run is writing to {path}{holder and f' ({holder})'}; wait until it ends, stop it, or "
            "choose another path"
        )
    with held:
        yield


def _lock_path(path: Path) -> Path:
    return path / ".lock" if path.is_dir() else path.with_name(f".{path.name.removeprefix('.')}.lock")


def _acquire(path: Path, *, wait: bool) -> Lock | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock_descriptor(descriptor, blocking=wait):
                os.close(descriptor)
                return None
            if _is_still(path, descriptor):
                return Lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder deleted it between our opening and locking it


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def _forget_in_child() -> None:
    for held in list(_held):
        held._forget()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_in_child)
