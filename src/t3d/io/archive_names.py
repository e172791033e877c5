"""Names of archives, and how to unpack them. `t3d.io.archives`, which is slower to import, reads archives."""

from __future__ import annotations

import os
import shlex

ENDINGS = (".zip", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def is_archive(name: str | os.PathLike[str]) -> bool:
    """Return whether a file's ending is that of an archive; the file is not opened.

    Example:
        >>> is_archive("Set.TAR.gz"), is_archive("a.gz"), is_archive("a.mp4")
        (True, False, False)
    """
    return os.fspath(name).lower().endswith(ENDINGS)


def without_archive_ending(name: str) -> str:
    """Return the name of an archive without its ending.

    Example:
        >>> without_archive_ending("a/Set.v2.tar.gz")
        'a/Set.v2'
    """
    lower = name.lower()
    longest = max((ending for ending in ENDINGS if lower.endswith(ending)), key=len, default="")
    return name[: len(name) - len(longest)]


def unpack_hint(path: str | os.PathLike[str]) -> str:
    """Return the end of a message about an archive: the command that unpacks it, and what to do then.

    Example:
        >>> unpack_hint("sets/a.zip")
        'unpack it with `t3d prepare unpack sets/a.zip --out sets/a`, and give the folder sets/a'
    """
    given = os.fspath(path)
    folder = without_archive_ending(given)
    if os.path.lexists(folder):
        folder += "_unpacked"
    command = shlex.join(["t3d", "prepare", "unpack", given, "--out", folder])
    return f"unpack it with `{command}`, and give the folder {folder}"
