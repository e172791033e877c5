"""The whole path of `t3d predict`, from the shell: seconds for a list of videos, several settings in turn.

    python benchmarks/predict_path.py MODEL VIDEO... --exported RUN --old OTHER_CHECKOUT/src

Prints the median of the rounds. Each round runs every setting once, so other work on the machine reaches all
of them. Processor time includes that of the reading processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

Setting = tuple[str, str, int]
"""Folder of the sources, model, workers."""
_DEFAULT = 2  # workers of `t3d predict`


def seconds(setting: Setting, videos: list[str]) -> tuple[float, float]:
    """Return wall and processor seconds of one command."""
    source, model, workers = setting
    command = [sys.executable, "-m", "t3d", "predict", model, *videos, "--workers", str(workers), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": source},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="weights without an exported file next to them")
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--exported", help="the same weights with an exported file next to them")
    parser.add_argument("--old", help="sources of another version, which is compared with this one")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="settings of --old")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    sources = str(Path(__file__).resolve().parents[1] / "src")
    settings: dict[str, Setting] = {}
    if options.old:
        for workers in options.workers:
            settings[f"before, workers {workers}"] = (options.old, options.model, workers)
    settings["now, PyTorch"] = (sources, options.model, _DEFAULT)
    if options.exported:
        settings["now, export chosen by auto"] = (sources, options.exported, _DEFAULT)
    if options.exported:  # the first command measures, which is not a part of the later ones
        seconds((sources, options.exported, 0), options.videos[:1])
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    for _ in range(options.rounds):
        for name, setting in settings.items():
            results[name].append(seconds(setting, options.videos))
            print(f"{name}: {results[name][-1][0]:.1f} s", file=sys.stderr, flush=True)
    count = len(options.videos)
    print("| setting | s | videos per s | of the first | processor time, s |\n|---|---|---|---|---|")
    first = None
    for name, pairs in results.items():
        wall, processor = (median(column) for column in zip(*pairs, strict=True))
        first = first or wall
        print(f"| {name} | {wall:.1f} | {count / wall:.1f} | {first / wall:.2f} | {processor:.1f} |")


if __name__ == "__main__":
    main()
