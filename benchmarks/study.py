"""Shared parts of the studies: labeled sets, choice of labels, jobs that run once, tables of results."""

from __future__ import annotations

import fnmatch
import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from t3d.data.catalog import open_manifest
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError
from t3d.io.locks import alone_in

Job = dict[str, Any]
Result = dict[str, Any]

LISTS = {
    "ucf101_11": ("ucf101_11/splits/trainlist01.txt", "ucf101_11/splits/testlist01.txt", None),
    "hockey_fights": ("hockey_fights/train", "hockey_fights/test", None),
    "arid6": ("arid6/train", "arid6/val", r"_(\d+)_\d+$"),
}
"""Training list, test list and the pattern of a source, below the folder of data."""
VALIDATED = 300
"""Videos that validate a run, out of those whose labels are not used."""


def videos_of(data: Path, name: str) -> str | None:
    """Return the folder with the files of a set."""
    return str(data / "ucf101_11/videos") if name == "ucf101_11" else None


def open_list(data: Path, name: str, which: int) -> Manifest:
    """The training (0) or test (1) list of a set."""
    pattern = LISTS[name][2] if which == 0 else None
    return open_manifest(
        str(data / str(LISTS[name][which])), root=videos_of(data, name), source_pattern=pattern
    )


def draw_labels(data: Path, out: Path, name: str, percent: int, seed: int) -> tuple[Path, Path | None]:
    """Tables of the training videos, and of validation videos from the rest of the training list.

    No source has videos in both. With all labels there are none to validate on.
    """
    known = open_list(data, name, 0)
    used = known.label_subset(percent / 100, seed=seed)
    tables = [out / "lists" / f"{name}-{percent}-s{seed}-{part}.csv" for part in ("train", "val")]
    tables[0].parent.mkdir(parents=True, exist_ok=True)
    used.write_csv(tables[0])
    if percent == 100:
        return tables[0], None
    sources = set(used.sources())
    rest = known.select([row for row, entry in enumerate(known) if entry.source not in sources])
    if len(rest) > VALIDATED:
        rest = rest.label_subset(VALIDATED / len(rest), seed=seed)
    rest.write_csv(tables[1])
    return tables[0], tables[1]


def run_jobs(
    jobs: Mapping[str, Job],
    run: Callable[[str, Job], Result],
    out: Path,
    patterns: Iterable[str],
    *,
    only_list: bool = False,
) -> None:
    """Run the jobs whose names match, pattern by pattern. Each writes OUT/NAME/result.json.

    Finished jobs, and jobs of other processes, are skipped.
    """
    for pattern in patterns:
        for name, job in jobs.items():
            result = out / name / "result.json"
            if not fnmatch.fnmatch(name, pattern) or result.exists():
                continue
            print(f"=== {name}", flush=True)
            if only_list:
                continue
            result.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as held:
                try:
                    held.enter_context(alone_in(result.parent))
                except ConfigError:
                    print("another process is running it", flush=True)
                    continue
                if not result.exists():
                    outcome = run(name, job)
                    result.write_text(json.dumps({**job, **outcome}, indent=1))


def spent(lines: list[dict[str, Any]]) -> float:
    """Minutes between the first and the last line of a log."""
    return (lines[-1]["time"] - lines[0]["time"]) / 60


def add_results(table: Path, out: Path) -> None:
    """Add the results in a folder to a table. Results of the same name are replaced."""
    results = {} if not table.exists() else {r["name"]: r for r in read_results(table)}
    for file in sorted(out.rglob("result.json")):
        name = str(file.parent.relative_to(out))
        results[name] = {"name": name, **json.loads(file.read_text())}
    lines = [json.dumps(results[name], ensure_ascii=False) + "\n" for name in sorted(results)]
    table.write_text("".join(lines), encoding="utf-8")


def read_results(table: Path) -> list[Result]:
    """Return all results of a table, which has one JSON object per line."""
    return [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]


def spread(values: list[float]) -> str:
    """Mean and standard deviation in percent, and number of values."""
    mean = 100 * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f} (1)"
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f} ({len(values)})"
