"""Names of the frames of a video that is a folder of images. This module imports neither torch nor FFmpeg."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from t3d.errors import VideoError

IMAGE_FPS = 25.0
"""Frames per second of image folders, unless the user gives another rate."""
IMAGE_ENDINGS = frozenset([".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_LEAST = 2  # a folder with a single image is not a video
_SIDE_FILES = frozenset(["thumbs.db", "desktop.ini"])  # Windows writes them


def is_image(name: str) -> bool:
    """Return whether a file's ending is that of an image; the file is not opened."""
    return os.path.splitext(name)[1].lower() in IMAGE_ENDINGS  # noqa: PTH122 (as in `t3d.data.listing`)


def are_frames(names: Iterable[str]) -> bool:
    """Return whether the files of a folder are the frames of one video: images only, at least two.

    Hidden files, `Thumbs.db` and `desktop.ini` do not count.

    Args:
        names: Names of everything in the folder.

    Example:
        >>> are_frames(["img_1.jpg", "img_2.jpg", ".DS_Store"]), are_frames(["a.jpg", "b.mp4"])
        (True, False)
    """
    files = [name for name in names if not _is_side_file(name)]
    return len(files) >= _LEAST and all(map(is_image, files))


def is_image_folder(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder whose files are the frames of one video."""
    try:
        with os.scandir(path) as entries:
            listed = list(entries)
            return are_frames(entry.name for entry in listed) and not any(entry.is_dir() for entry in listed)
    except OSError:
        return False


def image_names(folder: Path) -> list[str]:
    """Return the images of a folder in natural order: `img_2.png` before `img_10.png`.

    Raises:
        VideoError: The folder cannot be read, or is not a folder of images.
    """
    try:
        names = [name for name in os.listdir(folder) if not _is_side_file(name)]  # noqa: PTH208
    except OSError as error:
        raise VideoError(folder, f"cannot be read: {error.strerror}") from error
    others = sorted(name for name in names if not is_image(name))
    if others or len(names) < _LEAST:
        reason = f"holds {others[0]!r}" if others else f"has {len(names)} images"
        endings = ", ".join(sorted(IMAGE_ENDINGS))
        raise VideoError(
            folder,
            f"is a folder, not a video file; a folder of at least {_LEAST} images ({endings}) and nothing "
            "else "
            f"is read as a video, but this one {reason}",
        )
    return sorted(names, key=_natural)


def file_state(path: Path) -> tuple[int, int]:
    """Return size in bytes and modification time in nanoseconds of a file, or of a folder of images.

    A folder has the size of its images together, and the time of the last change of any image or name.

    Raises:
        OSError: The file, or an image of the folder, cannot be looked at.
    """
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size, status.st_mtime_ns
    with os.scandir(path) as entries:
        images = [entry.stat() for entry in entries if is_image(entry.name)]
    times = (image.st_mtime_ns for image in images)
    return sum(image.st_size for image in images), max(status.st_mtime_ns, *times, 0)


def images_digest(folder: Path) -> str:
    """Return a digest of the names and contents of a folder's images: 32 hexadecimal digits.

    Raises:
        VideoError: See `image_names`.
        OSError: An image cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in image_names(folder):
        content = (folder / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
    return digest.hexdigest()


def _is_side_file(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SIDE_FILES


def _natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Return a sort key in which numbers count as numbers; equal numbers keep the order of their names."""
    parts = re.findall(r"\d+|\D+", name)
    keys = [(0, int(part), "") if part.isdecimal() else (1, 0, part.casefold()) for part in parts]
    return keys, name
