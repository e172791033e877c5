"""Patterns of paths, such as `clips/**/*.mp4`, for shells and files that do not expand them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path

from t3d.data.listing import OTHER_ENDINGS, ending_of, in_name_order
from t3d.errors import ManifestError
from t3d.io.files import is_url


def is_pattern(name: str) -> bool:
    """Return whether a name is a pattern of paths. The exact name of a file or folder never is.

    Example:
        >>> is_pattern("clips/*.mp4"), is_pattern("clips/a.mp4"), is_pattern("https://example.org/a?b=*")
        (True, False, False)
    """
    return has_magic(name) and not is_url(name) and not os.path.lexists(name)


def expanded(names: Sequence[str]) -> list[str]:
    """Replace patterns by the files and folders that they match, in name order; each path is kept once.

    In a pattern, `*` stands for any characters within a name, `?` for one, `[ab]` for one of these, and `**`
    for any folders. Hidden files are not matched. Files that are not videos by their endings are left out,
    unless the pattern has the same ending, as in `lists/*.csv`.

    Args:
        names: Paths, URLs and patterns. Names that are not patterns are kept, whether they exist or not.

    Raises:
        ManifestError: A pattern matches nothing, or only other files.

    Example:
        >>> expanded(["b.mp4", "a.mp4"])
        ['b.mp4', 'a.mp4']
    """
    paths: list[str] = []
    for name in names:
        paths += _matches(name) if is_pattern(name) else [name]
    return list(dict.fromkeys(paths)) if paths != list(names) else paths


def _matches(pattern: str) -> list[str]:
    matches = in_name_order(glob(pattern, recursive=True))  # noqa: PTH207 (of any path, also absolute)
    if not matches:
        raise ManifestError(
            f"{pattern}: no file or folder matches this pattern; check the folder, and that `**` stands for "
            "folders and `*` for a part of a name"
        )
    ending = ending_of(pattern)
    # `clips/**` matches folders and the files in them: a file counts once, in its folder.
    folders = {str(Path(path)) for path in matches if Path(path).is_dir()}
    kept = [
        path
        for path in matches
        if not any(str(parent) in folders for parent in Path(path).parents)
        and (str(Path(path)) in folders or ending_of(path) not in OTHER_ENDINGS or ending_of(path) == ending)
    ]
    if not kept:
        others = ", ".join(sorted({ending_of(path) for path in matches})[:5])
        raise ManifestError(
            f"{pattern}: this pattern matches {len(matches)} files, but no video ({others}); give a pattern "
            "of videos, such as one that ends in *.mp4"
        )
    return kept
