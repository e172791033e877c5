"""Find the index that a comparison of lists can use, or the command that creates one."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.index import VideoIndex, read_table
from t3d.data.listing import absolute
from t3d.data.manifest.table import VideoTable
from t3d.data.moved import holds_much
from t3d.errors import ManifestError
from t3d.io.files import is_url
from t3d.video.image_names import file_state

INDEX_NAME = "index.parquet"
"""Name of an index that is found without being named."""


class Listed(NamedTuple):
    """List of videos with its name.

    Args:
        videos: The list.
        name: File or folder of the list, as the user gave it. Empty for the saved list of a run.
    """

    videos: VideoTable
    name: str = ""


def nearby_index(*lists: Listed, files: Iterable[Path] = ()) -> VideoIndex | None:
    """Read every `index.parquet` next to lists or next to their videos.

    Files whose size differs from that in the index are left out: they have changed since. An `index.parquet`
    that is not an index is ignored.

    Args:
        lists: Lists of videos.
        files: Other indexes to read.

    Returns:
        None if there is no index, or none has a file of the lists.
    """
    folders = [folder for each in lists for folder in _folders(each)]
    names = dict.fromkeys([*map(str, files), *(str(Path(folder) / INDEX_NAME) for folder in folders)])
    tables = []
    for file in names:
        with suppress(ManifestError):
            if Path(file).is_file():
                tables.append(read_table(file))
    if not tables:
        return None
    table = pa.concat_tables(tables)
    paths = pa.concat_arrays([each.videos.table["path"].unique() for each in lists])
    table = table.filter(pc.is_in(table["path"], value_set=paths))
    table = table.filter(pa.array(_unchanged(table), pa.bool_()))
    return VideoIndex(table, name=", ".join(names)) if len(table) else None


def index_command(*lists: Listed) -> str:
    """Return the command that creates an index of the files of some lists, where `nearby_index` finds it.

    Args:
        lists: Lists of videos.

    Returns:
        The command. Empty if none is known to work: for videos in shards, files that are missing, or files
        without a folder in common.
    """
    named = {each.name: each for each in lists if each.name and not is_url(each.name)}
    paths = np.concatenate([each.videos.table["path"].to_numpy(zero_copy_only=False) for each in lists])
    if not named or any(Path(path).parent.suffix == ".tar" for path in paths.tolist()):
        return ""
    first = next(iter(named))
    if len(named) == len({each.name for each in lists}) == 1 and Path(first).is_dir():
        return _command(first, first)
    common = _common(paths.tolist())
    if holds_much(common) or not Path(common).is_dir():
        return ""
    searched = all(common in _folders(each) for each in lists)
    target = common if searched else first if Path(first).is_dir() else str(Path(first).parent)
    return _command(common, target, unlabeled=True)


def _command(videos: str, folder: str, *, unlabeled: bool = False) -> str:
    words = ["t3d", "prepare", "index", _shown(videos), *(["--unlabeled"] if unlabeled else [])]
    return shlex.join([*words, "--out", _shown(str(Path(folder) / INDEX_NAME))])


def _shown(path: str) -> str:
    """Return a path relative to the current folder if it is below it, else the absolute one."""
    whole, current = absolute(path), Path.cwd()
    return str(Path(whole).relative_to(current)) if Path(whole).is_relative_to(current) else whole


def _folders(listed: Listed) -> list[str]:
    """Return the folders whose index is used: of the list, of its videos, and those above the videos."""
    folders = []
    if listed.name and not is_url(listed.name):
        own = absolute(listed.name)
        folders += [own] if Path(own).is_dir() else []
        folders.append(str(Path(own).parent))
    if len(listed.videos):
        videos = _common(listed.videos.table["path"].to_pylist())
        folders += [videos, str(Path(videos).parent)]
    return folders


def _common(paths: Sequence[str]) -> str:
    """Return the deepest folder that holds all files."""
    return os.path.commonpath({os.path.dirname(path) for path in paths} or {os.sep})  # noqa: PTH120 (speed)


def _unchanged(table: pa.Table) -> list[bool]:
    """Return which files of an index have the size that the index says, or are in a shard."""
    same = []
    columns = (table[name].to_pylist() for name in ("path", "size", "offset"))
    for path, size, offset in zip(*columns, strict=True):
        try:
            same.append(offset is not None or file_state(Path(path))[0] == size)
        except OSError:  # it is elsewhere, but the index knows it
            same.append(True)
    return same
