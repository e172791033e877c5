"""Pack many videos into a few large files for sequential reading: `t3d prepare shards`.

The index and the options determine what goes into which shard before anything is written. So an interrupted
run resumes with the missing shards, and the same videos give the same shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.index import VideoIndex
from t3d.data.listing import absolute
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import SCHEMA
from t3d.errors import ConfigError, Failed, ManifestError, at_least
from t3d.io.files import sweep
from t3d.io.journal import Journal, read_journal
from t3d.io.shard_cache import INDEX, LIST
from t3d.io.tar_member import refuse_members
from t3d.prepare.index import JOURNAL, write_index
from t3d.prepare.out_folder import claim, write_record
from t3d.prepare.pack import Packed, ShardTask, write_shard
from t3d.video.images import IMAGE_CODECS
from t3d.workers.cluster import ONE_MACHINE, Cluster, outcomes
from t3d.workers.pool import Lost

_NOTES = ".shards.journal"
_IMAGES = "is a folder of images; make a video file of it first with t3d prepare transcode"
_FORMAT = 1  # raise it when the content of shards changes: older folders are then refused


@dataclass(frozen=True)
class ShardReport:
    """Result of packing a dataset.

    Args:
        videos: Rows of the shards' index.
        files: Files that they name, each once in a shard.
        shards: Number of shards.
        written: Shards that were written in this run; the others existed.
        size: Bytes of all shards.
        largest: Bytes of the largest shard.
        smallest: Bytes of the smallest shard.
        took: Duration of this run, in seconds.
        bad: Files that are in no shard.
    """

    videos: int
    files: int
    shards: int
    written: int
    size: int
    largest: int
    smallest: int
    took: float
    bad: tuple[Failed, ...]


def write_shards(
    manifest: Manifest,
    index: VideoIndex,
    out: str | os.PathLike[str],
    *,
    shard_mb: float = 256.0,
    seed: int = 0,
    workers: int = 2,
    timeout: float = 3600.0,
    cluster: Cluster = ONE_MACHINE,
) -> ShardReport:
    """Pack video files into shards, in an order that is drawn once, and write an index of the shards.

    A shard is a tar file in WebDataset's format: for each video `KEY.mp4` with the bytes of the file,
    whatever its format, and `KEY.json` with its rows of the manifest. `index.parquet` gives the shard and the
    position of each file; `shards.json` lists the shards with their SHA-256. An interrupted run resumes.

    Args:
        manifest: The videos; several rows may name one file, which is put into a shard once.
        index: Index of the files. Files that it does not name, or says cannot be read, are left out.
        out: Folder for the shards and their `index.parquet`: new, empty, or of an earlier run with the same
            videos and options.
        shard_mb: Size of a shard, in MB (10⁶ bytes). A video that would exceed it begins the next shard.
        seed: Seed of the order in which videos are packed.
        workers: Processes that read and write; on a cluster, the processes of each task.
        timeout: Time limit per shard, in seconds. The run stops at a shard that takes longer.
        cluster: Machines that pack. All must reach the files and `out` under the same paths.

    Returns:
        What was done.

    Raises:
        ConfigError: An option cannot work, `out` holds anything else or other shards, another run is writing
            to it, or a shard took too long.
        ManifestError: No file of the manifest can go into a shard.
        T3DError: The disk is full. The journal keeps what is done.
        OSError: `out` cannot be written to.

    Example:
        >>> import tempfile, torch
        >>> from t3d.video.encode import write_video
        >>> from t3d.prepare.index import index_videos
        >>> place = Path(tempfile.mkdtemp())
        >>> for name in "abc":
        ...     _ = write_video(place / f"{name}.mp4", torch.zeros(8, 3, 64, 64, dtype=torch.uint8))
        >>> manifest = Manifest.from_files([place])
        >>> _ = index_videos(manifest, place / "index.parquet")
        >>> report = write_shards(manifest, VideoIndex.read(place / "index.parquet"), place / "shards")
        >>> report.shards, sorted(path.name for path in (place / "shards").glob("*.*"))
        (1, ['.shards.journal', '000000.tar', 'index.parquet', 'shards.json'])
    """
    began = time.monotonic()
    at_least("shard_mb", shard_mb, 0.001)
    at_least("seed", seed, 0)
    at_least("workers", workers, 1)
    at_least("timeout", timeout, 1e-3)
    folder = Path(absolute(out))
    rows, files, bad = _usable(manifest, index)
    tasks = _plan(rows, files, folder, shard_mb=shard_mb, seed=seed)
    wanted = {"format": _FORMAT, "shard_mb": shard_mb, "seed": seed, "videos": _digest(rows, files)}
    record = claim(
        folder / LIST,
        wanted,
        hints={"videos": "the list, its labels or its files have changed; shards are never changed"},
    )
    with Journal(folder / _NOTES) as journal:
        sweep(folder)
        done = _done(folder)
        todo = [task for task in tasks if Path(task.target).name not in done]
        results = outcomes(
            write_shard, todo, cluster=cluster, workers=workers, timeout=timeout, title="Writing shards"
        )
        done |= _record_all(journal, results)
        lines = [done[Path(task.target).name] for task in tasks]
        table = _write(folder, rows, files, lines)
        shards = {line["shard"]: {"bytes": line["bytes"], "sha256": line["sha256"]} for line in lines}
        if record.get("shards") != shards:
            write_record(folder / LIST, wanted | {"shards": shards})
    return _report(lines, bad, videos=table.num_rows, written=len(todo), began=began)


def _report(
    lines: Sequence[dict[str, Any]], bad: Sequence[Failed], *, videos: int, written: int, began: float
) -> ShardReport:
    """Return what was done.

    Args:
        lines: The journal's record of each shard.
        bad: Files that were left out before anything was packed.
        videos: Rows of the shards' index.
        written: Shards that were written in this run.
        began: When this run began, by `time.monotonic`.
    """
    sizes = [line["bytes"] for line in lines]
    return ShardReport(
        videos=videos,
        files=sum(len(line["offsets"]) for line in lines),
        shards=len(lines),
        written=written,
        size=sum(sizes),
        largest=max(sizes),
        smallest=min(sizes),
        took=time.monotonic() - began,
        bad=(*bad, *(Failed(**each) for line in lines for each in line["bad"])),
    )


# --- the plan -------------------------------------------------------------------------------------------


def _usable(manifest: Manifest, index: VideoIndex) -> tuple[Manifest, pa.Table, list[Failed]]:
    """Return the rows whose files can go into a shard, the facts of these files, and the other files."""
    paths: list[str] = pc.unique(manifest.table["path"]).to_pylist()
    refuse_members(paths)
    facts = index.rows(paths).append_column("path", pa.array(paths, pa.string()))
    bad = []
    columns = (facts[name].to_pylist() for name in ("path", "digest", "error", "codec"))
    for path, digest, error, codec in zip(*columns, strict=True):
        if error is not None or digest is None:
            reason = error or "is not in the index; bring the index up to date with t3d prepare index"
            bad.append(Failed(path, reason))
        elif codec in IMAGE_CODECS and Path(path).is_dir():
            bad.append(Failed(path, _IMAGES))
    if len(bad) == len(paths):
        why = f", such as {bad[0]}" if bad else ""
        raise ManifestError(f"no video can go into a shard{why}")
    files = facts.filter(pc.is_valid(facts["digest"]))
    refused = pa.array([failed.path for failed in bad], pa.string())
    files = files.filter(pc.invert(pc.is_in(files["path"], value_set=refused)))
    known = pc.is_in(manifest.table["path"], value_set=files["path"].combine_chunks())
    return manifest.select(np.flatnonzero(known.to_numpy())), files, bad


def _plan(rows: Manifest, files: pa.Table, folder: Path, *, shard_mb: float, seed: int) -> list[ShardTask]:
    """Divide the files into shards: in a random order drawn from the seed, cut when a shard is full."""
    order = np.random.default_rng(seed).permutation(files.num_rows)
    columns = [files[name].take(pa.array(order)) for name in ("path", "digest", "size")]
    notes = _notes(rows)
    shards: list[list[Packed]] = [[]]
    full = 0.0
    for number, (path, digest, size) in enumerate(zip(*(c.to_pylist() for c in columns), strict=True)):
        if shards[-1] and full + size > shard_mb * 1e6:
            shards.append([])
            full = 0.0
        full += size
        shards[-1].append(Packed(path, _key(number, path), digest, notes[path]))
    width = max(6, len(str(len(shards) - 1)))
    return [
        ShardTask(str(folder / f"{number:0{width}}.tar"), tuple(each)) for number, each in enumerate(shards)
    ]


def _key(number: int, path: str) -> str:
    """Return the key of a video in its shard: a number, since names repeat, and the name of the file.

    WebDataset takes the part before the first dot as the key; old tar formats allow 100 bytes of ASCII.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(path).stem)
    return f"{number:09}-{stem[:60]}"


def _notes(rows: Manifest) -> dict[str, str]:
    """Return the content of the JSON file of each video."""
    clips: dict[str, list[dict[str, Any]]] = {}
    for entry, label in zip(rows, rows.label_names().to_pylist(), strict=True):
        clip = {rows.label_column.name: label, "start": entry.start, "end": entry.end, "source": entry.source}
        clips.setdefault(str(entry.path), []).append({k: v for k, v in clip.items() if v is not None})
    return {
        path: json.dumps({"name": Path(path).name, "clips": each}, ensure_ascii=False)
        for path, each in clips.items()
    }


def _digest(rows: Manifest, files: pa.Table) -> str:
    """Return a digest of all that goes into the shards."""
    content = "\n".join([*files["digest"].to_pylist(), *_notes(rows).values()])
    return hashlib.sha256(content.encode()).hexdigest()


# --- what is done ---------------------------------------------------------------------------------------


def _record_all(
    journal: Journal, results: Iterable[tuple[ShardTask, dict[str, Any] | Lost]]
) -> dict[str, dict[str, Any]]:
    """Record the shards in the journal as they are written, and return the records by shard."""
    records = {}
    for task, record in results:
        if isinstance(record, Lost):
            raise ConfigError(f"{task.target}: {record.reason}; run the same command again to resume")
        journal.add(record)
        records[record["shard"]] = record
    return records


def _done(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the shards that exist, and the journal's record of each."""
    done = {}
    for line in read_journal(folder / _NOTES):
        target = folder / line["shard"]
        if target.is_file() and target.stat().st_size == line["bytes"]:
            done[line["shard"]] = line
    return done


def _write(folder: Path, rows: Manifest, files: pa.Table, lines: Sequence[dict[str, Any]]) -> pa.Table:
    """Write the index of the shards, its rows in the order that they have there."""
    packed = [
        (source, str(folder / line["shard"] / name), offset)
        for line in lines
        for source, name, offset in line["offsets"]
    ]
    if not packed:
        raise ManifestError(
            f"{folder}: not one video could be put into a shard; {lines[0]['bad'][0]['reason']}"
        )
    sources, paths, offsets = (pa.array(column) for column in zip(*packed, strict=True))
    where = pc.index_in(rows.table["path"], value_set=sources).combine_chunks()
    order = _in_order(where.to_numpy(zero_copy_only=False))
    table = rows.table.take(pa.array(order))
    table = table.set_column(0, SCHEMA.field("path"), paths.take(where.take(pa.array(order))))
    facts = files.take(pc.index_in(sources, value_set=files["path"].combine_chunks()))
    facts = facts.set_column(facts.schema.get_field_index("offset"), "offset", offsets)
    facts = facts.set_column(facts.schema.get_field_index("path"), "path", paths)
    return write_index(folder / INDEX, Manifest(rows.classes, table), facts.select(JOURNAL.names))


def _in_order(places: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the rows that have a position, ordered by position."""
    order = np.argsort(places, kind="stable")
    return order[np.isfinite(places[order])]
