"""Accuracy with few labels: frozen 2D networks, with and without soft labels of a teacher, by t3d's commands.

Run all jobs, some of them, or none, and print the table:

    python benchmarks/few_labels.py DATA OUT
    python benchmarks/few_labels.py DATA OUT --only 'soft/*'
    python benchmarks/few_labels.py DATA OUT --table

Each job is one or two commands, printed before they run. Finished jobs are skipped, so an interrupted study
continues. The test list is used once per figure. Options were chosen on training groups
(docs/project/results.md).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from t3d.io.files import atomic_path
from t3d.io.locks import alone_in

DRAWS = [(5, 0), (5, 1), (5, 2), (20, 0), (20, 1), (20, 2), (100, 0)]
"""Share of the labels in percent, and seed of their draw."""
Figures = dict[str, Any]
TWO = ["--num-frames", "2", "--stride", "60"]
NETS = {
    "lite0-128": ["--teacher", "lite0", "--teacher-size", "128"],
    "lite0-128x2": ["--teacher", "lite0", "--teacher-size", "128", *TWO],
}


class Study:
    """Commands of the study on the 11 classes of UCF101.

    Args:
        data: Folder with `ucf101_11`.
        out: Folder of runs and results.
    """

    def __init__(self, data: Path, out: Path) -> None:
        lists = data / "ucf101_11" / "splits"
        self.train, self.test = str(lists / "trainlist01.txt"), str(lists / "testlist01.txt")
        self.root = ["--root", str(data / "ucf101_11" / "videos")]
        self.cache = ["--cache", str(out / "frames")]
        self.out = out

    def soft(self, share: int, seed: int) -> Path:
        """Fit the teacher's classifier, and write soft labels. The student's single epoch is not used."""
        run = self.out / f"transfer-{share}-{seed}"
        if not (run / "last.safetensors").exists():
            few = ["--labels", self.train, "--label-fraction", str(share / 100), "--labels.seed", str(seed)]
            quick = ["--epochs", "1", "--batch-size", "64", "--data.val-fraction", "0", "--workers", "1"]
            recipe = ["--recipe", "transfer-few-labels", "--videos", self.train, "--overwrite"]
            call("transfer", *recipe, *self.root, *few, *quick, *self.cache, "--out", str(run))
        return run

    def teacher(self, share: int, seed: int) -> Figures:
        """Test the teacher of a transfer with its classifier."""
        model = self.soft(share, seed) / "teacher.safetensors"
        return read(call("test", str(model), self.test, *self.root, "--workers", "1", "--json"))

    def probe(self, share: int, seed: int, *options: str) -> Figures:
        """Test a linear classifier on frozen features."""
        few = ["--label-fraction", str(share / 100), "--label-seed", str(seed), "--workers", "1", "--json"]
        return read(call("probe", self.train, self.test, *self.root, *few, *options))

    def with_soft(self, share: int, seed: int, *options: str) -> Figures:
        """Test a linear classifier that was fitted on labels and on the teacher's soft labels."""
        soft = str(self.soft(share, seed) / "soft.csv")
        return self.probe(share, seed, *options, "--soft", soft)

    def jobs(self) -> dict[str, Callable[[], Figures]]:
        """Return all jobs by name."""
        jobs: dict[str, Callable[[], Figures]] = {}
        for share, seed in DRAWS:
            jobs[f"teacher/lite0-224/{share}/{seed}"] = partial(self.teacher, share, seed)
            for name, net in NETS.items():
                jobs[f"labels/{name}/{share}/{seed}"] = partial(self.probe, share, seed, *net)
                if share < 100:
                    jobs[f"soft/{name}/{share}/{seed}"] = partial(self.with_soft, share, seed, *net)
        return jobs


def call(*words: str) -> str:
    """Run a command of t3d, and return what it printed."""
    print("t3d", shlex.join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "t3d", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def read(printed: str) -> Figures:
    """Read the JSON that a command printed last."""
    figures: Figures = json.loads(printed.strip().splitlines()[-1])
    return figures


def table(out: Path) -> str:
    """Return the results as Markdown: mean and standard deviation over the draws of labels, in percent."""
    results: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((out / "results").rglob("*.json")):
        kind, net, share, _ = path.relative_to(out / "results").with_suffix("").parts
        results[f"{net}, {kind}"][int(share)].append(100 * json.loads(path.read_text())["video_top1"])
    lines = ["| network, trained on | 5 % | 20 % | 100 % |", "|---|---|---|---|"]
    for name, by_share in sorted(results.items()):
        cells = [_cell(by_share[share]) for share in (5, 20, 100)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "–"
    each = ", ".join(f"{value:.1f}" for value in values)
    if len(values) == 1:
        return each
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({each})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="*", help="pattern of the names of jobs")
    parser.add_argument("--table", action="store_true", help="print the results so far")
    options = parser.parse_args()
    study = Study(options.data, options.out)
    (options.out / "locks").mkdir(parents=True, exist_ok=True)
    for name, job in study.jobs().items():
        path = options.out / "results" / f"{name}.json"
        if options.table or path.exists() or not fnmatch.fnmatch(name, options.only):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(study.out / "locks" / name.replace("/", "-")):
            result = json.dumps(job())
            with atomic_path(path) as temporary:
                temporary.write_text(result)
    print(table(options.out))


if __name__ == "__main__":
    main()
