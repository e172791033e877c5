"""Read an index: the facts that `t3d prepare index` stores about every file, so that opening is fast.

An index is one Parquet table with a manifest's columns and the results of reading each whole file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from t3d.data.listing import absolute
from t3d.data.paths import absolute_paths
from t3d.data.prefetch import Shards
from t3d.errors import Failed, ManifestError, VideoError
from t3d.video.facts import VideoFacts
from t3d.video.image_names import file_state

ENTRY_FIELDS = (
    pa.field("path", pa.string(), nullable=False),
    pa.field("label", pa.string()),
    pa.field("start", pa.float64()),
    pa.field("end", pa.float64()),
    pa.field("source", pa.string(), nullable=False),
    pa.field("labels", pa.list_(pa.string())),  # where a video may have several; then `label` is null
)
"""Columns of a manifest. Paths below the index's folder are relative to it."""
FACT_FIELDS = (
    pa.field("offset", pa.int64()),  # bytes before it in its shard; null: a separate file
    pa.field("size", pa.int64()),  # bytes
    pa.field("modified", pa.int64()),  # nanoseconds since 1970
    pa.field("digest", pa.string()),  # of the bytes: BLAKE2b, 128 bits
    pa.field("codec", pa.string()),
    pa.field("frames", pa.int32()),  # as many as decoding gives
    pa.field("height", pa.int32()),  # pixels, as shown
    pa.field("width", pa.int32()),
    pa.field("rotation", pa.int16()),  # degrees clockwise that a stored frame is turned for showing
    pa.field("mirrored", pa.bool_()),  # left and right exchanged, before it is turned
    pa.field("pixel_aspect", pa.string()),  # width of a shown pixel by its height, such as 64/45
    pa.field("fps", pa.float64()),
    pa.field("duration", pa.float64()),  # seconds
    pa.field("time_base", pa.string()),  # seconds in a tick, such as 1/90000
    pa.field("first", pa.int64()),  # ticks of the first frame
    pa.field("steps", pa.list_(pa.int64())),  # ticks from one frame to the next, one a run of equal steps …
    pa.field("repeats", pa.list_(pa.int32())),  # … and how many steps there are in each run
    pa.field("last", pa.int64()),  # ticks for which the last frame is shown
    pa.field("counted", pa.bool_()),  # whether frames must be counted from the start: time stamps do not help
    pa.field(
        "places", pa.list_(pa.int32())
    ),  # of each frame in the decoder's output, if not 0, 1, 2, …; -1: none
    pa.field("key_times", pa.list_(pa.int64())),  # ticks of the key frames
    pa.field("key_seeks", pa.list_(pa.int64())),  # ticks to seek to for each
    pa.field("looks", pa.list_(pa.uint64())),  # perceptual hashes of eight frames
    pa.field("damage", pa.string()),  # what is wrong with a file that can be read in part
    pa.field("checked", pa.int16()),  # `t3d.video.facts.CHECKS` when it was read; null: before there were any
    pa.field("error", pa.string()),  # why a file cannot be read at all
)
"""Results of reading the file; null if it could not be read."""
SCHEMA = pa.schema([*ENTRY_FIELDS, *FACT_FIELDS], metadata={"t3d.index": "1"})
_NEWER = (
    "labels",
    "offset",
    "places",
    "checked",
    "pixel_aspect",
)  # columns that are missing from indexes of older versions; read as nulls


class VideoIndex:
    """The facts of many files, by path.

    Its memory grows with the number of files, not of frames. Forked processes share it.

    Args:
        table: Columns of `SCHEMA` with absolute paths, N rows. Rows of one file have the same facts.
        name: The file it was read from, for messages.

    Example:
        >>> VideoIndex.empty().facts(Path("/videos/unknown.mp4")) is None
        True
    """

    def __init__(self, table: pa.Table, *, name: str = "the index") -> None:
        self.name = name
        self._paths = table["path"].combine_chunks()
        self._facts = {field.name: table[field.name].combine_chunks() for field in FACT_FIELDS}
        # Numbers instead of a dictionary of texts: counting references would copy it into every process.
        marks = np.array([_mark(path) for path in self._paths.to_pylist()], dtype=np.uint64)
        self._rows = np.argsort(marks, kind="stable")
        self._marks = marks[self._rows]

    @classmethod
    def read(cls, *files: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> VideoIndex:
        """Read one index or several.

        Args:
            files: Parquet files that `t3d prepare index` wrote.
            root: Folder that relative paths start from; without it, each index's own folder.

        Raises:
            ManifestError: One of them is missing, damaged or not an index.
        """
        tables = [read_table(file, root=root) for file in files]
        return cls(pa.concat_tables(tables), name=", ".join(os.fspath(file) for file in files))

    @classmethod
    def empty(cls) -> VideoIndex:
        """Return an index without files."""
        return cls(SCHEMA.empty_table())

    def __len__(self) -> int:
        """Count the rows."""
        return len(self._paths)

    def __contains__(self, path: Path) -> bool:
        """Return whether the index has a file."""
        return self._row(path) is not None

    def facts(self, path: Path) -> VideoFacts | None:
        """Return the facts of a file, or None if the index does not have it.

        Raises:
            VideoError: The file could not be read when it was indexed.
        """
        row = self._row(path)
        if row is None:
            return None
        values = {name: column[row].as_py() for name, column in self._facts.items() if name != "looks"}
        if values["error"] is not None:
            raise VideoError(path, f"{values['error']} ({self.name})")
        return VideoFacts.of_row(values)

    def digest(self, path: Path) -> str | None:
        """Return a file's digest, or None if the file is unknown or has changed since.

        Raises:
            OSError: The size and time of the file cannot be read.
        """
        row = self._row(path)
        if row is None:
            return None
        names = ("digest", "offset", "size", "modified")
        digest, offset, size, modified = (self._facts[name][row].as_py() for name in names)
        if offset is None and (size, modified) != file_state(path):
            return None
        return str(digest) if digest is not None else None

    def shards(self, paths: Sequence[str]) -> Shards | None:
        """Return the shard of each video; videos outside shards are grouped by folder.

        Args:
            paths: The videos.

        Returns:
            None if no video is in a shard.
        """
        offsets = self._facts["offset"]
        if offsets.null_count == len(offsets):  # no shard at all: nothing to look up
            return None
        if offsets.take(pa.array([self._row(path) for path in paths], pa.int64())).null_count == len(paths):
            return None
        folders = np.array([os.path.dirname(path) for path in paths])  # noqa: PTH120 (of a million paths)
        names, of_row = np.unique(folders, return_inverse=True)
        return Shards(of_row.astype(np.int64), [Path(name) for name in names.tolist()])

    def rows(self, paths: Sequence[str]) -> pa.Table:
        """Return the facts of some files as columns of `FACT_FIELDS`, nulls for unknown files."""
        rows = pa.array([self._row(path) for path in paths], pa.int64())
        return pa.table({name: column.take(rows) for name, column in self._facts.items()})

    def _row(self, path: str | Path) -> int | None:
        wanted = absolute(path)
        mark = np.uint64(_mark(wanted))
        for place in range(int(np.searchsorted(self._marks, mark)), len(self._marks)):
            if self._marks[place] != mark:
                return None
            row = int(self._rows[place])
            if self._paths[row].as_py() == wanted:
                return row
        return None


def read_table(
    file: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Sequence[str] = SCHEMA.names,
) -> pa.Table:
    """Read an index as a table with absolute paths.

    Args:
        file: A Parquet file that `t3d prepare index` wrote.
        root: Folder that relative paths start from; without it, the index's own folder.
        columns: Those to read, `path` first.

    Returns:
        Columns of `SCHEMA`, N rows.

    Raises:
        ManifestError: It is missing, damaged or not an index.
    """
    name = os.fspath(file)
    try:
        there = pyarrow.parquet.read_schema(file)
        version = (there.metadata or {}).get(b"t3d.index")
        known = [name for name in SCHEMA.names if name in there.names or name not in _NEWER]
        sound = version == SCHEMA.metadata[b"t3d.index"] and there.names == known
        wanted = [name for name in columns if name in known]
        table = pyarrow.parquet.read_table(file, columns=wanted) if sound else None
    except FileNotFoundError as error:
        raise ManifestError(f"{name}: no such file; `t3d prepare index` writes an index") from error
    except PermissionError as error:
        raise ManifestError(f"{name}: this index cannot be read: Permission denied") from error
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{name}: cannot be read as Parquet ({error}); delete it and index again"
        ) from error
    if table is None:
        raise ManifestError(f"{name}: not an index of this version of T3D; `t3d prepare index` writes one")
    base = absolute(root if root is not None else Path(name).parent)
    whole = absolute_paths(table["path"].combine_chunks(), base)
    for name in columns:
        if name not in wanted:
            table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
    schema = pa.schema([SCHEMA.field(name) for name in columns], metadata=SCHEMA.metadata)
    return table.set_column(0, SCHEMA.field("path"), whole).select(list(columns)).cast(schema)


def failed_in(files: pa.Table, column: str) -> tuple[Failed, ...]:
    """Return the files of an index that have a reason in a column.

    Args:
        files: Columns `path` and `column`.
        column: `error`: the file cannot be read; `damage`: it can be read in part.
    """
    rows = files.filter(pc.is_valid(files[column])).select(["path", column]).to_pylist()
    return tuple(Failed(row["path"], row[column]) for row in rows)


def _mark(path: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big"
    )
