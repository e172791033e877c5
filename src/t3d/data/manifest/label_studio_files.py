"""Find the videos of a Label Studio export in a folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from t3d.data.listing import videos_below
from t3d.errors import ManifestError
from t3d.io.files import is_url

_UPLOAD = "/data/upload/"
_LOCAL = "/data/local-files/"
_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # that of an uploaded file


def stored_path(name: str) -> str:
    """Return the path in a name of Label Studio.

    Example:
        >>> stored_path("/data/upload/3/1a2b3c4d-run.mp4")
        '3/1a2b3c4d-run.mp4'
        >>> stored_path("/data/local-files/?d=films/a%20b.mp4")
        'films/a b.mp4'
        >>> stored_path("https://host/films/run.mp4?key=1")
        'films/run.mp4'
    """
    if _LOCAL in name:
        return unquote(parse_qs(urlsplit(name).query).get("d", [""])[0])
    if _UPLOAD in name:
        return unquote(name.partition(_UPLOAD)[2])
    if is_url(name):
        return unquote(urlsplit(name).path).lstrip("/")
    return name


class VideoFinder:
    """Finds files below a folder by the names that Label Studio stored.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def find_all(self, export: str, names: Sequence[str]) -> list[str]:
        """Return the path of each video. A URL without a file below the folder stays a URL.

        Args:
            export: The export, for messages.
            names: The videos as Label Studio stored them.

        Raises:
            ManifestError: Some videos are missing, or their names fit several files.
        """
        paths = [self._find(export, name) for name in names]
        missing = sorted({name for name, path in zip(names, paths, strict=True) if path is None})
        if missing:
            raise ManifestError(
                f"{export}: {len(missing)} of {len(set(names))} videos are not in {self._root}, the first "
                f"{missing[0]!r}; give the folder that has them as `root`. Names may have the prefix that "
                "Label Studio gives to an upload, or not"
            )
        return [path for path in paths if path is not None]

    def _find(self, export: str, name: str) -> str | None:
        stored = stored_path(name)
        for path in self._places(stored):
            if path.is_file():
                return str(path)
        for wanted in dict.fromkeys(_uploaded(each) for each in _names(PurePosixPath(stored).name)):
            files = self._by_name.get(wanted, [])
            if len(files) > 1:
                raise ManifestError(
                    f"{export}: {name!r} may be {files[0]} or {files[1]} in {self._root}; keep one of them "
                    "there"
                )
            if files:
                return str(self._root / files[0])
        return name if is_url(name) and _LOCAL not in name and _UPLOAD not in name else None

    def _places(self, stored: str) -> Iterator[Path]:
        """Yield where a file may be: its path, the ends of its path below the folder, without the prefix."""
        path = PurePosixPath(stored)
        if path.is_absolute():
            yield Path(path)
        parts = [part for part in path.parts if part not in ("/", "..", ".")]
        for first in range(len(parts)):
            for name in _names(parts[-1]):
                yield self._root.joinpath(*parts[first:-1], name)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The videos below the folder by their names, as Label Studio writes these."""
        videos: defaultdict[str, list[str]] = defaultdict(list)
        if self._root.is_dir():
            for path in videos_below(str(self._root))[0]:
                videos[_uploaded(os.path.basename(path))].append(path)  # noqa: PTH119 (of many paths)
        return dict(videos)


def _names(name: str) -> list[str]:
    """Return a file name, and the same without the prefix of an upload."""
    return list(dict.fromkeys([name, _PREFIX.sub("", name)]))


def _uploaded(name: str) -> str:
    """Return a name as an upload changes it: spaces become underscores, and other signs are removed."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))
