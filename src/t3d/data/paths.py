"""Paths as columns of text, for lists of a million files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from t3d.errors import ManifestError
from t3d.io.files import URL_PATTERN
from t3d.io.video_cache import local_path, original, prefix_of_copies

_ROOTED = r"^([A-Za-z]:)?[/\\]" if os.sep == "\\" else "^/"

_WINDOWS_ROOT = r"^([A-Za-z]:[\\/]|\\\\)"


def absolute_paths(paths: pa.Array, base: str) -> pa.Array:
    """Join relative paths to a folder, and resolve `.` and `..`. URLs become the paths of their local copies.

    Args:
        paths: Absolute or relative paths, or URLs, string [N].
        base: Absolute path of the folder.

    Raises:
        ManifestError: A path is not valid UTF-8, or a URL is not that of a video.

    Example:
        >>> absolute_paths(pa.array(["a.mp4", "../b.mp4", "/c.mp4"]), "/videos").to_pylist()
        ['/videos/a.mp4', '/b.mp4', '/c.mp4']
    """
    urls = pc.fill_null(pc.match_substring_regex(paths, URL_PATTERN), False)
    if pc.any(urls).as_py():
        copies = strings([local_path(url) for url in paths.filter(urls).to_pylist()])
        paths = pc.replace_with_mask(paths, urls, copies)
    rooted = pc.match_substring_regex(paths, _ROOTED)
    joined = pc.if_else(rooted, paths, pc.binary_join_element_wise(base.rstrip(os.sep), paths, os.sep))
    crooked = pc.match_substring_regex(joined, r"[/\\][/\\]|(^|[/\\])\.\.?([/\\]|$)")
    if not pc.any(crooked).as_py():
        return joined
    pairs = zip(joined.to_pylist(), crooked.to_pylist(), strict=True)
    return strings([os.path.normpath(path) if bent else path for path, bent in pairs])


def from_windows(paths: pa.Array, base: str) -> tuple[pa.Array, str | None]:
    r"""Return paths that were written on Windows as those of this machine, as far as that is clear.

    Backslashes in relative paths become slashes. A path with a drive becomes that of the drive's mount
    (`/mnt/c`), where the first of these files exists there.

    Args:
        paths: Absolute or relative paths, string [N].
        base: Absolute path of the folder that relative paths start from.

    Returns:
        The paths, and what was done or is left to do, for the user; None if there are no such paths.

    Example:
        >>> from_windows(pa.array(["jump\\a.mp4", "/b.mp4"]), "/videos")[0].to_pylist()
        ['jump/a.mp4', '/b.mp4']
    """
    if os.sep == "\\":
        return paths, None
    drive = pc.match_substring_regex(paths, _WINDOWS_ROOT)
    inner = pc.and_(pc.match_substring(paths, "\\"), pc.invert(drive))
    remark = None
    if pc.any(inner).as_py():
        first = paths.filter(inner)[0].as_py()
        if not os.path.lexists(os.path.join(base, first)):  # noqa: PTH118 (a name may have a backslash)
            paths = pc.if_else(inner, pc.replace_substring(paths, "\\", "/"), paths)
            remark = "backslashes in paths are read as slashes"
    if pc.any(drive).as_py():
        first = paths.filter(drive)[0].as_py()
        mounted = _mounted(first)
        if mounted is not None and Path(mounted).exists():
            moved = strings([path and (_mounted(path) or path) for path in paths.to_pylist()])
            return moved, f"Windows paths are read as mounted drives, such as {mounted}"
        remark = (
            f"{first} is a path of a Windows machine; `t3d data check` finds the files by name and can write "
            "a corrected list"
        )
    return paths, remark


def _mounted(path: str) -> str | None:
    r"""Return the path below the mount of a drive; None for any other path."""
    match = re.fullmatch(r"([A-Za-z]):[\\/](.*)", path)
    return match and f"/mnt/{match[1].lower()}/" + match[2].replace("\\", "/")


def relative_to(paths: pa.Array, folder: str) -> pa.Array:
    """Make the paths below a folder relative to it, and local copies of URLs their URLs; the others stay.

    Args:
        paths: Absolute paths, string [N].
        folder: Absolute path of the folder.

    Returns:
        string [N].
    """
    copies = pc.starts_with(paths, prefix_of_copies())
    if pc.any(copies).as_py():
        paths = strings([original(path) for path in paths.to_pylist()])
    prefix = folder.rstrip(os.sep) + os.sep
    return pc.if_else(pc.starts_with(paths, prefix), pc.utf8_slice_codeunits(paths, start=len(prefix)), paths)


def strings(values: list[str | None] | list[str]) -> pa.Array:
    """Return a column of text.

    Args:
        values: N texts.

    Raises:
        ManifestError: A file name is not valid UTF-8.
    """
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError as error:
        raise ManifestError(f"{error.object!r}: the name is not valid UTF-8; rename the file") from error
