"""Features of many videos in one file, from a model or a teacher.

The work is done in parts, each of which is a file next to the output until all are done. An interrupted run
resumes with the parts that are missing, and only the features of one part are in memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.data.catalog import open_index, open_videos
from t3d.data.clips.check import refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError, NoClassFolderError
from t3d.evaluation.parts import as_manifest, is_list, parts_of
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import ClipRow, ClipTimes
from t3d.evaluation.scoring import each_clip
from t3d.io.files import content_digest, writable_folder
from t3d.io.locks import alone_in
from t3d.io.video_cache import is_copy, original
from t3d.models.weights_file import weights_file
from t3d.progress import progress
from t3d.runtime.formats import exported_format
from t3d.transfer.feature_table import FeatureTable, bad_of, key_of, read_features, write_features
from t3d.transfer.features_config import FeaturesConfig
from t3d.transfer.frozen import Frozen, open_frozen
from t3d.video.image_names import file_state

_FORMAT = 2  # raise it when features change
_PART = 512  # videos per part


@dataclass(frozen=True)
class Extracted:
    """Result of computing features.

    Args:
        out: The file.
        videos: Number of videos of the list.
        rows: Number of rows of the file.
        length: Number of features per row.
        bad: Videos that could not be read, and have no row.
        complete: True if the file was complete before, so that nothing was computed.
    """

    out: Path
    videos: int
    rows: int
    length: int
    bad: tuple[Failed, ...] = ()
    complete: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON value."""
        return {
            "out": str(self.out),
            "videos": self.videos,
            "rows": self.rows,
            "features": self.length,
            "bad": [{"path": each.path, "reason": each.reason} for each in self.bad],
        }


def extract_features(config: FeaturesConfig) -> Extracted:
    """Compute the features of videos, and write them to a file.

    Args:
        config: Model, videos and file.

    Returns:
        The contents of the file. `t3d.transfer.feature_table.read_features` reads it.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: The model is an exported file, the file holds other features, or an option is invalid for
            this model or machine.
        ManifestError: The videos cannot be used, or too many cannot be read.
        WriteError: The file cannot be written.

    Example:
        >>> config = FeaturesConfig("runs/mine", ("videos",), out="features.npz")  # doctest: +SKIP
        >>> extract_features(config).rows  # doctest: +SKIP
        140
    """
    _refuse_exported(config)
    videos = _open(config)
    frozen = open_frozen(config)
    index = open_index(config.reading.index, *filter(_is_index, config.videos), root=config.reading.root)
    shared = _key(config, frozen)
    firsts = range(0, len(videos), _part_size(config))
    works = [_work(videos, first, _part_size(config), shared, index) for first in firsts]
    key = hashlib.blake2b("".join(work.key for work in works).encode(), digest_size=16).hexdigest()
    out = Path(config.out)
    if out.exists():
        return _complete(config, out, key, len(videos))
    folder = writable_folder(out.with_name(out.name + ".parts"), name="out")
    with alone_in(out):
        parts = _parts(config, frozen, works, folder, index)
        bad = tuple(failed for part in parts for failed in part.bad)
        _refuse_many(config, bad, len(videos))
        rows, length = sum(part.rows for part in parts), max(part.length for part in parts)
        if not rows:
            raise ManifestError(f"{' '.join(config.videos)}: none of the {len(videos)} videos could be read")
        tables = (read_features(part.file) for part in parts if part.rows)
        write_features(out, tables, key=key, rows=rows, length=length, bad=bad)
        shutil.rmtree(folder, ignore_errors=True)
    return Extracted(out, len(videos), rows, length, bad)


def _complete(config: FeaturesConfig, out: Path, key: str, videos: int) -> Extracted:
    """Return the contents of a file that exists.

    Raises:
        ConfigError: It is not the file of these features.
        ManifestError: Too many videos could not be read.
    """
    if key_of(out) != key:
        raise ConfigError(
            f"{out} already exists and holds other features or another kind of data, or videos have changed "
            "since; choose another `out`, or delete the file"
        )
    table, bad = read_features(out), bad_of(out)
    _refuse_many(config, bad, videos)
    return Extracted(out, videos, len(table), table.features.shape[1], bad, complete=True)


def _refuse_many(config: FeaturesConfig, bad: tuple[Failed, ...], videos: int) -> None:
    refuse_many(bad, among=videos, max_bad=config.reading.max_bad, option="max_bad")


@dataclass(frozen=True)
class _Work:
    """Videos whose features become a part.

    Args:
        first: Row of the first video in the list.
        videos: The videos.
        key: Digest of what the features are of.
    """

    first: int
    videos: Manifest
    key: str


@dataclass(frozen=True)
class _Part:
    """A finished part."""

    file: Path
    rows: int
    length: int
    bad: tuple[Failed, ...]


def _part_size(config: FeaturesConfig) -> int:
    """Return the number of videos of a part: whole batches."""
    return max(_PART // config.compute.batch_size, 1) * config.compute.batch_size


def _work(videos: Manifest, first: int, size: int, shared: str, index: VideoIndex | None) -> _Work:
    some = videos.select(range(first, min(first + size, len(videos))))
    digest = hashlib.blake2b(shared.encode(), digest_size=16)
    digest.update(json.dumps(some.classes).encode())
    for batch in some.table.to_batches():
        digest.update(batch.serialize())
    paths = dict.fromkeys(some.table["path"].to_pylist())
    digest.update(json.dumps([_state(path, index) for path in paths]).encode())
    return _Work(first, some, digest.hexdigest())


def _state(path: str, index: VideoIndex | None) -> tuple[int, int] | str | None:
    """Return what changes when a file is replaced; None for the copy of a URL and for a missing file."""
    if is_copy(path):  # it may be downloaded or evicted at any time
        return None
    with suppress(OSError):  # in a shard, or missing
        return file_state(Path(path))
    with suppress(OSError):
        return None if index is None else index.digest(Path(path))
    return None


def _parts(
    config: FeaturesConfig, frozen: Frozen, works: list[_Work], folder: Path, index: VideoIndex | None
) -> list[_Part]:
    """Compute the parts that are missing, and return all of them."""
    reading = config.reading
    store = FrameStore(
        frozen.spec,
        cache=reading.cache,
        index=index,
        limits=reading.limits,
        image_fps=reading.image_fps,
    )
    parts = [_finished(folder / f"{work.first:09d}.npz", work.key) for work in works]
    done = sum(len(work.videos) for work, part in zip(works, parts, strict=True) if part)
    count = sum(len(work.videos) for work in works)
    with progress("Computing features", count, unit="videos", done=done) as bar:
        for number, work in enumerate(works):
            if parts[number] is not None:
                continue
            times: ClipTimes = {}
            rows, bad = each_clip(
                frozen.vectors,
                work.videos,
                Protocol(frozen.spec),
                store=store,
                compute=config.compute,
                shown=bar,
                times=times,
            )
            broken = {failed.row for failed in bad}
            rows = sorted((row for row in rows if row[0] not in broken), key=lambda row: row[:2])
            table = _table(work, rows, times if config.per == "clip" else None)
            file, length = folder / f"{work.first:09d}.npz", table.features.shape[1]
            write_features(file, [table], key=work.key, rows=len(table), length=length, bad=bad)
            parts[number] = _Part(file, len(table), length, tuple(bad))
    return [part for part in parts if part is not None]


def _table(work: _Work, rows: list[ClipRow], times: ClipTimes | None) -> FeatureTable:
    """Return the rows of clips, or of videos if `times` is None."""
    videos = work.videos
    video = np.array([row[0] for row in rows], dtype=np.int64)
    vectors = np.array([row[2] for row in rows], dtype=np.float64)
    vectors = vectors.reshape(len(rows), -1 if rows else 0)  # no video of a part may be readable
    start, end = (videos.table[name].to_numpy() for name in ("start", "end"))  # NaN for null
    clip = np.array([row[1] for row in rows], dtype=np.int64)
    if times is None:
        video, first = np.unique(video, return_index=True)
        counts = np.diff(np.append(first, len(rows)))
        sums = np.add.reduceat(vectors, first) if len(first) else vectors
        vectors = sums / counts[:, None]
        clip = np.full(len(video), -1)
        start, end = (values[video].astype(np.float64) for values in (start, end))
    else:
        spans = np.array([times[row[0], row[1]] for row in rows]).reshape(-1, 2)
        start, end = spans[:, 0], spans[:, 1]
    paths, labels, sources = (text[video] for text in _texts(videos))
    return FeatureTable(
        vectors.astype(np.float32), paths, labels, sources, start, end, clip, work.first + video
    )


def _texts(videos: Manifest) -> list[npt.NDArray[np.str_]]:
    """Return path, label and source of each video."""
    paths = [original(path) for path in videos.table["path"].to_pylist()]
    labels = [label or "" for label in videos.label_column.text().to_pylist()]
    return [np.array(each, dtype=np.str_) for each in (paths, labels, videos.table["source"].to_pylist())]


def _finished(file: Path, key: str) -> _Part | None:
    """Return a part of an earlier run, if its file is complete and of the same features.

    A part with videos that could not be read is computed again: they may be readable now.
    """
    try:
        if not file.exists() or key_of(file) != key or bad_of(file):
            return None
        table = read_features(file)
    except (OSError, ManifestError):
        return None
    return _Part(file, len(table), table.features.shape[1], ())


def _open(config: FeaturesConfig) -> Manifest:
    """Open the videos, with their labels if they are one list or one folder of class folders."""
    reading = config.reading
    if len(config.videos) > 1:
        return as_manifest(parts_of(config.videos, root=reading.root))
    name = config.videos[0]
    if not is_list(name) and not Path(name).is_dir():
        return as_manifest(parts_of(config.videos, root=reading.root))
    try:
        return open_videos(name, root=reading.root, classes=reading.classes)
    except NoClassFolderError:
        return Manifest.from_files([name])


def _is_index(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _refuse_exported(config: FeaturesConfig) -> None:
    """Raise an error for an exported file before anything is read.

    Raises:
        ConfigError: The model is an exported file.
    """
    if config.model is not None and exported_format(config.model) is not None:
        raise ConfigError(
            f"{config.model}: an exported file computes scores only and has no features; give the run folder "
            "or the weights file that it was exported from"
        )


def _key(config: FeaturesConfig, frozen: Frozen) -> str:
    """Return what the features of all parts depend on: model, clips, rows and how videos are read."""
    if config.model is not None:
        source = content_digest(weights_file(config.model, allow_unfinished=config.allow_unfinished))
    else:
        assert frozen.teacher is not None
        source = f"{frozen.teacher.digest} {config.pooling}"
    reading = (config.compute.precision, config.reading.image_fps)
    return json.dumps([_FORMAT, source, asdict(frozen.spec), config.per, reading])
