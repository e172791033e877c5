"""Decode every file of a dataset once, and write an index of the files: `t3d prepare index`.

Files are read in watched processes, on this machine or on many. A journal next to the index records finished
files, so that an interrupted run resumes. An existing index is brought up to date.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from t3d.data.index import ENTRY_FIELDS, FACT_FIELDS, SCHEMA, failed_in, read_table
from t3d.data.inspect.duplicates import Duplicates, find_duplicates
from t3d.data.listing import absolute
from t3d.data.manifest.manifest import Manifest
from t3d.data.paths import relative_to
from t3d.errors import ConfigError, Failed, ManifestError, at_least, between
from t3d.io.files import atomic_path
from t3d.io.journal import Journal, whole_lines
from t3d.io.locks import alone_in
from t3d.io.tar_member import refuse_members
from t3d.prepare.examine import examine
from t3d.video.facts import CHECKS
from t3d.video.image_names import file_state
from t3d.video.images import IMAGE_CODECS, image_table
from t3d.video.limits import DEFAULT_MEGAPIXELS
from t3d.workers.cluster import ONE_MACHINE, Cluster, outcomes
from t3d.workers.pool import Lost

JOURNAL = pa.schema([SCHEMA.field("path"), *FACT_FIELDS])
"""Columns of a journal of files."""


@dataclass(frozen=True)
class IndexReport:
    """Result of indexing a dataset.

    Args:
        videos: Rows of the index.
        files: Files that they name.
        examined: Files that were decoded in this run; the others were known.
        frames: Frames in all readable files.
        seconds: Length of all readable files, in seconds.
        size: Bytes of all files.
        bad: Files that cannot be read.
        damaged: Files that can be read in part.
        duplicates: Files with the same bytes, and near-duplicates.
    """

    videos: int
    files: int
    examined: int
    frames: int
    seconds: float
    size: int
    bad: tuple[Failed, ...]
    damaged: tuple[Failed, ...]
    duplicates: Duplicates


def index_videos(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    workers: int = 2,
    timeout: float = 120.0,
    max_megapixels: float = DEFAULT_MEGAPIXELS,
    image_fps: float | None = None,
    cluster: Cluster = ONE_MACHINE,
    near_duplicates: bool | None = None,
) -> IndexReport:
    """Decode every video file once, and write an index of the files.

    Files that an index at `out`, or the journal of an interrupted run, knows with their present size and
    modification time are not decoded again, except those that could not be read.

    Args:
        manifest: The videos; several rows may name one file.
        out: Index to write, a `.parquet` file. An existing index is brought up to date. Paths below its
            folder are stored relative to it.
        workers: Processes that decode; on a cluster, the processes of each task.
        timeout: Time limit per file, in seconds. A file that takes longer is reported as unreadable.
        max_megapixels: Largest frame that is decoded, in megapixels. 8K video has 33.
        image_fps: Frames per second of videos that are folders of images. The index stores it for the
            commands that use it. Default: the rate that the index already has, else 25.
        cluster: Machines that decode. All must reach the files under the same paths.
        near_duplicates: Search for near-duplicates by comparing every pair of files, which takes four times
            as long for twice as many. Default: only up to 200,000 files.

    Returns:
        A summary of the files.

    Raises:
        ConfigError: An option cannot work, or another run is writing to `out`.
        ManifestError: `out` exists and is not an index, the manifest has no row, or a video is in a shard.
        T3DError: The disk is full. The journal keeps what is done.
    """
    target = Path(absolute(out))
    if target.suffix != ".parquet":
        raise ConfigError(f"out is {out}; an index is a .parquet file")
    at_least("workers", workers, 1)
    at_least("timeout", timeout, 1e-3)
    at_least("max_megapixels", max_megapixels, 1e-3)
    if image_fps is not None:
        between("image_fps", image_fps, 0.001, 100_000)
    if not len(manifest):
        raise ManifestError("the list has no video to index")
    paths: list[str] = pc.unique(manifest.table["path"]).to_pylist()
    refuse_members(paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    notes = target.with_name(f".{target.name}.journal")
    with alone_in(target):
        known = _known(target, notes)
        unchanged = _unchanged(known, paths, image_fps)
        todo = [path for path in paths if path not in unchanged]
        rate = _known_rate(known) if image_fps is None else image_fps
        work = partial(examine, max_megapixels=max_megapixels, image_fps=rate)
        results = outcomes(
            work, todo, cluster=cluster, workers=workers, timeout=timeout, title="Indexing videos"
        )
        with Journal(notes) as journal:
            for path, result in results:
                journal.add({"path": path, "error": result.reason} if isinstance(result, Lost) else result)
        facts = _latest([known, _read_journal(notes)])
        table = write_index(target, manifest, facts)
        notes.unlink()
    return replace(report_of(table, near_duplicates=near_duplicates), examined=len(todo))


def report_of(table: pa.Table, *, near_duplicates: bool | None = None) -> IndexReport:
    """Return a summary of the files of an index.

    Args:
        table: The index, as `t3d.data.index.read_table` returns it.
        near_duplicates: See `index_videos`.
    """
    files = _once(table)
    sums = {name: pc.sum(files[name]).as_py() or 0 for name in ("frames", "duration", "size")}
    return IndexReport(
        videos=table.num_rows,
        files=files.num_rows,
        examined=0,
        frames=sums["frames"],
        seconds=sums["duration"],
        size=sums["size"],
        bad=failed_in(files, "error"),
        damaged=failed_in(files, "damage"),
        duplicates=find_duplicates(files, near=near_duplicates),
    )


def write_index(target: Path, manifest: Manifest, facts: pa.Table) -> pa.Table:
    """Write an index, whole or not at all.

    Args:
        target: The file. Paths below its folder are written relative to it.
        manifest: The videos.
        facts: Columns of `JOURNAL`, one row for each file of the manifest; others are left out.

    Returns:
        The index as `t3d.data.index.read_table` gives it.
    """
    rows = pc.index_in(manifest.table["path"], value_set=facts["path"].combine_chunks())
    labels = manifest.label_column
    columns = {field.name: pa.nulls(len(manifest), field.type) for field in ENTRY_FIELDS}
    columns |= {name: manifest.table[name] for name in manifest.table.schema.names} | {
        labels.name: labels.names()
    }
    columns |= {field.name: facts[field.name].take(rows) for field in FACT_FIELDS}
    table = pa.table(columns).cast(SCHEMA)
    relative = relative_to(table["path"].combine_chunks(), str(target.parent))
    with atomic_path(target) as temporary:
        written = table.set_column(0, SCHEMA.field("path"), relative)
        pyarrow.parquet.write_table(written, temporary, compression="zstd")
    return table


# --- what is known ----------------------------------------------------------------------------------------


def _known(target: Path, journal: Path) -> pa.Table:
    """Return what an earlier index and an unfinished run know, one row per file."""
    tables = [read_table(target).select(JOURNAL.names)] if target.exists() else []
    return _latest([*tables, _read_journal(journal)])


def _read_journal(journal: Path) -> pa.Table:
    try:
        return read_lines(journal, JOURNAL)
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{journal}: cannot be read ({error}); delete it and index again") from error


def read_lines(journal: Path, schema: pa.Schema) -> pa.Table:
    """Return a journal as the columns of a schema; fields that a line leaves out are null.

    Raises:
        pyarrow.ArrowInvalid: A line is not such a record.
    """
    lines = whole_lines(journal)
    if not lines:
        return schema.empty_table()
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    reading = pyarrow.json.ReadOptions(block_size=64 << 20)  # a row must fit into a block
    table = pyarrow.json.read_json(pa.BufferReader(lines), read_options=reading, parse_options=options)
    return table.select(schema.names).cast(schema).combine_chunks()


def _latest(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the last row of each file."""
    return _once(pa.concat_tables([table.cast(JOURNAL) for table in tables]))


def _once(table: pa.Table) -> pa.Table:
    table = table.combine_chunks()
    numbered = pa.table({"path": table["path"], "row": pa.array(np.arange(table.num_rows))})
    rows = numbered.group_by("path", use_threads=False).aggregate([("row", "max")])["row_max"]
    return table.take(rows)


def _known_rate(known: pa.Table) -> float | None:
    """Return the rate of the folders of images that an index has, if all have the same."""
    columns = (known[name].to_pylist() for name in ("path", "codec", "time_base"))
    rates = {
        float(1 / Fraction(step))
        for path, codec, step in zip(*columns, strict=True)
        if codec in IMAGE_CODECS and Path(path).is_dir()
    }
    return rates.pop() if len(rates) == 1 else None


def _unchanged(known: pa.Table, paths: Sequence[str], image_fps: float | None) -> set[str]:
    """Return the files that this version read before and that have not changed.

    A folder of images counts as changed if it shall have another rate.
    """
    sound = known.filter(pc.and_(pc.is_null(known["error"]), pc.equal(known["checked"], CHECKS)))
    columns = [sound[name].to_pylist() for name in ("path", "size", "modified", "time_base", "codec")]
    step = None if image_fps is None else str(image_table(2, image_fps).time_base)
    before = {
        path: (size, time, step is None or base == step or codec not in IMAGE_CODECS)
        for path, size, time, base, codec in zip(*columns, strict=True)
    }
    same = set()
    for path in paths:
        if path in before:
            try:
                state = file_state(Path(path))
                right_rate = before[path][2] or not Path(path).is_dir()
            except OSError:
                continue
            if state == before[path][:2] and right_rate:
                same.add(path)
    return same
