"""Unpack archives of videos and of folders of images: `t3d prepare unpack`."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from t3d.data.listing import absolute
from t3d.errors import ArchiveError, ConfigError, Failed, ManifestError, at_least
from t3d.io.archive_names import ENDINGS, is_archive, without_archive_ending
from t3d.io.archives import extract_archive
from t3d.progress import progress

_DEEPEST = 5
"""Levels of archives in an archive that are unpacked."""


@dataclass(frozen=True)
class UnpackReport:
    """Result of unpacking.

    Args:
        archives: Archives that were given or found.
        unpacked: Archives that were unpacked in this run; the others were before, or are among `bad`.
        files: Files that were written in this run.
        videos: Folder to give to other commands: the deepest one that holds everything.
        bad: Archives that could not be unpacked.
    """

    archives: int
    unpacked: int
    files: int
    videos: str
    bad: tuple[Failed, ...]


def unpack(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, max_gb: float | None = None
) -> UnpackReport:
    """Unpack an archive, or every archive below a folder.

    A single archive becomes the folder `out`. An archive `a/b.zip` below a folder becomes the folder
    `out/a/b`; other files are not copied. Each folder gets its name when it is whole, so a repeated command
    unpacks what is missing. Archives in an archive become folders in place, up to five levels deep. Where
    such a folder exists already, they stay, and are reported. Folders `__MACOSX`, which macOS adds to
    archives, are left out.

    Args:
        source: Archive (zip, tar, tar.gz, tar.bz2, tar.xz, rar), or a folder with archives.
        out: Folder to create.
        max_gb: Largest size of the content of one archive, in GB. Default: 20 times the size of the archive,
            and at least 1.

    Returns:
        What was done.

    Raises:
        ArchiveError: The single archive cannot be unpacked, or the folder has no archive.
        ManifestError: There is no such file or folder.
        ConfigError: `out` exists, and the source is a single archive; two archives would fill one folder; or
            an option cannot work.

    Example:
        >>> import tempfile, zipfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with zipfile.ZipFile(place / "set.zip", "w") as file:
        ...     file.writestr("set/jump/a/1.jpg", b"")
        ...     file.writestr("set/run/a/1.jpg", b"")
        >>> Path(unpack(place / "set.zip", place / "new").videos).relative_to(place).as_posix()
        'new/set'
    """
    if max_gb is not None:
        at_least("max_gb", max_gb, 1e-6)
    given, folder = Path(absolute(source)), Path(absolute(out))
    if not given.exists():
        raise ManifestError(f"{source}: no such file or folder")
    if given.is_file():
        jobs = [(given, folder)]
        if folder.exists():
            raise ConfigError(f"`out` is {out}, which already exists; remove it, or choose another folder")
    else:
        if folder == given or folder in given.parents:
            raise ConfigError(f"`out` is {out}, which holds the archives; choose another folder")
        jobs = [
            (path, folder / without_archive_ending(str(path.relative_to(given))))
            for path in _archives(given)
            if folder not in path.parents
        ]
    if not jobs:
        raise ArchiveError(f"{source}: no archive in this folder ({', '.join(ENDINGS)})")
    _refuse_one_folder(jobs)
    done = files = 0
    bad: list[Failed] = []
    with progress("Unpacking archives", len(jobs)) as bar:
        for path, target in jobs:
            try:
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    files += _extracted(path, target, max_gb)
                    done += 1
                files += _unpack_inner(target, max_gb, bad)
            except ArchiveError as error:
                if path == given:
                    raise
                bad.append(_failed(path, error))
            bar.advance()
    return UnpackReport(len(jobs), done, files, str(_videos_in(folder)), tuple(bad))


def _refuse_one_folder(jobs: list[tuple[Path, Path]]) -> None:
    """Refuse archives that would fill the same folder, such as `a.zip` and `a.tar`, or `a.zip` and `a/b.zip`.

    The second one would seem to be unpacked already.

    Raises:
        ConfigError: There are two.
    """
    owner: dict[Path, Path] = {}
    for path, target in jobs:
        if target in owner:
            raise ConfigError(_one_folder(owner[target], path, target))
        owner[target] = path
    for path, target in jobs:
        for folder in target.parents:
            if folder in owner:
                raise ConfigError(_one_folder(owner[folder], path, folder))


def _one_folder(first: Path, second: Path, folder: Path) -> str:
    return f"{first} and {second} would both fill the folder {folder}; rename or move one of them"


def _archives(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if is_archive(path.name) and path.is_file())


def _extracted(archive: Path, folder: Path, max_gb: float | None) -> int:
    """Unpack one archive into a new folder, and return the number of files."""
    count = extract_archive(
        archive,
        folder,
        max_bytes=None if max_gb is None else int(max_gb * 1e9),
        allow="; allow more with `max_gb`",
    )
    rest = folder / "__MACOSX"
    if rest.is_dir():
        count -= sum(path.is_file() for path in rest.rglob("*"))
        shutil.rmtree(rest)
    return count


def _unpack_inner(folder: Path, max_gb: float | None, bad: list[Failed]) -> int:
    """Replace each archive below a folder by a folder of its content, and return the number of new files.

    Archives in these archives follow, up to `_DEEPEST` levels: an archive may contain itself.
    """
    count = 0
    failed: set[Path] = set()
    for _ in range(_DEEPEST):
        for inner in _archives(folder):
            if inner in failed:
                continue
            try:
                count += _unpacked_in_place(inner, max_gb)
            except ArchiveError as error:
                failed.add(inner)
                bad.append(_failed(inner, error))
    reason = f"not unpacked: it is more than {_DEEPEST} archives deep; unpack it yourself"
    bad += [Failed(str(inner), reason) for inner in _archives(folder) if inner not in failed]
    return count


def _unpacked_in_place(inner: Path, max_gb: float | None) -> int:
    """Replace an archive by a folder of its content, and return the number of files that this adds."""
    target = Path(without_archive_ending(str(inner)))
    if os.path.lexists(target):
        raise ArchiveError(
            f"{inner}: not unpacked, because {target} exists. Delete the archive if that is its content; "
            "else rename it and repeat the command, or unpack it yourself"
        )
    count = _extracted(inner, target, max_gb) - 1
    inner.unlink()
    return count


def _failed(path: Path, error: ArchiveError) -> Failed:
    return Failed(str(path), str(error).removeprefix(f"{path}: "))


def _videos_in(folder: Path) -> Path:
    """Return the folder to give to other commands: without folders around it that hold only the next one."""
    while folder.is_dir():
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
        if len(entries) != 1 or not any(path.is_dir() for path in entries[0].glob("*")):
            break
        folder = entries[0]
    return folder
