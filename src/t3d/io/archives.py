"""Unpack an archive, whole or not at all: plain files and folders below one folder, and nothing else.

An untrusted archive may name files outside the folder, hold links to them, or expand without limit. This
module therefore checks the name and kind of each member and writes its content; it calls no unpacking tool.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from t3d.errors import ArchiveError, ConfigError
from t3d.io.files import ABANDONED, atomic_folder, sweep

MAX_FILES = 1_000_000
"""Maximum number of files and folders in an archive."""
GROWTH = 20
"""Maximum size of the content, as a multiple of the archive's size; videos hardly compress."""
SMALL = 1 << 30
"""Size in bytes that the content of any archive may have, however small the archive is."""
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 24

# Errors that the readers raise for corrupt bytes; some were found by experiment.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    struct.error,
    ValueError,
    IndexError,
)

# A member: its name, and how to open it; None for a folder.
_Member = tuple[str, Callable[[], IO[bytes]] | None]


def archive_kind(path: Path) -> str | None:
    """Return the kind of a file by its first bytes: `zip`, `rar`, `tar`, `gz`, `bz2`, `xz`, or None.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(262)
    for kind, start in _STARTS.items():
        if head.startswith(start):
            return kind
    return "tar" if head[257:262] == b"ustar" else None


_STARTS = {
    "zip": b"PK\x03\x04",
    "rar": b"Rar!\x1a\x07",
    "gz": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\x00",
}


def extract_archive(
    archive: Path,
    folder: Path,
    *,
    nested: bool = False,
    max_files: int = MAX_FILES,
    max_bytes: int | None = None,
    allow: str = "",
) -> int:
    """Unpack zip, tar, tar.gz, tar.bz2, tar.xz or rar into a new folder.

    The content is written under a temporary name next to the folder, which gets its final name at the end.
    Permissions, owners and times are not restored.

    Args:
        archive: The file. Its first bytes determine its kind. A rar needs the package `rarfile`, and a
            program that it can call if the content is compressed.
        folder: Folder to create; it must not exist.
        nested: Whether to unpack archives in the archive in place and delete them.
        max_files: Maximum number of files and folders.
        max_bytes: Maximum size of the content, in bytes. None: `GROWTH` times the archive's size, and at
            least `SMALL`.
        allow: End of the message about an archive that is larger: how to allow it.

    Returns:
        The number of files.

    Raises:
        ArchiveError: The archive is corrupt or too large, the file is not an archive, or a member is not a
            file or folder below the folder.
        ConfigError: The folder exists.
        OSError: The folder cannot be written to.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(place / "a.zip", "w") as file:
        ...     file.writestr("lists/one.txt", "content")
        >>> extract_archive(place / "a.zip", place / "a")
        1
        >>> (place / "a" / "lists" / "one.txt").read_text()
        'content'
    """
    if folder.exists():
        raise ConfigError(f"{folder} already exists; remove it, or choose another folder")
    sweep(folder.parent, older_than=ABANDONED)
    with atomic_folder(folder) as growing:
        count = _extract(archive, growing, max_files, max_bytes, allow)
        if nested:
            inner = [path for path in growing.rglob("*") if path.is_file() and archive_kind(path)]
            for path in sorted(inner):
                count += _extract(path, path.parent, max_files, max_bytes, allow) - 1
                path.unlink()
        if hasattr(os, "sync"):  # else a power failure may leave the final name without content
            os.sync()
    return count


def _extract(archive: Path, folder: Path, max_files: int, max_bytes: int | None, allow: str) -> int:
    limit = max(GROWTH * archive.stat().st_size, SMALL) if max_bytes is None else max_bytes
    entries = files = written = 0
    members = _members(archive)
    while True:
        with _reading(archive):
            member = next(members, None)
        if member is None and files:
            return files
        if member is None:
            raise ArchiveError(f"{archive}: the archive is empty")
        name, opening = member
        entries += 1
        if entries > max_files:
            raise ArchiveError(f"{archive}: holds more than {max_files:,} files and folders")
        target = _below(archive, folder, name)
        if opening is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        files += 1
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise ArchiveError(f"{archive}: holds {name!r} twice") from error
        with file:
            for block in _content(archive, opening):
                written += len(block)
                if written > limit:
                    raise ArchiveError(
                        f"{archive}: holds more than {limit:,} bytes; nothing is unpacked{allow}"
                    )
                file.write(block)


def _content(archive: Path, opening: Callable[[], IO[bytes]]) -> Iterator[bytes]:
    with _reading(archive):
        source = opening()
    with source:
        while True:
            with _reading(archive):
                block = source.read(_BLOCK)
            if not block:
                return
            yield block


def _below(archive: Path, folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise ArchiveError(f"{archive}: holds {name!r}, which is not below the folder; nothing is unpacked")
    return folder.joinpath(*parts)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turn the errors of the readers into an `ArchiveError`."""
    try:
        yield
    except tarfile.FilterError as error:
        raise ArchiveError(f"{archive}: {error}; nothing is unpacked") from error
    except (NotImplementedError, OSError) as error:  # a method of packing that is not known; a failing disk
        raise ArchiveError(f"{archive}: cannot be read: {error}") from error
    except _DAMAGED as error:
        raise ArchiveError(f"{archive}: the archive is corrupt: {error}") from error
    except Exception as error:
        rarfile: Any = sys.modules.get("rarfile")  # optional: its errors come only where it was imported
        if rarfile is None or not isinstance(error, rarfile.Error):
            raise
        hint = "; install unrar or unar" if isinstance(error, rarfile.RarExecError) else ""
        raise ArchiveError(f"{archive}: cannot be unpacked: {error}{hint}") from error


def _members(archive: Path) -> Iterator[_Member]:
    kind = archive_kind(archive)
    if kind is None:
        raise ArchiveError(
            f"{archive}: is not an archive; zip, tar, tar.gz, tar.bz2, tar.xz and rar are unpacked"
        )
    if kind == "zip":
        return _zip(archive)
    if kind == "rar":
        return _rar(archive)
    return _tar(archive, kind)


def _special(archive: Path, name: str, what: str) -> ArchiveError:
    return ArchiveError(f"{archive}: holds {name!r}, {what}; only files and folders are unpacked")


# --- zip -------------------------------------------------------------------------------------------------


def _zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(archive, info.filename, "a link or device")
            if info.flag_bits & 1:
                raise ArchiveError(f"{archive}: {info.filename!r} is encrypted; unpack it yourself")
            yield info.filename, None if info.is_dir() else partial(opened.open, info)


# --- tar -------------------------------------------------------------------------------------------------


def _tar(archive: Path, kind: str) -> Iterator[_Member]:
    opening: dict[str, Any] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open, "tar": open}
    with opening[kind](archive, "rb") as content:
        bounded = _Bounded(content, archive)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:") as opened:
            for member in opened:
                if not (member.isfile() or member.isdir()):
                    raise _special(archive, member.name, "a link or device")
                tarfile.data_filter(member, str(archive.parent))  # a second opinion of the name
                yield member.name, None if member.isdir() else partial(_file_of, opened, member)
        if len(bounded.last) != tarfile.BLOCKSIZE or bounded.last.strip(b"\0"):
            raise ArchiveError(f"{archive}: the archive is corrupt: it ends before its end marker")
        bounded.read(_LONGEST_HEADER)  # the checksum of a compressed file is at its very end
        if bounded.read(1):
            raise ArchiveError(f"{archive}: the archive is corrupt: it continues after its end marker")


def _file_of(opened: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = opened.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} has no content")
    return file


class _Bounded:
    """File with bounded reads: tarfile allocates as much memory as a header asks for."""

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self.tell, self.seek = file.tell, file.seek
        self.last = b""
        self._file, self._archive = file, archive

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ArchiveError(f"{self._archive}: holds a header of {size:,} bytes")
        self.last = self._file.read(size)
        return self.last


# --- rar -------------------------------------------------------------------------------------------------


def _rar(archive: Path) -> Iterator[_Member]:
    try:
        import rarfile
    except ModuleNotFoundError as error:
        raise ArchiveError(
            f"{archive}: unpacking a rar needs the package rarfile: pip install 't3d[rar]'. Or unpack it "
            f"yourself: unrar x {archive.name}"
        ) from error
    with rarfile.RarFile(archive, errors="strict") as opened:
        if opened.needs_password():
            raise ArchiveError(f"{archive}: the archive is encrypted; unpack it yourself")
        for info in opened.infolist():
            if not (info.is_file() or info.is_dir()):
                raise _special(archive, info.filename, "a link or device")
            if info.filename.startswith(("-", "@")):  # the program would take it for an option
                raise _special(archive, info.filename, "an odd name")
            yield info.filename, None if info.is_dir() else partial(opened.open, info)
