"""From what a user names on the command line to a manifest."""

from __future__ import annotations

from glob import glob
from pathlib import Path

import pyarrow as pa

from t3d.clip import Targets
from t3d.data.index import VideoIndex, read_table
from t3d.data.manifest.kinds import KINDS
from t3d.data.manifest.manifest import Manifest
from t3d.data.moved import refuse_moved
from t3d.data.official.listed import open_list
from t3d.data.official.read import read_official
from t3d.errors import ConfigError, ManifestError
from t3d.io.shard_cache import is_url, local_copy


def open_manifest(name: str, *, root: str | None = None, source_pattern: str | None = None) -> Manifest:
    """Read a table of videos and labels, whatever form it has.

    Args:
        name: A folder with one folder per class; a `.csv` or `.jsonl` table; an index (`.parquet`), that of
            shards also by its URL; several indexes as a pattern with `*`; or a list in the official format of
            UCF101, HMDB51 or Kinetics (see `t3d.data.official.read.read_official`).
        root: Folder that relative paths start from, or that the files of an official list are in; a list
            needs it.
        source_pattern: Regular expression whose group names a video's source; not for a table.

    Raises:
        ManifestError: Nothing there, or something of no known form.
        FetchError: What lies behind a URL cannot be brought here.
        ConfigError: A source pattern for a table.
    """
    if (listed := read_official(name)) is not None:
        if root is None:
            raise ManifestError(
                f"{name}: an official list does not say where its files are; give their folder as root"
            )
        return open_list(listed, root, source_pattern=source_pattern)
    path = Path(name)
    if path.is_dir():
        return Manifest.from_folder(path, source_pattern=source_pattern)
    files = _indexes(name)
    if not files and not path.exists():
        raise ManifestError(f"{path}: no such file or folder")
    if source_pattern is not None:
        raise ConfigError(
            f"source_pattern is for a folder or an official list, and {path} is a table; tables name sources "
            "in their column 'source'"
        )
    if files:
        return Manifest.from_index(*files, root=root)
    ending = path.suffix.lower()
    if ending == ".csv":
        return Manifest.from_csv(path, root=root)
    if ending == ".jsonl":
        return Manifest.from_jsonl(path, root=root)
    raise ManifestError(
        f"{path}: not a folder, and its ending {ending!r} is none of .csv, .jsonl, .parquet (an index), "
        ".txt (a split list)"
    )


def open_videos(name: str, *, root: str | None = None, source_pattern: str | None = None) -> Manifest:
    """Read a table of videos as `open_manifest` does, for a run that needs the files.

    Args:
        name: See `open_manifest`.
        root: See `open_manifest`.
        source_pattern: See `open_manifest`.

    Raises:
        ManifestError: As in `open_manifest`, or none of the files is where the list says; the message names
            the folder that they are in.
        FetchError: As in `open_manifest`.
        ConfigError: As in `open_manifest`.
    """
    videos = open_manifest(name, root=root, source_pattern=source_pattern)
    refuse_moved(videos, name, root=root)
    return videos


def refuse_other_targets(manifest: Manifest, targets: Targets, *, name: str, other: str) -> None:
    """Refuse videos with one label each for a model, or a list, of several labels each, and vice versa.

    A video whose list names one class may show the others too, so that the one cannot stand for the other.

    Args:
        manifest: The videos.
        targets: What they must have; videos that are not labeled at all will do for either.
        name: What they are called where the user names them.
        other: What they are used with.

    Raises:
        ManifestError: They have something else.
    """
    labels = manifest.label_column
    if not labels.fits(targets):
        raise ManifestError(
            f"{name} has {labels.description}, and {other} is for {KINDS[targets].description}; both must be "
            "of one kind"
        )


def open_index(index: str | None, *names: str | None, root: str | None = None) -> VideoIndex | None:
    """What is known of the files: of those in an index, and in each manifest that is one.

    Args:
        index: An index, or several as a pattern, that cover the files of any manifest; relative paths start
            from its own folder.
        names: Manifests as in `open_manifest`.
        root: As in `open_manifest`.

    Returns:
        None where there is no index.

    Raises:
        ManifestError: One of them cannot be read.
        FetchError: What lies behind a URL cannot be brought here.
    """
    tables = [] if index is None else [read_table(file) for file in _indexes(index) or [index]]
    tables += [read_table(file, root=root) for name in names if name for file in _indexes(name)]
    return VideoIndex(pa.concat_tables(tables)) if tables else None


def _indexes(name: str) -> list[str]:
    """The indexes that a name stands for, here and in name order; none if it stands for anything else."""
    if is_url(name):
        return [local_copy(name)]
    if not name.lower().endswith(".parquet"):
        return []
    return [name] if Path(name).exists() else sorted(glob(name))  # noqa: PTH207 (a pattern may begin anywhere)
