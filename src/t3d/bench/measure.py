"""Measure the rows of a benchmark: batch sizes first, then all rows in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from t3d.bench.batch import BatchSearch, search_batch
from t3d.bench.candidates import Candidate, Scorer
from t3d.bench.memory import free_bytes, peak_of
from t3d.bench.result import load_average
from t3d.errors import first_line
from t3d.progress import progress
from t3d.timing import Call, Rounds, Timing, alternate, timed, waiting


@dataclass
class Measured:
    """Measurements of rows, by name.

    Attributes:
        batches: Clips per call.
        times: Seconds per call.
        failures: Reason of each row that failed.
        searches: Searches of the batch size.
        fastest: Least seconds per clip, and its batch size, of each search by network and precision.
        memory: Bytes at the peak of a call with the weights, on a GPU.
        load: Load average of the machine before the measurement.
    """

    batches: dict[str, int] = field(default_factory=dict)
    times: dict[str, Timing] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    searches: dict[str, BatchSearch] = field(default_factory=dict)
    fastest: dict[tuple[str, str], list[tuple[float, int]]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    load: float = field(default_factory=load_average)


def measure_rows(
    candidates: Sequence[Candidate], *, batch: int | None, seconds: float, device: torch.device
) -> Measured:
    """Time rows that take turns.

    Args:
        candidates: The rows.
        batch: Clips per call; None searches for the fastest size of each row.
        seconds: Time of the alternating runs.
        device: Device that computes.
    """
    measured, calls = Measured(), {}
    with progress("Preparing", len(candidates)) as bar:
        for candidate in candidates:
            try:
                scorer = candidate.open()
                size = candidate.fixed_batch or batch or _found(candidate, scorer, measured, device)
                calls[candidate.name] = bound(scorer, candidate.clips(size, device))
                measured.batches[candidate.name] = size
            except Exception as error:  # of a converter, a compiler or memory: the other rows are measured
                measured.batches[candidate.name] = candidate.fixed_batch or batch or 1
                measured.failures[candidate.name] = first_line(error)
            bar.advance()
    with progress("Timing", 1) as bar:
        result = alternate(calls, Rounds.of_benchmark(seconds), wait=waiting(device))
        bar.advance()
    measured.times.update(result.times)
    measured.failures.update(result.failures)
    if device.type == "cuda":
        for candidate in candidates:
            if candidate.name in result.times:
                weights = 0 if candidate.work is None else 4 * candidate.work.weights
                measured.memory[candidate.name] = weights + peak_of(calls[candidate.name], device)
    return measured


def bound(scorer: Scorer, clips: torch.Tensor) -> Call:
    """Return the call that scores these clips."""
    return lambda: scorer(clips)


def _found(candidate: Candidate, scorer: Scorer, measured: Measured, device: torch.device) -> int:
    """Return the fastest batch size of a row.

    Raises:
        MemoryError: Not even one clip fits.
    """
    kind = candidate.network, candidate.precision
    if candidate.follows:
        return min(measured.fastest.get(kind, [(0.0, 1)]))[1]
    search = find_batch(lambda size: bound(scorer, candidate.clips(size, device)), device)
    measured.searches[candidate.name] = search
    if not search.best:
        raise MemoryError(search.reason)
    seconds = min(point.seconds for point in search.points if point.seconds is not None)
    measured.fastest.setdefault(kind, []).append((seconds, search.best))
    return search.best


def find_batch(call_of: Callable[[int], Call], device: torch.device) -> BatchSearch:
    """Search for the batch size with the most clips per second.

    Args:
        call_of: Function from a batch size to the call.
        device: Device that computes.
    """
    wait = waiting(device)

    def run(size: int) -> tuple[float, int | None]:
        kept: list[Call] = []

        def first() -> None:
            kept.append(call_of(size))
            kept[0]()

        memory = peak_of(first, device)
        return min(timed(kept[0], wait) for _ in range(2)) / size, memory

    if device.type == "cuda":
        return search_batch(run, None, recover=torch.cuda.empty_cache)
    return search_batch(run, free_bytes)
