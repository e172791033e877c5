"""Folder of one run of the server: every upload is in it, and it is deleted when the server ends.

A server that is killed cannot delete it. Its scoring processes notice that and delete it. If they were killed
as well, the next server that starts on this machine does.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from t3d.io.files import writing
from t3d.io.locks import Lock, lock

PREFIX = "t3d-serve-"
_STARTING = "t3d-starting-"


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
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def delete_orphans() -> list[Path]:
    """Delete the folders of servers that were killed, and return them."""
    deleted = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, or another server was faster
            if not _is_ours(folder):
                continue
            held = lock(folder)
            if held is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            held.release()
            deleted.append(folder)
    return deleted


def _is_ours(folder: Path) -> bool:
    status = folder.lstat()
    owner = getattr(os, "getuid", lambda: status.st_uid)()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == owner
