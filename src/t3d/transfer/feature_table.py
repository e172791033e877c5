"""Table of the features of videos or clips, as an .npz or .parquet file.

Legend: N rows, D features.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from t3d.errors import Failed, ManifestError
from t3d.io.files import atomic_path, refuse_unreadable, temporary_name

_KEY = b"t3d.features"
_BAD = b"t3d.features.bad"
_COLUMNS = ("path", "label", "source", "start", "end", "clip", "row")


@dataclass(frozen=True)
class FeatureTable:
    """Features of videos, or of their clips.

    Args:
        features: Features, float32 [N, D].
        paths: File or URL of each row, N.
        labels: Class name of each row, N; several are separated by `|`; empty without a label.
        sources: Group of each row, N.
        start: Start of the row in seconds, float64 [N]; NaN for the beginning of the file.
        end: End of the row in seconds, float64 [N]; NaN for the end of the file.
        clip: Number of the clip within its row of the list, int64 [N]; -1 for a whole video.
        row: Row of the list, int64 [N]. A list may have several time spans of one file.
    """

    features: npt.NDArray[np.float32]
    paths: npt.NDArray[np.str_]
    labels: npt.NDArray[np.str_]
    sources: npt.NDArray[np.str_]
    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    clip: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.features)

    def per_video(self) -> FeatureTable:
        """Return one row per row of the list. The clips of a row become one row with their mean.

        A row has the times of its clips if the list has other rows of the same file.
        """
        if (self.clip < 0).all():
            return self
        _, first, video = np.unique(self.row, return_index=True, return_inverse=True)
        sums = np.zeros((len(first), self.features.shape[1]))
        np.add.at(sums, video, self.features)
        means = (sums / np.bincount(video)[:, None]).astype(np.float32)
        start, end = np.full(len(first), np.inf), np.full(len(first), -np.inf)
        np.minimum.at(start, video, self.start)
        np.maximum.at(end, video, self.end)
        _, file, rows = np.unique(self.paths[first], return_inverse=True, return_counts=True)
        several = rows[file] > 1
        return FeatureTable(
            means,
            self.paths[first],
            self.labels[first],
            self.sources[first],
            start=np.where(several, start, np.nan),
            end=np.where(several, end, np.nan),
            clip=np.full(len(first), -1),
            row=self.row[first],
        )

    def columns(self) -> dict[str, Any]:
        """Return the columns other than the features, by name."""
        values = (self.paths, self.labels, self.sources, self.start, self.end, self.clip, self.row)
        return dict(zip(_COLUMNS, values, strict=True))


def write_features(
    path: Path,
    parts: Iterable[FeatureTable],
    *,
    key: str,
    rows: int,
    length: int,
    bad: Sequence[Failed] = (),
) -> None:
    """Write a table, part by part. Only the features of one part are in memory.

    Args:
        path: The file; its ending chooses the format.
        parts: The rows.
        key: Text that says what the features are of.
        rows: Number of rows, N.
        length: Number of features, D.
        bad: Videos that could not be read, and have no row.

    Raises:
        WriteError: It cannot be written.
    """
    if path.suffix.lower() == ".parquet":
        _write_parquet(path, parts, {_KEY: key.encode(), _BAD: json.dumps(_pairs(bad)).encode()}, length)
    else:
        about = {"key": np.array(key), "bad": np.array(_pairs(bad), np.str_).reshape(-1, 2)}
        _write_npz(path, parts, about, (rows, length))


def read_features(path: str | Path) -> FeatureTable:
    """Read a table that `t3d features` wrote.

    Args:
        path: The .npz or .parquet file.

    Raises:
        ManifestError: It is missing, or another kind of file.
    """
    path = Path(path)
    refuse_unreadable(path, name="file of features", error=ManifestError)
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path).combine_chunks()
            columns = {name: table[name].to_numpy(zero_copy_only=False) for name in _COLUMNS}
            values = table["features"].combine_chunks().flatten().to_numpy()
            features = values.reshape(len(table), -1)
        else:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in _COLUMNS}
                features = file["features"]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise ManifestError(f"{path}: not a file of `t3d features` ({error})") from error
    return FeatureTable(
        np.asarray(features, np.float32),
        np.asarray(columns["path"], np.str_),
        np.asarray(columns["label"], np.str_),
        np.asarray(columns["source"], np.str_),
        start=np.asarray(columns["start"], np.float64),
        end=np.asarray(columns["end"], np.float64),
        clip=np.asarray(columns["clip"], np.int64),
        row=np.asarray(columns["row"], np.int64),
    )


def key_of(path: Path) -> str | None:
    """Return what the features of a file are of. None for another kind of file.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            value = (pq.read_metadata(path).metadata or {}).get(_KEY)
            return None if value is None else value.decode()
        with np.load(path, allow_pickle=False) as file:
            return str(file["key"]) if "key" in file.files else None
    except (ValueError, zipfile.BadZipFile, pa.ArrowException):
        return None


def bad_of(path: Path) -> tuple[Failed, ...]:
    """Return the videos that could not be read when a file of features was written.

    Raises:
        ManifestError: It is another kind of file.
        OSError: The file cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            pairs = json.loads((pq.read_metadata(path).metadata or {})[_BAD])
        else:
            with np.load(path, allow_pickle=False) as file:
                pairs = file["bad"].tolist()
        return tuple(Failed(name, reason) for name, reason in pairs)
    except (KeyError, ValueError, TypeError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise ManifestError(f"{path}: not a file of `t3d features` ({error})") from error


def _pairs(bad: Sequence[Failed]) -> list[tuple[str, str]]:
    return [(each.path, each.reason) for each in bad]


def _write_parquet(path: Path, parts: Iterable[FeatureTable], about: dict[bytes, bytes], length: int) -> None:
    kinds = (pa.string(), pa.string(), pa.string(), pa.float64(), pa.float64(), pa.int64(), pa.int64())
    fields = [pa.field(name, kind) for name, kind in zip(_COLUMNS, kinds, strict=True)]
    fields.append(pa.field("features", pa.list_(pa.float32(), length)))
    schema = pa.schema(fields, metadata=about)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.features.ravel()), length)
            writer.write_table(pa.table([*map(pa.array, part.columns().values()), vectors], schema=schema))


def _write_npz(
    path: Path, parts: Iterable[FeatureTable], about: dict[str, Any], shape: tuple[int, int]
) -> None:
    """Write an .npz file. The features are collected in a temporary file, the other columns in memory."""
    array = temporary_name(path)
    try:
        with atomic_path(path) as temporary:
            features = np.lib.format.open_memmap(array, mode="w+", dtype=np.float32, shape=shape)
            columns = _filled(features, parts)
            with temporary.open("wb") as file:
                np.savez(file, features=features, **about, **columns)
    finally:
        array.unlink(missing_ok=True)


def _filled(features: npt.NDArray[np.float32], parts: Iterable[FeatureTable]) -> dict[str, Any]:
    """Copy the features of all parts into an array, and return their other columns."""
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    row = 0
    for part in parts:
        features[row : row + len(part)] = part.features
        row += len(part)
        for name, values in part.columns().items():
            columns[name].append(values)
    return {name: np.concatenate(values) for name, values in columns.items()}
