"""Files and folders that get their final names when they are complete, and their temporary names.

Every hidden name that a run makes is one of these (HEX: 32 hexadecimal digits):

- `.HEX.part`, `.HEX.part.csv`: a file or folder that one writer is making. The writer renames or deletes it;
  `sweep` deletes it after a kill.
- `.NAME.resume.part`, `.NAME.resume.part.json`: a download that the next run resumes. `sweep` deletes it
  after `RESUMABLE`.
- `.lock`, `.NAME.lock`, `.NAME.HEX.lock`: a lock (`t3d.io.locks`). Its holder deletes it; the next holder
  does after a kill.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from t3d.errors import ConfigError, T3DError, WriteError

ABANDONED = 3600.0
"""Seconds without a change after which a temporary file is considered abandoned."""
RESUMABLE = 30 * 24 * 3600.0
"""Seconds without a change after which an unfinished download is deleted."""
URL_PATTERN = r"^[A-Za-z][A-Za-z0-9+.-]+://"
"""Regular expression for the start of a URL. A drive letter, as in `C://`, is not one."""
URL_REASON = "this is a URL; download it first with `t3d prepare download`"
"""Reason why a URL cannot be opened as a file or folder."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEMPORARY = "." + "[0-9a-f]" * 32 + ".part*"
_RESUMED = ".resume.part"


def is_url(name: str) -> bool:
    """Return whether a name is a URL and not a path.

    Example:
        >>> is_url("s3://bucket/shards/index.parquet"), is_url("C:/shards/index.parquet")
        (True, False)
    """
    return re.match(URL_PATTERN, name) is not None


def refuse_url(name: str | os.PathLike[str], *, error: type[T3DError] = ConfigError) -> None:
    """Raise an error for a URL that is given instead of a file or folder.

    Call it before `pathlib` or `os.path` changes the name: `Path("https://host/a")` is `https:/host/a`.

    Args:
        name: The name as the user gave it.
        error: Type of the error.

    Raises:
        T3DError: The name is a URL. The error has the type `error`.
    """
    if is_url(os.fspath(name)):
        raise error(f"{os.fspath(name)}: {URL_REASON}")


def refuse_unreadable(path: Path, *, name: str, error: type[T3DError]) -> None:
    """Raise an error for a file that is missing or cannot be read, and say which.

    Args:
        path: The file.
        name: Kind of the file, such as "weights file".
        error: Type of the error.

    Raises:
        T3DError: The file cannot be opened. The error has the type `error`.
    """
    try:
        with path.open("rb"):
            return
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise error(f"{path}: no such {name}") from missing
    except PermissionError as denied:
        raise error(
            f"{path}: this {name} cannot be read: Permission denied. Change its permissions, or run t3d as a "
            "user who may read it and its folders"
        ) from denied
    except OSError as failed:
        raise error(f"{path}: this {name} cannot be read: {failed.strerror}") from failed


@contextmanager
def writing(path: str | os.PathLike[str], *temporary: Path) -> Iterator[None]:
    """Raise an error that names a file if the block cannot write it. Everything that is written uses this.

    Args:
        path: The file, by its final name.
        *temporary: Other names that it has meanwhile.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to. Errors of other files, which the
            block reads, are raised unchanged.
    """
    final = Path(path)
    try:
        yield
    except OSError as error:
        names = (final, final.parent, *temporary)
        own = error.filename is None or any(Path(os.fsdecode(error.filename)) == name for name in names)
        if error.errno in _FULL or (own and error.errno is not None):
            raise WriteError.of(final, error) from error
        raise
    except WriteError as error:  # of a writer that was given a temporary name
        for name in temporary:
            error.problem = error.problem.replace(os.fspath(name), os.fspath(final))
        raise


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary name next to `path`, which replaces `path` when the block succeeds.

    Args:
        path: The final name. Its folder is created if it is missing; an existing file is replaced.

    Yields:
        The temporary name, different for every writer. It keeps the file extension, by which some writers
        choose the format.

    Raises:
        WriteError: The disk is full, or the folder cannot be written to. An existing file is unchanged.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text()
        'whole'
    """
    final = Path(path)
    temporary = temporary_name(final)
    with writing(final, temporary):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch(exist_ok=False)
            rights = (
                temporary.stat().st_mode
            )  # those of new files in this folder; safetensors would deny others access
            temporary.unlink()
            yield temporary
            temporary.chmod(rights)
            with temporary.open("rb+") as file:  # else a power failure may leave the name without content
                os.fsync(file.fileno())
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder with a temporary name, which gets its final name when the block succeeds.

    Args:
        path: The final name. Its parent folder is created if it is missing.
        replace: Whether to delete an existing folder of this name just before the new one replaces it.

    Yields:
        The folder to fill.

    Raises:
        ConfigError: The final name exists, and `replace` is off.
        WriteError: The disk is full, or the parent folder cannot be written to.

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
    with writing(final, temporary):
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
        ConfigError: The folder cannot be created, read or written, or is a URL.
    """
    refuse_url(path)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{name}: the folder {folder} cannot be created: {error}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"{name}: the folder {folder} cannot be read and written; choose another folder")
    return folder


def temporary_name(final: Path, *, suffix: str | None = None) -> Path:
    """Return a new temporary name next to a final one; `sweep` deletes files of such names.

    Args:
        final: The final name.
        suffix: The file extension; None takes that of the final name.
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
    """Return the name of a download that several runs may continue: `.NAME.resume.part` next to the file."""
    return final.with_name(f".{final.name}{_RESUMED}")


def sweep(folder: Path, *, older_than: float = 0.0) -> None:
    """Delete the unfinished files that killed processes left in a folder, and abandoned downloads.

    Args:
        folder: Folder in which files and folders were written under temporary names.
        older_than: Minimum seconds since the last change; `ABANDONED` if others may be writing.
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
    """Return a digest of the content of a file: 32 hexadecimal digits (BLAKE2b, 128 bits).

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class FileDigests:
    """Names of files by their content. A file that has not changed since is not read again.

    Args:
        prefix: Bytes that the name depends on as well.
        known: Function that returns the `content_digest` of a file if it is known; else None.
    """

    def __init__(self, prefix: bytes, *, known: Callable[[Path], str | None] = lambda _: None) -> None:
        self.prefix = prefix
        self.known = known
        self._seen: dict[tuple[str, int, int], str] = {}

    def __call__(self, path: Path) -> str:
        """Return the name of a file: 32 hexadecimal digits.

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
