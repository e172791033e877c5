"""Limits of lists, indexes and the search for pairs: the measurements of docs/guides/many-machines.md.

    python benchmarks/scale_limits.py make OUT --rows 1000000

    python benchmarks/scale_limits.py list OUT; … facts OUT; … journal OUT; … renew OUT
    python benchmarks/scale_limits.py pairs --rows 50000
    python benchmarks/scale_limits.py outcomes --rows 40000
    python benchmarks/scale_limits.py shards OUT --rows 4000

The command `make` writes an index of generated rows into the folder OUT: H.264 of 300 frames, a key frame
every 16. Each of the next four commands measures one use of it, in a separate process, because freed memory
is not always returned:

- `list` opens the index as a list.
- `facts` opens it as facts.
- `journal` makes it from a journal, like a run of `t3d prepare index` after all decoding.
- `renew` finds that there is nothing new.

The others take the number of items from `--rows`. `pairs` compares the perceptual hashes of files. `outcomes`
takes results from two processes of Ray, and writes each of them. `shards` packs files of 0.87 MB in one
process, and downloads the shards from a server on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from t3d.data.index import VideoIndex, read_table
from t3d.data.inspect.duplicates import find_duplicates
from t3d.data.manifest.manifest import Manifest
from t3d.io.files import content_digest
from t3d.io.shard_cache import local_copy, shard_cache_of
from t3d.prepare.index import JOURNAL, _known, report_of, write_index
from t3d.prepare.shards import write_shards

CLASSES = 700
KEYS = [512 * frame for frame in range(0, 300, 16)]
FACTS: dict[str, Any] = {
    "codec": "h264",
    "frames": 300,
    "height": 256,
    "width": 340,
    "rotation": 0,
    "mirrored": False,
    "fps": 30.0,
    "duration": 10.0,
    "time_base": "1/15360",
    "first": 0,
    "steps": [512],
    "repeats": [299],
    "last": 512,
    "counted": False,
    "key_times": KEYS,
    "key_seeks": KEYS,
    "damage": None,
    "error": None,
}


def resident() -> float:
    """Memory of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1e3


@contextmanager
def measured(what: str) -> Iterator[None]:
    """Print time and memory of a block."""
    before, began, used = resident(), time.perf_counter(), time.process_time()
    yield
    took, used = time.perf_counter() - began, time.process_time() - used
    held = resident() - before
    pa.default_memory_pool().release_unused()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{what}: {took:.1f} s, {used:.1f} s of processors; {held:.0f} MB more, {resident() - before:.0f} MB "
        f"after giving back; peak of the process {peak:.0f} MB"
    )


def make(out: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    ids = [f"{number:011x}" for number in draw.integers(0, 2**44, rows)]
    labels = draw.integers(0, CLASSES, rows)
    classes = tuple(f"class {number:03d}" for number in range(CLASSES))
    folder = (out / "videos").absolute()
    paths = [f"{folder}/{classes[k]}/{name}_000417_000427.mp4" for k, name in zip(labels, ids, strict=True)]
    nothing = pa.nulls(rows, pa.float64())
    columns = {"path": paths, "label": pa.array(labels, pa.int32()), "start": nothing, "end": nothing}
    manifest = Manifest(classes, pa.table(columns | {"source": ids}))
    own = {
        "path": paths,
        "size": draw.integers(200_000, 900_000, rows),
        "modified": draw.integers(1_700_000_000, 1_710_000_000, rows) * 1_000_000_000,
        "digest": [draw.bytes(16).hex() for _ in range(rows)],
        "looks": list(draw.integers(0, 2**64, (rows, 8), dtype=np.uint64)),
    }
    facts = pa.table(
        {
            field.name: pa.array(own.get(field.name, [FACTS.get(field.name)] * rows), field.type)
            for field in JOURNAL
        }
    )
    with measured("writing the index"):
        write_index(out / "index.parquet", manifest, facts)
    with (out / "journal").open("w") as file:
        for batch in facts.to_batches(max_chunksize=20_000):
            file.writelines(json.dumps(row) + "\n" for row in batch.to_pylist())
    for name in ("index.parquet", "journal"):
        print(f"{name}: {(out / name).stat().st_size / rows:.0f} bytes per row")


def as_list(out: Path, rows: int) -> None:  # noqa: ARG001
    with measured("opening as a list"):
        manifest = Manifest.from_index(out / "index.parquet")
    print(f"its table: {manifest.table.nbytes / len(manifest):.0f} bytes per row")


def as_facts(out: Path, rows: int) -> None:  # noqa: ARG001
    with measured("opening as facts"):
        index = VideoIndex.read(out / "index.parquet")
    table = read_table(out / "index.parquet")
    print(f"its table: {table.nbytes / len(index):.0f} bytes per row")


def from_journal(out: Path, rows: int) -> None:  # noqa: ARG001
    manifest = Manifest.from_index(out / "index.parquet")
    with measured("making the index out of the journal"):
        facts = _known(out / "none.parquet", out / "journal")
        report_of(write_index(out / "again.parquet", manifest, facts))


def renew(out: Path, rows: int) -> None:  # noqa: ARG001
    manifest = Manifest.from_index(out / "index.parquet")
    with measured("writing it again with nothing new"):
        facts = _known(out / "index.parquet", out / "none")
        report_of(write_index(out / "again.parquet", manifest, facts))


def pairs(out: Path, rows: int) -> None:  # noqa: ARG001
    names = [str(number) for number in range(rows)]
    looks = np.random.default_rng(0).integers(0, 2**64, (rows, 8), dtype=np.uint64)
    columns = {"path": names, "source": names, "digest": names}
    files = pa.table(columns | {"looks": pa.array(looks.tolist(), pa.list_(pa.uint64()))})
    with measured(f"comparing {rows} files"):
        find_duplicates(files, near=True)


def outcomes(out: Path, rows: int) -> None:
    from t3d.workers.ray_cluster import blocks_of, joined, spread
    from t3d.workers.ray_pools import Actors

    row = {**FACTS, "path": "x" * 80, "digest": "x" * 32, "looks": [2**60] * 8}

    def instant() -> Callable[[list[int]], Sequence[dict[str, Any]]]:
        return lambda items: [row] * len(items)

    with joined(None), (out / "taken").open("w") as file:
        coming = spread(Actors(instant, cpus=1, gpus=0, most=2), blocks_of(range(rows), 64))
        next(coming)  # they are up
        began = time.perf_counter()
        for _, outcome in coming:
            file.write(json.dumps(outcome) + "\n")
            file.flush()
        print(f"{rows / (time.perf_counter() - began):.0f} outcomes per second")


def shards(out: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    folder = (out / "files").absolute()
    folder.mkdir(exist_ok=True)
    size = 870_000
    paths = [str(folder / f"{number:06}.mp4") for number in range(rows)]
    digests = []
    for path in paths:
        Path(path).write_bytes(draw.bytes(size))
        digests.append(content_digest(Path(path)))
    own = {"path": paths, "size": [size] * rows, "digest": digests}
    columns = {
        field.name: pa.array(own.get(field.name, [FACTS.get(field.name)] * rows), field.type)
        for field in JOURNAL
    }
    manifest = Manifest.from_files(paths)
    write_index(out / "files.parquet", manifest, pa.table(columns))
    index = VideoIndex.read(out / "files.parquet")
    report = write_shards(manifest, index, out / "shards", workers=1)
    print(f"packing: {report.size / 1e6 / report.took:.0f} MB/s, {report.shards} shards")
    os.environ["T3D_SHARDS"] = str(out / "twin")
    with (out / "server.log").open("w") as log:
        command = [
            sys.executable,
            "-m",
            "http.server",
            "8799",
            "--bind",
            "127.0.0.1",
            "-d",
            str(out / "shards"),
        ]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        time.sleep(2)
        cache = shard_cache_of(Path(local_copy("http://127.0.0.1:8799/index.parquet")).parent)
        assert cache is not None
        began = time.perf_counter()
        for name in cache.shards:
            cache.bring(name)
        print(f"download: {report.size / 1e6 / (time.perf_counter() - began):.0f} MB/s")
    finally:
        server.terminate()


PARTS = {
    "make": make,
    "list": as_list,
    "facts": as_facts,
    "journal": from_journal,
    "renew": renew,
    "pairs": pairs,
    "outcomes": outcomes,
    "shards": shards,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path, nargs="?", default=Path())
    parser.add_argument("--rows", type=int, default=1_000_000)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    PARTS[chosen.part](chosen.out, chosen.rows)


if __name__ == "__main__":
    main()
