"""Find the videos below a folder, and count the other files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from t3d.errors import ManifestError
from t3d.io.files import refuse_url
from t3d.video.image_names import are_frames

_ENDINGS = """
.3g2 .3gp .apng .asf .avi .divx .dv .f4v .flv .gif .h264 .hevc .ivf .m2ts .m2v .m4v .mjpeg .mjpg .mkv .mov
.mp4 .mpeg .mpg .mts .mxf .ogm .ogv .ts .vob .webm .wmv .y4m
"""
VIDEO_ENDINGS = frozenset(_ENDINGS.split())


def is_video(name: str) -> bool:
    """Return whether a file's ending is that of a video; the file is not opened.

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
    """Find the videos in a folder and its subfolders, by their endings; a subfolder of images is one video.

    Hidden files and folders (whose names begin with a dot) and other files are skipped and counted. Links are
    followed, except in a circle.

    Args:
        folder: The folder.

    Returns:
        Paths relative to `folder` with forward slashes, in name order; and the number of skipped files
        by ending (`.txt`), or as `hidden`, `no ending`, `broken link` or `not a file`.

    Raises:
        ManifestError: The folder, or one below it, cannot be read.
    """
    skipped: Counter[str] = Counter()
    videos = in_name_order(_walk(folder, "", frozenset(), skipped))
    return videos, skipped


def passed_over(entry: os.DirEntry[str]) -> str | None:
    """Return why a directory entry is skipped, or None if it is a video or a folder to search.

    Args:
        entry: Entry of `os.scandir`.
    """
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_dir():
        return None
    if not entry.is_file():
        return "broken link" if entry.is_symlink() else "not a file"
    return None if is_video(entry.name) else PurePosixPath(entry.name).suffix.lower() or "no ending"


def is_frames(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Return whether the entries of a folder are the frames of one video: images, and nothing else."""
    return are_frames(entry.name for entry in entries) and not any(entry.is_dir() for entry in entries)


def scan(folder: str) -> list[os.DirEntry[str]]:
    """List one folder.

    Args:
        folder: The folder.

    Raises:
        ManifestError: It does not exist, is not a folder, or cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ManifestError(
            f"{folder}: cannot be listed ({error.strerror}); give a readable folder"
        ) from error


def absolute(path: str | os.PathLike[str]) -> str:
    """Return the absolute path without `.` and `..`; a link stays a link, since its name may be the class.

    Raises:
        ManifestError: The path is a URL.
    """
    refuse_url(path, error=ManifestError)
    return os.path.abspath(os.fspath(path))  # noqa: PTH100


def joined(base: str, relative: list[str]) -> list[str]:
    """Join paths with forward slashes to a folder, without pathlib, which needs seconds for a million."""
    prefix = base.rstrip(os.sep) + os.sep
    return [prefix + path.replace("/", os.sep) for path in relative]


def _walk(
    folder: str, prefix: str, above: frozenset[tuple[int, int]], skipped: Counter[str]
) -> Iterator[str]:
    entries = scan(folder)
    if prefix and is_frames(entries):
        yield prefix.rstrip("/")
        return
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
