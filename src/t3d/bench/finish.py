"""Turn measurements into the rows of a result, with memory, peaks and ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from t3d.bench.candidates import Candidate
from t3d.bench.child import peak_in_child
from t3d.bench.measure import Measured
from t3d.bench.opening import Subject
from t3d.bench.peaks import measure_peaks
from t3d.bench.result import BYTES, BenchResult, Row, completed, this_machine
from t3d.progress import progress


def finished(
    kind: str,
    subject: Subject,
    candidates: Sequence[Candidate],
    measured: Measured,
    device: torch.device,
    count: int,
    *,
    memory: bool,
) -> BenchResult:
    """Return the result of measured rows, after measuring peaks and memory.

    Args:
        kind: `model` or `train`.
        subject: The network.
        candidates: The rows.
        measured: Their measurements.
        device: Device that computes.
        count: Threads that compute.
        memory: Whether to measure memory.
    """
    precisions = tuple(dict.fromkeys(candidate.precision for candidate in candidates))
    with progress("Measuring peaks", 1) as bar:
        peaks = measure_peaks(device, precisions)
        bar.advance()
    rows = rows_of(candidates, measured)
    if memory:
        rows = _with_memory(rows, candidates, count)
    frames, side = subject.shape[1:3]
    machine = replace(this_machine(str(device), count), load=measured.load)
    done = completed(rows, peaks)
    return BenchResult(kind, subject.name, (frames, side), machine, peaks, done, measured.searches)


def rows_of(candidates: Sequence[Candidate], measured: Measured) -> list[Row]:
    """Return the rows of measured candidates, without ratios."""
    rows = []
    for candidate in candidates:
        batch = measured.batches[candidate.name]
        time = measured.times.get(candidate.name)
        work = candidate.work
        size = BYTES[candidate.precision]
        rows.append(
            Row(
                candidate.network,
                candidate.setting,
                candidate.precision,
                batch,
                None if time is None else time.scaled(1 / batch),
                None if work is None else float(work.macs),
                None if work is None else work.traffic(batch=batch, bytes_per_number=size),
                measured.memory.get(candidate.name),
                candidate.eager,
                measured.failures.get(candidate.name, ""),
            )
        )
    return rows


def _with_memory(rows: Sequence[Row], candidates: Sequence[Candidate], count: int) -> list[Row]:
    """Return the rows with the memory that a process of one model needs."""
    done = []
    with progress("Measuring memory", len(rows)) as bar:
        for row, candidate in zip(rows, candidates, strict=True):
            if candidate.job is not None and row.time is not None:
                job = {**candidate.job, "shape": [row.batch, *candidate.shape], "threads": count}
                if callable(job["path"]):
                    job["path"] = str(job["path"]())
                row = replace(row, memory=peak_in_child(job))
            done.append(row)
            bar.advance()
    return done
