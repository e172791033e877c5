"""Open a list of videos in any form that a user may give."""

from __future__ import annotations

from glob import glob
from pathlib import Path

import pyarrow as pa

from t3d.clip import Targets
from t3d.data.index import VideoIndex, read_table
from t3d.data.listing import is_video
from t3d.data.manifest.class_names import name_classes
from t3d.data.manifest.kinds import KINDS
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.text_table import say
from t3d.data.moved import refuse_moved
from t3d.data.official.listed import open_list
from t3d.data.official.read import read_official
from t3d.errors import ConfigError, ManifestError
from t3d.io.archive_names import is_archive, unpack_hint
from t3d.io.files import is_url
from t3d.io.shard_cache import local_copy

TABLES = (".csv", ".tsv", ".txt", ".list", ".lst")
"""Endings of tables that are text files; whatever the ending, the separator is that of the content."""


def open_manifest(
    name: str, *, root: str | None = None, source_pattern: str | None = None, classes: str | None = None
) -> Manifest:
    """Read a list of videos and labels.

    Args:
        name: One of:

            - a folder with one folder per class
            - a table, which is a text file with any separator (`.csv`, `.tsv`, `.txt`, `.list`, `.lst`, see
              `Manifest.from_csv`) or JSON Lines (`.jsonl`)
            - an export of Label Studio (`.json`, see `Manifest.from_label_studio`)
            - an index (`.parquet`), or several as a pattern with `*`; an index of shards also by its URL
            - a list in the official format of UCF101, HMDB51 or Kinetics (see
              `t3d.data.official.read.read_official`)
        root: Folder that relative paths start from. Required for an official list: the folder of its files.
            Not for a folder of videos.
        source_pattern: Regular expression whose part in parentheses is a video's group (column `source`). Not
            for a table.
        classes: Class file that names the class numbers of the list. Default: for a table, the class file in
            its folder, if there is one.

    Raises:
        ManifestError: The list does not exist, or its format is unknown; or the class file has no name for
            one of its classes.
        FetchError: An index cannot be downloaded.
        ConfigError: A source pattern was given for a table, or a root for a folder of videos.
    """
    refuse_unused_root(root, name)
    manifest = _opened(name, root=root, source_pattern=source_pattern, class_files=classes is None)
    if classes is None:
        return manifest
    names = name_classes(manifest.classes, classes, list_name=name)
    number = min((each for each in names if names[each] != each), default=None)
    if number is not None:
        say(name, [f"class numbers are named by {classes} ({number} is {names[number]!r})"])
    return manifest.with_class_names(names)


def _opened(name: str, *, root: str | None, source_pattern: str | None, class_files: bool) -> Manifest:
    if (listed := read_official(name)) is not None:
        if root is None:
            raise ManifestError(
                f"{name}: an official list does not say where its files are; give their folder as `root`"
            )
        return open_list(listed, root, source_pattern=source_pattern)
    path = Path(name)
    if path.is_dir():
        return Manifest.from_folder(path, source_pattern=source_pattern)
    files = _indexes(name)
    if not files and not path.exists():
        raise ManifestError(f"{path}: no such file or folder")
    if is_archive(path.name):
        raise ManifestError(f"{path}: an archive, which is not read; {unpack_hint(path)}")
    if source_pattern is not None:
        raise ConfigError(
            f"source_pattern is for a folder or an official list, but {path} is a table; name the groups in "
            "its column `source`"
        )
    if files:
        return Manifest.from_index(*files, root=root)
    ending = path.suffix.lower()
    if is_video(path.name):
        raise ManifestError(
            f"{path}: a single video; give a folder of class folders, a table ({', '.join(TABLES)}, .jsonl), "
            "an index (.parquet) or an official list"
        )
    if ending in TABLES:
        return Manifest.from_csv(path, root=root, class_files=class_files)
    if ending == ".jsonl":
        return Manifest.from_jsonl(path, root=root, class_files=class_files)
    if ending == ".json":
        return Manifest.from_label_studio(path, root=root)
    raise ManifestError(
        f"{path}: not a folder, and its ending is {ending!r}; use {', '.join(TABLES)} (a table), .jsonl, "
        ".parquet (an index), .json (an export of Label Studio), or an official list"
    )


def refuse_unused_root(root: str | None, *names: str) -> None:
    """Refuse a root that no list uses, because all of them are folders of videos.

    Args:
        root: See `open_manifest`.
        names: The lists that share the root.

    Raises:
        ConfigError: Every name is a folder.
    """
    if root is not None and all(Path(name).is_dir() for name in names):
        raise ConfigError(
            f"`root` is {root}, but {' and '.join(names)} would not use it: the videos of a folder are found "
            "in it. Remove `root`, or give a list with relative paths"
        )


def roots_of(root: str | None, *names: str) -> list[str | None]:
    """Return the root for each of several lists that share it: None for a folder of videos.

    Args:
        root: See `open_manifest`.
        names: The lists.

    Raises:
        ConfigError: Every name is a folder, so none uses the root.
    """
    refuse_unused_root(root, *names)
    return [None if Path(name).is_dir() else root for name in names]


def open_videos(
    name: str, *, root: str | None = None, source_pattern: str | None = None, classes: str | None = None
) -> Manifest:
    """Read a table of videos as `open_manifest` does, for a run that needs the files.

    Args:
        name: See `open_manifest`.
        root: See `open_manifest`.
        source_pattern: See `open_manifest`.
        classes: See `open_manifest`.

    Raises:
        ManifestError: As in `open_manifest`, or none of the files is where the list says; the message names
            the folder that they are in.
        FetchError: As in `open_manifest`.
        ConfigError: As in `open_manifest`.
    """
    videos = open_manifest(name, root=root, source_pattern=source_pattern, classes=classes)
    refuse_moved(videos, name, root=root)
    return videos


def refuse_other_targets(
    manifest: Manifest, targets: Targets, *, name: str, other: str, remedy: str = ""
) -> None:
    """Refuse videos with one label each for a model of several labels per video, and vice versa.

    A video that is labeled with one class may also show others, so neither kind can replace the other.

    Args:
        manifest: The videos.
        targets: The kind of labels that is needed. Unlabeled videos fit both.
        name: The name of the videos in the message.
        other: The name of the model or list that they are used with.
        remedy: How to correct it. Default: to use lists of the same kind.

    Raises:
        ManifestError: The videos have labels of the other kind.
    """
    labels = manifest.label_column
    if not labels.fits(targets):
        raise ManifestError(
            f"{name} has {labels.description}, but {other} is for {KINDS[targets].description}; "
            + (remedy or "use two lists with the same column")
        )


def refuse_unlabeled(manifest: Manifest, *, name: str) -> None:
    """Refuse videos to test on if none of them has a label.

    Args:
        manifest: The videos.
        name: The name of the videos in the message.

    Raises:
        ManifestError: No video has a label.
    """
    if not manifest.labeled.any():
        raise ManifestError(
            f"{name} has no labels; add a column label (or labels, for several per video) with class names"
        )


def open_index(index: str | None, *names: str | None, root: str | None = None) -> VideoIndex | None:
    """Open an index, together with the manifests that are indexes.

    Args:
        index: An index, or several as a pattern. Its relative paths start from its own folder.
        names: Manifests as in `open_manifest`.
        root: As in `open_manifest`.

    Returns:
        None if there is no index.

    Raises:
        ManifestError: An index cannot be read.
        FetchError: An index cannot be downloaded.
    """
    tables = [] if index is None else [read_table(file) for file in _indexes(index) or [index]]
    tables += [read_table(file, root=root) for name in names if name for file in _indexes(name)]
    return VideoIndex(pa.concat_tables(tables)) if tables else None


def _indexes(name: str) -> list[str]:
    """Return the local files of an index or a pattern of indexes, in name order; else none."""
    if is_url(name):
        return [local_copy(name)]
    if not name.lower().endswith(".parquet"):
        return []
    return [name] if Path(name).exists() else sorted(glob(name))  # noqa: PTH207 (a pattern may begin anywhere)
