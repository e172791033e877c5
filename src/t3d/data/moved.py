"""Find files that are missing because a data set was moved, and the folder in which they are now."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.listing import absolute
from t3d.data.manifest.table import VideoTable
from t3d.data.paths import strings
from t3d.errors import ManifestError
from t3d.io.video_cache import is_copy

Videos = TypeVar("Videos", bound=VideoTable)

_SEARCHED = 500_000  # files and folders that a search looks at, at most
_VOTES = 1000  # missing files that say where they were and are
_CANDIDATES = 50  # files of one name that a missing file is compared with
_SAMPLE = 50  # files of a list that are looked for before a run


@dataclass(frozen=True)
class MissingFiles:
    """The files of a list that are missing.

    Args:
        paths: The missing files, in the order of the list.
        files: Number of all files of the list.
        old: Folder in which the list expects them, as the list writes it; empty if its relative paths are
            written with backslashes. None if they were not found.
        new: Folder in which files of the same names are. None if there is none.
        count: Number of missing files that are below `new`.
        root: Whether `old` is the folder that relative paths start from, so that `new` may be given instead.
        searched: Folders that were searched; see `find_missing`.
        moved: The new path of each missing file that was found.
    """

    paths: tuple[str, ...]
    files: int
    old: str | None
    new: str | None
    count: int
    root: bool
    searched: tuple[str, ...]
    moved: dict[str, str] = field(repr=False)

    def __str__(self) -> str:
        verb = "is" if len(self.paths) == 1 else "are"
        text = f"{len(self.paths)} of {self.files} files {verb} missing, first {self.paths[0]}"
        if self.new is None and not self.searched:
            return text
        if self.new is None:
            return f"{text}; no files of these names are below {' or '.join(self.searched)}"
        verb = "is" if self.count == 1 else "are"
        where = f"where the list has {self.old}" if self.old else "and the list has backslashes in its paths"
        return f"{text}; {self.count} of them {verb} below {self.new}, {where}"


def find_missing(
    videos: VideoTable, *, list_folder: str, root: str | None = None, also: Sequence[str] = ()
) -> MissingFiles | None:
    """Look for every file of a list, and search for those that are missing.

    Files of the same name are searched below `root`, then below the list's folder, the folder that holds
    it, and `also`. Of all places, the one that most missing files agree on is proposed. Whole disks are not
    searched: neither `/`, nor mount points, nor folders that hold the home folder.

    Args:
        videos: The list.
        list_folder: Folder of the list.
        root: Folder that relative paths start from, if it is not the list's.
        also: More folders to search.

    Returns:
        None if no file is missing. Videos in shards are not looked for.
    """
    files: list[str] = pc.unique(videos.table["path"]).to_pylist()
    missing = tuple(path for path in files if not _exists(path))
    if not missing:
        return None
    base = absolute(root if root is not None else list_folder)
    own = absolute(list_folder)
    folders = dict.fromkeys([base, own, str(Path(own).parent), *map(absolute, also)])
    searched = [folder for folder in folders if not holds_much(folder)]
    for folder in searched:
        existing = set(_videos_below(folder))
        if proposal := _proposal(missing, base, existing):
            old, new, same_folders = proposal
            moved = {path: to for path in missing if (to := _moved(path, base, old, new)) in existing}
            if not same_folders and 2 * len(moved) < len(missing):
                continue  # a few equal file names, such as 1.mp4, prove nothing
            return MissingFiles(
                missing, len(files), old, new, len(moved), old == base, tuple(searched), moved
            )
    return MissingFiles(missing, len(files), None, None, 0, False, tuple(searched), {})


def holds_much(folder: str) -> bool:
    """Return whether a folder is too much to search: `/`, a mount point, or a folder above the home folder.

    Args:
        folder: The folder; it need not exist.
    """
    real = Path(os.path.realpath(folder))
    home = Path(os.path.realpath(Path.home()))
    return real == Path(real.anchor) or os.path.ismount(real) or real in home.parents


def refuse_moved(
    videos: VideoTable, name: str, *, root: str | None = None, max_missing: float | None = None
) -> MissingFiles | None:
    """Stop before a run if the files of a list are not where it says.

    Args:
        videos: The list.
        name: What the user calls it.
        root: Folder that relative paths start from.
        max_missing: Largest share of files that may be missing. All files are looked for. None: only some
            files are looked for, since a list may have a million, and the list is refused if none of them
            exists: a run names those that it cannot read.

    Returns:
        The missing files, if there are any and `max_missing` allows them.

    Raises:
        ManifestError: Too many files are missing; the message says where files of the same names are.
    """
    if max_missing is None and not _none_exists(videos):
        return None
    given = Path(name)
    folder = given if given.is_dir() else given.parent
    missing = find_missing(videos, list_folder=str(folder), root=root)
    allowed = 1 - 1e-9 if max_missing is None else max_missing
    if missing is None or len(missing.paths) <= allowed * missing.files:
        return missing
    base = absolute(root if root is not None else folder)
    if missing.new is not None:
        hint = f"`t3d data check {name}` can write a corrected list"
    elif all(path.startswith(base) for path in missing.paths):
        hint = "If they moved, give their folder as `root`"
    else:
        hint = "Correct the paths in the list"
    raise ManifestError(f"{name}: {missing}. {hint}")


def _none_exists(videos: VideoTable) -> bool:
    """Return whether a list has files and none of a sample of them exists."""
    places = np.unique(np.linspace(0, len(videos) - 1, min(_SAMPLE, len(videos))).astype(np.int64))
    return len(videos) > 0 and not any(map(_exists, videos.table["path"].take(pa.array(places)).to_pylist()))


def with_found(videos: Videos, missing: MissingFiles) -> Videos:
    """Return a list with the new paths of the files that were found.

    Args:
        videos: The list.
        missing: Its missing files.
    """
    paths, sources = (videos.table[name].to_pylist() for name in ("path", "source"))
    new = [missing.moved.get(path, path) for path in paths]
    for row, (before, after) in enumerate(zip(paths, new, strict=True)):
        if before != after and _is_stem(sources[row], before) and not _is_stem(sources[row], after):
            sources[row] = _stem(after)  # a file that was its own group still is
    table = videos.table
    for name, column in (("path", new), ("source", sources)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), strings(column))
    return replace(videos, table=table)


def _exists(path: str) -> bool:
    # A video in a shard has no path, and a URL is downloaded when it is read.
    return Path(path).exists() or Path(path).parent.suffix == ".tar" or is_copy(path)


def _videos_below(folder: str) -> Iterator[str]:
    """Yield files below a folder; hidden ones, mounted disks and unreadable folders are passed over."""
    looked_at = 0
    for top, folders, files in os.walk(folder):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if not os.path.ismount(os.path.join(top, name))]  # noqa: PTH118
        yield from (os.path.join(top, name) for name in files if not name.startswith("."))  # noqa: PTH118
        looked_at += len(folders) + len(files)
        if looked_at > _SEARCHED:
            return


def _proposal(missing: Sequence[str], base: str, existing: set[str]) -> tuple[str, str, bool] | None:
    """Propose where the missing files are now.

    Returns:
        The folder that most missing files were in, the folder of files of the same names, and whether the
        names of the files' own folders are the same as well.
    """
    by_name: dict[str, list[list[str]]] = defaultdict(list)
    for path in sorted(existing):
        parts = _parts(path)
        for key in (parts[-1], "/".join(parts[-2:])):
            if len(by_name[key]) < _CANDIDATES:
                by_name[key].append(parts)
    votes: Counter[tuple[str, str, bool]] = Counter()
    for path in missing[:: max(1, len(missing) // _VOTES)]:
        written = _as_written(path, base)
        parts = _parts(written)
        candidates = by_name.get("/".join(parts[-2:])) or by_name.get(parts[-1], [])
        common, best = max(((_common(parts, each), each) for each in candidates), default=(0, []))
        if common:
            separator = "\\" if "\\" in written else "/"
            old, new = separator.join(parts[:-common]), _joined(best[:-common]) or os.sep
            votes[old, new, common > 1] += 1
    return votes.most_common(1)[0][0] if votes else None


def _moved(path: str, base: str, old: str, new: str) -> str | None:
    """Return the path of a missing file in the new folder, or None if it was not in the old one."""
    parts, start = _parts(_as_written(path, base)), _parts(old) if old else []
    if parts[: len(start)] != start:
        return None
    return _joined([new.rstrip(os.sep), *parts[len(start) :]])


def _as_written(path: str, base: str) -> str:
    """Return a Windows path as the list has it: on other systems, reading the list prepends the base."""
    rest = path.removeprefix(base.rstrip(os.sep) + os.sep)
    return rest if "\\" in rest else path


def _joined(parts: Sequence[str]) -> str:
    return os.sep.join(parts)  # noqa: PTH118 (of a million paths)


def _parts(path: str) -> list[str]:
    return re.split(r"[/\\]", path)


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    """Count the last parts that two paths share."""
    count = 0
    while count < min(len(one), len(two)) and one[-1 - count] == two[-1 - count]:
        count += 1
    return count


def _stem(path: str) -> str:
    return os.path.splitext(path)[0].replace(os.sep, "/")  # noqa: PTH122 (of a million paths)


def _is_stem(source: str, path: str) -> bool:
    """Return whether a file is its own group."""
    return f"/{_stem(path)}".endswith(f"/{source}")
