"""Videos and parts of videos to classify, from the files, folders and lists that a command names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from t3d.data.catalog import TABLES, open_manifest
from t3d.data.listing import absolute
from t3d.data.manifest.manifest import Manifest
from t3d.data.official.hmdb51 import named_part
from t3d.data.paths import strings
from t3d.data.patterns import expanded
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.io.video_cache import local_name, original


class Part(NamedTuple):
    """A video, or a time span of one.

    Args:
        path: The file, or a URL.
        start: Start of the span, in seconds; None for the file's beginning.
        end: End of the span, in seconds; None for the file's end.
    """

    path: str
    start: float | None = None
    end: float | None = None


def is_list(name: str) -> bool:
    """Return whether a name is that of a list of videos, and not of a video or a folder."""
    if Path(name).is_dir():
        return False
    return named_part(name) is not None or Path(name).suffix.lower() in (
        *TABLES,
        ".json",
        ".jsonl",
        ".parquet",
    )


def parts_of(
    names: Sequence[str],
    *,
    root: str | None = None,
    unreadable: list[Failed] | None = None,
    labels: dict[Part, tuple[str, ...]] | None = None,
) -> list[Part]:
    """Return the videos, and the time spans of videos, that names stand for, in their order.

    Args:
        names: Video files and their URLs, folders of videos, lists as in `open_manifest`, and patterns of
            these, see `t3d.data.patterns`.
        root: Folder that relative paths of lists start from.
        unreadable: List that collects subfolders that cannot be read. Without it, they are an error.
        labels: Dictionary that collects the classes of the videos in labeled lists.

    Raises:
        ManifestError: No videos were found, a pattern matches nothing, or a list cannot be read.
        ConfigError: `root` is set, and no name is that of a list.
    """
    if not names:
        raise ManifestError("no videos given: name at least one file, folder or list")
    # A pattern of indexes is one index, see `open_manifest`.
    indexes = {name for name in names if name.lower().endswith(".parquet")}
    names = [path for name in names for path in ([name] if name in indexes else expanded([name]))]
    lists = [name for name in names if is_list(name)]
    if root is not None and not lists:
        raise ConfigError(
            f"`root` is {root}, but {' and '.join(names)} would not use it: only a list has relative paths. "
            "Remove `root`, or give a list"
        )
    parts: list[Part] = []
    for name in names:
        if name in lists:
            manifest = open_manifest(name, root=root)
        else:
            manifest = Manifest.from_files([name], unreadable=unreadable)
        parts += rows_of(manifest)
        if labels is not None:
            _add_labels(manifest, labels)
    return parts


def _add_labels(manifest: Manifest, labels: dict[Part, tuple[str, ...]]) -> None:
    """Add the classes of labeled rows. A part of several rows has the classes of all of them."""
    if not manifest.classes:
        return
    for entry in (manifest[row] for row in range(len(manifest))):
        numbers = entry.labels if entry.labels is not None else () if entry.label is None else (entry.label,)
        part = Part(original(str(entry.path)), entry.start, entry.end)
        names = [manifest.classes[number] for number in numbers]
        if names:
            labels[part] = tuple(dict.fromkeys([*labels.get(part, ()), *names]))


def rows_of(manifest: Manifest) -> list[Part]:
    """Return the rows of a manifest as parts; a row with several labels, or a repeated one, is one part."""
    paths, *span = (manifest.table[name].to_pylist() for name in ("path", "start", "end"))
    return list(dict.fromkeys(Part(*row) for row in zip(map(original, paths), *span, strict=True)))


def as_manifest(parts: Sequence[Part | str | os.PathLike[str]]) -> Manifest:
    """Return a list of unlabeled videos.

    Args:
        parts: Parts of videos, or files, and folders, which stand for the videos in them.

    Raises:
        ManifestError: No path, or a folder without video.
    """
    given = [part for part in parts if isinstance(part, Part)]
    if not given or len(given) < len(parts):
        return Manifest.from_files([part.path if isinstance(part, Part) else part for part in parts])
    paths = strings([absolute(local_name(part.path)) for part in given])
    columns = {
        "path": paths,
        "label": pa.nulls(len(given), pa.int32()),
        "start": pa.array([part.start for part in given], pa.float64()),
        "end": pa.array([part.end for part in given], pa.float64()),
        "source": paths,
    }
    return Manifest((), pa.table(columns))
