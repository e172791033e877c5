"""Folder of one run of the server: every upload is in it, and it is deleted when the server ends.

A server that is killed cannot delete it. Its scoring processes notice that and delete it. If they were killed
as well, the next server that starts on this machine does.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from t3d.io.files import writing
from t3d.io.locks import Lock, lock

PREFIX = "t3d-serve-"
_STARTING = "t3d-starting-"
_ABANDONED = 60.0  # seconds after which a server that starts has given its folder the final name
_TRIES = 5
_PAUSE = 0.1  # seconds between two tries


class ServeFolder:
    """Folder that only this user can read, with a lock that lasts as long as the process.

    Raises:
        WriteError: It cannot be created, because the disk is full for example.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        with writing(parent / PREFIX):
            starting = Path(tempfile.mkdtemp(prefix=_STARTING))
            # Locked before it gets the name that other servers look for.
            self._lock: Lock | None = lock(starting)
            self.path = starting.rename(parent / starting.name.replace(_STARTING, PREFIX))

    def delete(self) -> None:
        """Delete the folder and everything in it."""
        delete_tree(self.path)
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def delete_orphans() -> list[Path]:
    """Delete the folders of servers that were killed, and return them."""
    deleted = []
    parent = Path(tempfile.gettempdir())
    for folder in [*parent.glob(f"{PREFIX}*"), *parent.glob(f"{_STARTING}*")]:
        with suppress(OSError):  # of another user, or another server was faster
            if not _is_ours(folder):
                continue
            if folder.name.startswith(_STARTING) and time.time() - folder.stat().st_mtime < _ABANDONED:
                continue
            held = lock(folder)
            if held is None:
                continue
            delete_tree(folder)
            held.release()
            deleted.append(folder)
    return deleted


def delete_tree(folder: Path) -> None:
    """Delete a folder, also if another process is about to write a last file into it."""
    for number in range(_TRIES):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        if number < _TRIES - 1:
            time.sleep(_PAUSE)


def _is_ours(folder: Path) -> bool:
    status = folder.lstat()
    owner = getattr(os, "getuid", lambda: status.st_uid)()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner
