"""Read a manifest's rows from folders and loose files (tables: `tables.py`; lists: `official/`)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.listing import (
    VideoSearch,
    absolute,
    in_name_order,
    joined,
    may_be_video,
    passed_over,
    scan,
)
from t3d.data.manifest.sources import default_sources, pattern_sources
from t3d.data.manifest.text_file import read_text
from t3d.data.paths import strings
from t3d.errors import Failed, ManifestError, NoClassFolderError
from t3d.io.archive_names import is_archive
from t3d.io.video_cache import local_name
from t3d.video.image_names import is_image_folder

_log = logging.getLogger(__name__)

_SPLIT_NAMES = frozenset(
    ["dev", "eval", "test", "testing", "train", "training", "val", "valid", "validation"]
)


@dataclass(frozen=True)
class Rows:
    """Result of a reader: columns of equal length N with class names.

    Args:
        paths: Files, absolute, string [N].
        names: Class names, null where a row has none, string [N].
        sources: Sources, string [N].
        start: Seconds, null where a row begins with its file, float64 [N]; None for no row at all.
        end: Seconds, null where a row ends with its file, float64 [N]; None for no row at all.
        classes: Class names in order; None takes those that occur, in name order.
        skipped: Files passed over, by reason.
        missing: Listed videos that are not there, by class.
        several: Class names where videos have several, null where a row is unlabeled, list<string> [N]; then
            `names` does not count. None: one name a row.
        extra: Further columns of a list, which are kept for lists that are written of it, N rows.
    """

    paths: pa.Array
    names: pa.Array
    sources: pa.Array
    start: pa.Array | None = None
    end: pa.Array | None = None
    classes: Sequence[str] | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    missing: Mapping[str, int] = field(default_factory=dict)
    several: pa.Array | None = None
    extra: pa.Table | None = None


def read_folder(root: str | os.PathLike[str], source_pattern: str | None) -> Rows:
    """Read a folder that holds one folder per class; see `Manifest.from_folder`."""
    base = absolute(root)
    search = VideoSearch()
    folders: list[str] = []
    loose: list[str] = []
    unknown: list[str] = []
    entries = scan(base)
    search.enter(base)
    for entry in entries:
        reason = passed_over(entry)
        if reason and may_be_video(reason):
            unknown.append(entry.name)
        elif reason:
            search.skipped[reason] += 1
        else:
            (folders if entry.is_dir() else loose).append(entry.name)
    loose += [name for name in in_name_order(unknown) if search.takes(base, name)]
    if not folders and not loose:
        raise ManifestError(
            f"{base}: no class folder and no video in it{_ignored(search)}; "
            "give a folder that holds one folder of videos per class"
        )
    if loose:
        count = "1 video is" if len(loose) == 1 else f"{len(loose)} videos are"
        place = "next to its class folders" if folders else "and it has no class folders"
        raise NoClassFolderError(
            f"{base}: {count} directly in this folder (first {min(loose)!r}), {place}; move "
            "each video into the folder of its class"
        )
    wholes = joined(base, in_name_order(folders))
    videos = {Path(path).name: names for path, names in search.below_each(wholes).items()}
    folders = list(videos)
    names = [normalize("NFC", folder).strip() for folder in folders for _ in videos[folder]]
    relative = [f"{folder}/{video}" for folder in folders for video in videos[folder]]
    nested = all("/" in video for folder in folders for video in videos[folder])
    if relative and nested and all(folder.casefold() in _SPLIT_NAMES for folder in folders):
        raise ManifestError(
            f"{base}: its folders {', '.join(map(repr, folders))} look like parts of a data set, not like "
            f"classes; name one of them, such as {joined(base, folders)[0]}"
        )
    empty = [folder for folder in folders if not videos[folder]]
    if empty:
        raise ManifestError(
            f"{base}: {len(empty)} of {len(folders)} class folders hold no video: "
            f"{', '.join(map(repr, empty[:10]))}{_ignored(search)}; "
            "add videos or remove the folders"
        )
    _report(base, search)
    column = strings(relative)
    return Rows(
        paths=strings(joined(base, relative)),
        names=strings(names),
        sources=pattern_sources(column, source_pattern) if source_pattern else default_sources(column),
        skipped=dict(search.skipped),
    )


def read_files(
    paths: Sequence[str | os.PathLike[str]],
    source_pattern: str | None,
    unreadable: list[Failed] | None = None,
) -> Rows:
    """Read files and folders without labels; see `Manifest.from_files`."""
    skipped: Counter[str] = Counter()
    files: list[str] = []
    bases: list[str] = []
    if isinstance(paths, str | os.PathLike):  # a lone text is a sequence too, of letters
        paths = [paths]
    for given in (absolute(local_name(path)) for path in paths):
        if not Path(given).is_dir() or is_image_folder(given):
            files.append(given)
            bases.append(str(Path(given).parent))
            continue
        search = VideoSearch(unreadable)
        videos = search.below(given)
        if not videos and not unreadable:
            raise ManifestError(f"{given}: no video in this folder{_ignored(search)}")
        _report(given, search)
        skipped += search.skipped
        files += joined(given, videos)
        bases.append(given)
    if not files:
        raise ManifestError(
            "no videos given: name at least one file or folder"
            if not unreadable
            else f"no video can be read: {'; '.join(map(str, unreadable))}"
        )
    common = os.path.commonpath(bases)
    relative = strings([Path(os.path.relpath(file, common)).as_posix() for file in files])
    return Rows(
        paths=strings(files),
        names=pa.nulls(len(files), pa.string()),
        sources=pattern_sources(relative, source_pattern) if source_pattern else default_sources(relative),
        skipped=dict(skipped),
    )


def read_lines(file: str | os.PathLike[str]) -> list[tuple[int, str]]:
    """Read the lines of a text file that are not empty, with their numbers from 1.

    Args:
        file: See `read_text`; any line ends.

    Raises:
        ManifestError: It cannot be read or is not UTF-8 text.
    """
    text = read_text(file).text
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _ignored(search: VideoSearch) -> str:
    """Say how many files were skipped, by reason; empty if none was."""
    reasons = _listed(search.skipped)
    return f" (passed over: {reasons}{_archives(search)})" if reasons else ""


def _archives(search: VideoSearch) -> str:
    """Say how to unpack archives, if some were skipped."""
    archives = any(is_archive(f".tar{reason}") for reason in search.skipped if search.skipped[reason])
    return "; unpack archives with `t3d prepare unpack`" if archives else ""


def _report(base: str, search: VideoSearch) -> None:
    """Print what was passed over in a folder, and what was taken by its content."""
    taken = f"took {_listed(search.probed)} by content" if +search.probed else ""
    skipped = f"passed over {_listed(search.skipped)}{_archives(search)}" if +search.skipped else ""
    if taken or skipped:
        _log.warning("%s: %s", base, "; ".join(filter(None, [taken, skipped])))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()) if count)


def occurring(names: pa.Array) -> list[str]:
    """List the class names that occur, in name order.

    Args:
        names: Class names, null where there is none, string [N].
    """
    return in_name_order(set(pc.unique(names.drop_null()).to_pylist()))
