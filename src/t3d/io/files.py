"""Files and folders that appear under their final names when they are whole, and the names they have before.

Every hidden name that a run makes is one of these (HEX: 32 hexadecimal digits):

- `.HEX.part`, `.HEX.part.csv`: a file or folder that one writer is making. The writer renames or deletes it;
  `sweep` deletes it after a kill.
- `.NAME.resume.part`, `.NAME.resume.part.json`: a download that the next run resumes. `sweep` deletes it
  after `RESUMABLE`.
- `.lock`, `.NAME.lock`, `.NAME.HEX.lock`: a lock (`t3d.io.locks`). Its holder deletes it; the next holder
  does after a kill.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from t3d.errors import ConfigError

ABANDONED = 3600.0
"""Seconds without a change after which nobody is still writing under a temporary name."""
RESUMABLE = 30 * 24 * 3600.0
"""Seconds without a change after which an unfinished download is given up."""
_TEMPORARY = "." + "[0-9a-f]" * 32 + ".part*"
_RESUMED = ".resume.part"


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


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder under a temporary name, which gets its final name when the block ends well.

    Args:
        path: The final name; the folder above is made if it is missing.
        replace: Whether to delete a folder that has this name, just before the new one takes its place.

    Yields:
        The folder to fill.

    Raises:
        ConfigError: The final name is taken, and `replace` is off.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "videos"
        >>> with atomic_folder(target) as temporary:
        ...     _ = (temporary / "a.txt").write_text("whole")
        >>> [entry.name for entry in target.iterdir()]
        ['a.txt']
    """
    final = Path(path)
    temporary = temporary_name(final, suffix="")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if replace and final.is_dir():
            shutil.rmtree(final)
        if final.exists():
            raise ConfigError(f"{final} already exists; remove it, or choose another folder")
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def writable_folder(path: str | os.PathLike[str], *, name: str) -> Path:
    """Create a folder if it is missing, and make sure that files in it can be read and written.

    Call it before long work whose result goes into the folder.

    Args:
        path: The folder.
        name: The option that gives it, for the message.

    Returns:
        The folder.

    Raises:
        ConfigError: The folder cannot be created, read or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name}: the folder {folder} cannot be created: {error}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{name}: the folder {folder} cannot be read and written; choose another folder")
    return folder


def temporary_name(final: Path, *, suffix: str | None = None) -> Path:
    """Return a new name beside a final one, of the kind that `sweep` deletes.

    Args:
        final: The final name.
        suffix: The ending; None takes that of the final name.
    """
    return final.with_name(f".{uuid.uuid4().hex}.part{final.suffix if suffix is None else suffix}")


def is_temporary(name: str) -> bool:
    """Return whether `temporary_name` gave this name.

    Example:
        >>> is_temporary(temporary_name(Path("a.csv")).name), is_temporary("a.csv")
        (True, False)
    """
    return fnmatchcase(name, _TEMPORARY)


def resumable_name(final: Path) -> Path:
    """Return the name under which a file grows over several runs: `.NAME.resume.part` beside its own."""
    return final.with_name(f".{final.name}{_RESUMED}")


def sweep(folder: Path, *, older_than: float = 0.0) -> None:
    """Delete what killed processes left half-written in a folder, and downloads that nobody resumed.

    Args:
        folder: Where files and folders were written under temporary names.
        older_than: Seconds since the last change; `ABANDONED` where others may be writing just now.
            Unfinished downloads always stay for `RESUMABLE`.
    """
    oldest = {_TEMPORARY: older_than, f".*{_RESUMED}*": max(older_than, RESUMABLE)}
    for pattern, age in oldest.items():
        for entry in folder.glob(pattern):
            with suppress(FileNotFoundError):  # another process was faster
                if time.time() - _last_change(entry) < age:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()


def _last_change(path: Path) -> float:
    """Return when a file, or anything in a folder, last changed."""
    inside = path.rglob("*") if path.is_dir() else ()
    return max(entry.stat().st_mtime for entry in (path, *inside))


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
