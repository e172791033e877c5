"""Every comparison of speed on a GPU, on a machine that has torch, numpy and safetensors only.

    python benchmarks/bench_gpu.py run OUT --minutes 9      # until it prints "finished"
    python benchmarks/bench_gpu.py table OUT

`run` needs the folders `src` and `benchmarks`. It measures one job after the other: scoring and training of a
network with clips of one size. A job is one line of OUT/results.jsonl. No job begins that would not end in
time, and the same command continues. Each row of a job searches for its fastest batch size, and survives
running out of memory. Then all rows of the job take turns.

The reference of scoring is the textbook network in eager float32 with one clip, and that of training the
network in eager float32. torch computes float32 convolutions with TF32 by default.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))  # where T3D is not installed

from t3d.bench.candidates import CHANNELS_LAST, COMPILED, EAGER, Candidate, torch_candidate
from t3d.bench.finish import finished
from t3d.bench.measure import measure_rows
from t3d.bench.opening import Subject, open_subject
from t3d.bench.result import BenchResult, Row
from t3d.bench.textbook import has_textbook, textbook
from t3d.bench.train import train_candidates
from t3d.bench.work import work_of
from t3d.models.densenet3d import DenseNet3D

clock = time.monotonic


@dataclass(frozen=True)
class Job:
    """One comparison.

    Args:
        kind: `model` or `train`.
        network: Name of a model.
        frames: Frames of a clip.
        side: Side of a clip in pixels.
    """

    kind: str
    network: str
    frames: int
    side: int

    @property
    def name(self) -> str:
        """Name that no other job has."""
        return f"{self.kind} {self.network} {self.frames} × {self.side}²"


JOBS = tuple(
    Job(kind, network, frames, side)
    for network in ("t3d121", "densenet3d121")
    for frames, side in ((32, 224), (16, 112))
    for kind in ("model", "train")
)
TARGETS = {"model": 600.0, "train": 150.0}
"""Clips per second that T3D-121 should reach with 32 × 224²."""
LEAD = 1.3
"""Speed of scoring that T3D-121 should reach, relative to the compiled textbook network."""


def scoring_rows(subject: Subject, device: torch.device) -> Iterator[Candidate]:
    """Yield the rows of scoring, the reference first."""
    assert isinstance(subject.net, DenseNet3D)
    assert has_textbook(subject.net)
    plain, shape = textbook(subject.net), subject.shape
    other = (f"{subject.name}, textbook", plain, shape, work_of(plain, shape))
    own = (subject.name, subject.net, shape, work_of(subject.net, shape))
    yield torch_candidate(other, EAGER, "fp32", device, eager=True, channels_last=False, fixed_batch=1)
    for setting in (EAGER, COMPILED):
        for precision in ("bf16", "fp32") if setting == COMPILED else ("bf16",):
            yield torch_candidate(other, setting, precision, device, eager=True, channels_last=False)
    for setting, precision in ((CHANNELS_LAST, "fp32"), (CHANNELS_LAST, "bf16"), (COMPILED, "bf16")):
        yield torch_candidate(own, setting, precision, device, eager=True)


def run_job(job: Job, device: torch.device, *, batch: int | None, seconds: float) -> BenchResult:
    """Measure one job."""
    subject = open_subject(job.network, num_frames=job.frames, size=job.side)
    with tempfile.TemporaryDirectory() as folder:
        if job.kind == "model":
            rows = list(scoring_rows(subject, device))
        else:
            rows = train_candidates(subject, device, peers=True, compiled=True, folder=Path(folder))
        measured = measure_rows(rows, batch=batch, seconds=seconds, device=device)
        threads = torch.get_num_threads()
        return finished(job.kind, subject, rows, measured, device, threads, memory=False)


def read(out: Path) -> dict[str, BenchResult]:
    """Return the results by job. An incomplete last line is left out."""
    results = {}
    path = out / "results.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:  # the command was killed while it wrote
            continue
        results[values["job"]] = BenchResult.from_json(values["result"])
    return results


def run(
    out: Path, *, minutes: float, device: str, batch: int | None, seconds: float, jobs: tuple[Job, ...]
) -> bool:
    """Run the jobs that are missing.

    Returns:
        Whether all jobs have finished.
    """
    out.mkdir(parents=True, exist_ok=True)
    start, longest = clock(), 0.0
    for job in jobs:
        if job.name in read(out):
            continue
        if longest and clock() - start + 1.2 * longest > 60 * minutes:
            print("run again", flush=True)
            return False
        began = clock()
        result = run_job(job, torch.device(device), batch=batch, seconds=seconds)
        longest = max(longest, clock() - began)
        line = json.dumps({"job": job.name, "result": result.to_json()}, ensure_ascii=False)
        with (out / "results.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # an incomplete line before it stays apart
        print(f"{job.name}: {clock() - began:.0f} s", flush=True)
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
        torch.compiler.reset()
    print("finished", flush=True)
    return True


def cells(row: Row) -> list[str]:
    """Return the cells of a row of a table."""
    if row.time is None:
        return [row.network, row.setting, row.precision, "", "", row.error, "", "", ""]
    return [
        row.network,
        row.setting,
        row.precision,
        str(row.batch),
        f"{1 / row.time.median:.1f}",
        f"{1 / row.time.high:.1f} … {1 / row.time.low:.1f}",
        "" if row.speedup is None else f"{row.speedup:.1f}",
        "" if row.peak_share is None else f"{row.peak_share:.0%}",
        "" if row.memory is None else f"{row.memory / 1e9:.2f}",
    ]


def verdicts(job: Job, result: BenchResult) -> Iterator[str]:
    """Yield whether a job reaches its targets."""
    if (job.network, job.frames, job.side) != ("t3d121", 32, 224):
        return
    own = [1 / row.time.median for row in result.rows if row.time and row.network == job.network]
    plain = [
        1 / row.time.median
        for row in result.rows
        if row.time and row.network != job.network and row.setting == COMPILED
    ]
    best = max(own, default=0.0)
    target = TARGETS[job.kind]
    reached = "reached" if best >= target else "missed"
    yield f"{best:.0f} clips/s; target {target:.0f}: {reached}"
    if plain and job.kind == "model":
        lead = best / max(plain)
        reached = "reached" if lead >= LEAD else "missed"
        yield f"{lead:.2f} times the compiled textbook network; target {LEAD}: {reached}"


def table(out: Path) -> str:
    """Return all results as Markdown."""
    names = (
        "network",
        "computed by",
        "numbers",
        "batch",
        "clips/s",
        "quartiles",
        "times faster",
        "of peak",
        "GB",
    )
    lines = []
    jobs = {job.name: job for job in JOBS}
    for name, result in read(out).items():
        peaks = ", ".join(f"{rate / 1e12:.0f} TFLOP/s in {key}" for key, rate in result.peaks.flops.items())
        lines += [f"## {name}", "", f"{result.machine.device}; measured peaks: {peaks}.", ""]
        lines += [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
        lines += [f"| {' | '.join(cells(row))} |" for row in result.rows]
        targets = list(verdicts(jobs[name], result)) if name in jobs else []
        lines += ["", *(f"- {target}" for target in targets), ""]
    return "\n".join(lines)


def main() -> None:
    """Measure, or print the tables."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("task", choices=("run", "table"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch-size", type=int, help="clips per call, instead of searching for the fastest")
    parser.add_argument("--seconds", type=float, default=15.0, help="time of the alternating runs of a job")
    parser.add_argument("--tiny", action="store_true", help="one small job of each kind, to try the script")
    chosen = parser.parse_args()
    if chosen.task == "table":
        print(table(chosen.out))
        return
    small = (Job("model", "t3d_tiny", 4, 32), Job("train", "t3d_tiny", 4, 32))
    run(
        chosen.out,
        minutes=chosen.minutes,
        device=chosen.device,
        batch=chosen.batch_size,
        seconds=chosen.seconds,
        jobs=small if chosen.tiny else JOBS,
    )


if __name__ == "__main__":
    main()
