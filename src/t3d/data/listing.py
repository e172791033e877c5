"""Which files below a folder are videos, and what else lay there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from t3d.errors import ManifestError

_ENDINGS = """
.3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .hevc .ivf .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov .mp4
.mpeg .mpg .mts .mxf .ogm .ogv .ts .vob .webm .wmv .y4m
"""
VIDEO_ENDINGS = frozenset(_ENDINGS.split())


def is_video(name: str) -> bool:
    """Say whether a file's ending is a video's; the file is not opened.

    Args:
        name: A file name or path.

    Example:
        >>> is_video("Jump/Clip 1.MP4"), is_video("notes.txt")
        (True, False)
    """
    # pathlib needs seconds for a million names
    return os.path.splitext(name)[1].lower() in VIDEO_ENDINGS  # noqa: PTH122


def in_name_order(names: Iterator[str] | list[str] | set[str]) -> list[str]:
    """Sort by name regardless of case; names that differ in case alone keep a fixed order too."""
    return sorted(names, key=lambda name: (name.casefold(), name))


def videos_below(folder: str) -> tuple[list[str], Counter[str]]:
    """Find the videos in a folder and its subfolders, by their endings.

    Hidden files and folders (a name that begins with a dot) and files that are no videos are passed over
    and counted. Links are followed, but never round in a circle.

    Args:
        folder: Where to look.

    Returns:
        Paths relative to `folder` with forward slashes, in name order; and how many files were passed over,
        by ending (`.txt`), or as `hidden`, `no ending`, `broken link` or `not a file`.

    Raises:
        ManifestError: The folder, or one below it, cannot be read.
    """
    skipped: Counter[str] = Counter()
    found = in_name_order(_walk(folder, "", frozenset(), skipped))
    return found, skipped


def passed_over(entry: os.DirEntry[str]) -> str | None:
    """Say why a directory entry is neither a video nor a folder to look into, or None if it is one.

    Args:
        entry: What `os.scandir` gave.
    """
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_dir():
        return None
    if not entry.is_file():
        return "broken link" if entry.is_symlink() else "not a file"
    return None if is_video(entry.name) else PurePosixPath(entry.name).suffix.lower() or "no ending"


def scan(folder: str) -> list[os.DirEntry[str]]:
    """List one folder; a folder that cannot be listed is a ManifestError.

    Args:
        folder: Which.

    Raises:
        ManifestError: It is absent, no folder, or closed to us.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be listed ({error.strerror}); give a folder") from error


def absolute(path: str | os.PathLike[str]) -> str:
    """Give the whole path without `.` and `..`; a link stays a link, since its name may tell the class."""
    return os.path.abspath(os.fspath(path))  # noqa: PTH100


def joined(base: str, relative: list[str]) -> list[str]:
    """Join paths with forward slashes to a folder; by hand, since pathlib needs seconds for a million."""
    prefix = base.rstrip(os.sep) + os.sep
    return [prefix + path.replace("/", os.sep) for path in relative]


def _walk(
    folder: str, prefix: str, above: frozenset[tuple[int, int]], skipped: Counter[str]
) -> Iterator[str]:
    entries = scan(folder)
    status = Path(folder).stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        skipped["link in a circle"] += 1
        return
    for entry in entries:
        reason = passed_over(entry)
        if reason:
            skipped[reason] += 1
        elif entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {identity}, skipped)
        else:
            yield prefix + entry.name
