"""Processor time until each command has imported its code, compared with `import torch` alone.

    python benchmarks/startup.py [--runs 5] [--predict RUN VIDEO]

Prints the median of several runs. All commands take turns, so that they share the load. With `--predict`
it also times a whole prediction. `python -X importtime -c "import t3d.evaluation.predictor"` shows where the
time goes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

COMMANDS = {
    "import torch": "torch",
    "predict": "t3d.evaluation.bulk",
    "test": "t3d.evaluation.run_test",
    "train": "t3d.training.run",
    "transfer": "t3d.transfer.run",
    "probe": "t3d.transfer.probe",
    "fuse": "t3d.fusion.run",
    "teacher": "t3d.transfer.teachers.train",
    "reproduce": "t3d.reproduce.run",
    "demo": "t3d.demo",
    "convert": "t3d.models.convert",
    "doctor": "t3d.doctor",
    "prepare index": "t3d.prepare.index",
    "prepare transcode": "t3d.prepare.transcode",
    "prepare shards": "t3d.prepare.shards",
    "prepare download": "t3d.prepare.download",
    "data check": "t3d.data.inspect.audit",
    "data browse": "t3d.data.inspect.browse",
}
"""The module whose function each command calls."""


def measured(*words: str) -> tuple[float, float]:
    """Run a Python program; return its processor time in seconds and its peak memory in GB."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--predict", nargs=2, metavar=("RUN", "VIDEO"))
    options = parser.parse_args()
    programs = {name: ("-c", f"import {module}") for name, module in COMMANDS.items()}
    if options.predict:
        programs["predict, one whole clip"] = ("-m", "t3d", "predict", *options.predict)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for _ in range(options.runs):
        for name, words in programs.items():
            results[name].append(measured(*words))
    torch = median(seconds for seconds, _ in results["import torch"])
    print("| command | processor time, s | after import torch, s | peak memory, GB |\n|---|---|---|---|")
    for name, pairs in results.items():
        seconds, memory = (median(column) for column in zip(*pairs, strict=True))
        print(f"| {name} | {seconds:.2f} | {seconds - torch:+.2f} | {memory:.2f} |")


if __name__ == "__main__":
    main()
