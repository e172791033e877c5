"""Paths as columns of text, for lists of a million files."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.compute as pc

from t3d.errors import ManifestError

_ROOTED = r"^([A-Za-z]:)?[/\\]" if os.sep == "\\" else "^/"


def absolute_paths(paths: pa.Array, base: str) -> pa.Array:
    """Join relative paths to a folder, and resolve `.` and `..`.

    Args:
        paths: Absolute or relative paths, string [N].
        base: Absolute path of the folder.

    Raises:
        ManifestError: A path is not valid UTF-8.

    Example:
        >>> absolute_paths(pa.array(["a.mp4", "../b.mp4", "/c.mp4"]), "/videos").to_pylist()
        ['/videos/a.mp4', '/b.mp4', '/c.mp4']
    """
    rooted = pc.match_substring_regex(paths, _ROOTED)
    joined = pc.if_else(rooted, paths, pc.binary_join_element_wise(base.rstrip(os.sep), paths, os.sep))
    crooked = pc.match_substring_regex(joined, r"[/\\][/\\]|(^|[/\\])\.\.?([/\\]|$)")
    if not pc.any(crooked).as_py():
        return joined
    pairs = zip(joined.to_pylist(), crooked.to_pylist(), strict=True)
    return strings([os.path.normpath(path) if bent else path for path, bent in pairs])


def relative_to(paths: pa.Array, folder: str) -> pa.Array:
    """Make the paths below a folder relative to it; the others stay, string [N].

    Args:
        paths: Absolute paths, string [N].
        folder: Absolute path of the folder.
    """
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
