"""Decode every file of a data set once, and write down what is found: `t3d prepare index`.

Files are read in processes that are watched, on this machine or on many. What is done goes into a journal
beside the index, so that a killed run goes on where it was; a finished index is only completed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet

from t3d.data.index import ENTRY_FIELDS, FACT_FIELDS, SCHEMA, read_table
from t3d.data.inspect.duplicates import Duplicates, find_duplicates
from t3d.data.listing import absolute
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.tables import relative_to
from t3d.errors import ConfigError, ManifestError, at_least
from t3d.io.files import atomic_path
from t3d.io.tar_member import refuse_members
from t3d.prepare.examine import examine
from t3d.workers.cluster import LOCAL, Engine, outcomes
from t3d.workers.pool import Lost

JOURNAL = pa.schema([SCHEMA.field("path"), *FACT_FIELDS])
"""What a journal says of a file."""


@dataclass(frozen=True)
class IndexReport:
    """What indexing found.

    Args:
        videos: Rows of the index.
        files: Files that they name.
        examined: Files that were decoded now; the others were known.
        frames: Frames in all readable files.
        seconds: Length of all readable files.
        size: Bytes of all files.
        bad: Files that cannot be read, with the reason.
        damaged: Files that can be read in part, with what is wrong.
        duplicates: Files with the same bytes, and files that look the same.
    """

    videos: int
    files: int
    examined: int
    frames: int
    seconds: float
    size: int
    bad: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...]
    duplicates: Duplicates


def index_videos(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    workers: int = 2,
    patience: float = 120.0,
    engine: Engine = LOCAL,
    near: bool | None = None,
) -> IndexReport:
    """Decode every file of a manifest once, and write the index.

    Files that an index at `out`, or the journal of a run that was killed, knows in their present size and
    time of change are not decoded again, except those that could not be read.

    Args:
        manifest: The videos; several rows may name one file.
        out: The `.parquet` file to write. Paths below its folder are written relative to it.
        workers: Processes that decode; with Ray, those of each task.
        patience: Seconds after which a file is given up.
        engine: The machines that decode. All must reach the files under the same names.
        near: Whether to compare every pair of files by their looks; None does so up to `MOST_COMPARED` files.

    Returns:
        What was found.

    Raises:
        ConfigError: An option cannot work.
        ManifestError: `out` exists and is no index, the manifest has no row, or a video lies in a shard.
    """
    target = Path(absolute(out))
    if target.suffix != ".parquet":
        raise ConfigError(f"--out {out}: an index is a .parquet file")
    at_least("workers", workers, 1)
    at_least("patience", patience, 1e-3)
    if not len(manifest):
        raise ManifestError("there is no video to index")
    paths: list[str] = pc.unique(manifest.table["path"]).to_pylist()
    refuse_members(paths)
    target.parent.mkdir(parents=True, exist_ok=True)
    journal = target.with_name(f".{target.name}.journal")
    known = _known(target, journal)
    unchanged = _unchanged(known, paths)
    todo = [path for path in paths if path not in unchanged]
    with journal.open("a", encoding="utf-8") as file:
        coming = outcomes(
            examine, todo, engine=engine, workers=workers, patience=patience, title="reading videos"
        )
        for path, outcome in coming:
            row = {"path": path, "error": outcome.reason} if isinstance(outcome, Lost) else outcome
            file.write(json.dumps(row) + "\n")
            file.flush()
    facts = _latest([known, _read_journal(journal)])
    table = write_index(target, manifest, facts)
    journal.unlink()
    return replace(report_of(table, near=near), examined=len(todo))


def report_of(table: pa.Table, *, near: bool | None = None) -> IndexReport:
    """What an index says of its files.

    Args:
        table: As `t3d.data.index.read_table` gives it.
        near: See `index_videos`.
    """
    files = _once(table)
    sums = {name: pc.sum(files[name]).as_py() or 0 for name in ("frames", "duration", "size")}
    named: dict[str, tuple[tuple[str, str], ...]] = {}
    for column in ("error", "damage"):
        rows = files.filter(pc.is_valid(files[column])).select(["path", column]).to_pylist()
        named[column] = tuple((row["path"], row[column]) for row in rows)
    return IndexReport(
        videos=table.num_rows,
        files=files.num_rows,
        examined=0,
        frames=sums["frames"],
        seconds=sums["duration"],
        size=sums["size"],
        bad=named["error"],
        damaged=named["damage"],
        duplicates=find_duplicates(files, near=near),
    )


def write_index(target: Path, manifest: Manifest, facts: pa.Table) -> pa.Table:
    """Write an index; it appears whole or not at all.

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
    """What an earlier index and an unfinished run know, one row a file."""
    tables = [read_table(target).select(JOURNAL.names)] if target.exists() else []
    return _latest([*tables, _read_journal(journal)])


def _read_journal(journal: Path) -> pa.Table:
    """The rows of a journal; a last line that a killed run left unfinished is cut off."""
    if not journal.exists():
        return JOURNAL.empty_table()
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with journal.open("r+b") as file:
            file.truncate(len(whole))
    if not whole:
        return JOURNAL.empty_table()
    try:
        return parsed_lines(whole, JOURNAL)
    except pa.ArrowInvalid as error:
        raise ManifestError(f"{journal}: cannot be read ({error}); delete it and index again") from error


def parsed_lines(data: bytes, schema: pa.Schema) -> pa.Table:
    """The lines of a journal, JSON objects, as the columns of a schema; fields that a line lacks are null.

    Raises:
        pyarrow.ArrowInvalid: A line is no such object.
    """
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    reading = pyarrow.json.ReadOptions(block_size=64 << 20)  # a row must fit into a block
    table = pyarrow.json.read_json(pa.BufferReader(data), read_options=reading, parse_options=options)
    return table.select(schema.names).cast(schema).combine_chunks()


def _latest(tables: Sequence[pa.Table]) -> pa.Table:
    """One row a file: the last."""
    return _once(pa.concat_tables([table.cast(JOURNAL) for table in tables]))


def _once(table: pa.Table) -> pa.Table:
    table = table.combine_chunks()
    numbered = pa.table({"path": table["path"], "row": pa.array(np.arange(table.num_rows))})
    rows = numbered.group_by("path", use_threads=False).aggregate([("row", "max")])["row_max"]
    return table.take(rows)


def _unchanged(known: pa.Table, paths: Sequence[str]) -> set[str]:
    """The files that were read before and are still the same."""
    columns = [known[name].to_pylist() for name in ("path", "size", "modified", "error")]
    before = {path: (size, time) for path, size, time, error in zip(*columns, strict=True) if error is None}
    same = set()
    for path in paths:
        if path in before:
            try:
                status = Path(path).stat()
            except OSError:
                continue
            if (status.st_size, status.st_mtime_ns) == before[path]:
                same.add(path)
    return same
