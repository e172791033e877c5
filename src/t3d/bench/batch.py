"""Search of the batch size with the most clips per second, which survives running out of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from t3d.device import is_out_of_memory
from t3d.errors import first_line

LARGEST_BATCH = 1024
_SAFE = 0.6  # share of the free memory that the next batch may be expected to need
_GAIN = 1.03  # a larger batch must be this much faster to be preferred
_PATIENCE = 2  # doublings without a gain after which the search ends


@dataclass(frozen=True)
class BatchPoint:
    """One batch size that was tried.

    Args:
        batch: Clips in the batch.
        seconds: Seconds per clip; None if the batch did not run.
        memory: Bytes that the batch needed in addition to the network; None if it is not known.
        error: Why the batch did not run; empty if it did.
    """

    batch: int
    seconds: float | None
    memory: int | None
    error: str = ""


@dataclass(frozen=True)
class BatchSearch:
    """Result of a search.

    Args:
        points: Batch sizes that were tried, in order.
        best: Batch size with the most clips per second; 0 if not even one clip ran.
        reason: Why the search ended.
    """

    points: tuple[BatchPoint, ...]
    best: int
    reason: str


def search_batch(
    run: Callable[[int], tuple[float, int | None]],
    free: Callable[[], int] | None,
    *,
    recover: Callable[[], object] = lambda: None,
    largest: int = LARGEST_BATCH,
) -> BatchSearch:
    """Double the batch size until memory or the gain ends.

    Args:
        run: Function from a batch size to seconds per clip, and to the bytes that the batch needed. It may
            raise any error; one that says that memory ran out ends the search, all others are raised.
        free: Function that returns the free memory. The next batch is only tried if the growth so far says
            that it fits. None for a device that survives running out of memory, such as a GPU.
        recover: Function to call after memory ran out, such as emptying a cache.
        largest: Largest batch size to try.
    """
    points: list[BatchPoint] = []
    batch, best, best_seconds, without_gain = 1, 0, float("inf"), 0
    while batch <= largest:
        expected = _expected(points, batch)
        if free is not None and expected is not None and expected > _SAFE * free():
            gigabytes = expected / 1e9
            return _result(points, best, f"a batch of {batch} would need about {gigabytes:.1f} GB")
        failure = ""
        try:
            seconds, memory = run(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = first_line(error)
        if failure:  # here nothing refers to the error any more, which keeps its tensors
            points.append(BatchPoint(batch, None, None, failure))
            recover()
            return _result(points, best, f"a batch of {batch} does not fit into memory")
        points.append(BatchPoint(batch, seconds, memory))
        if seconds * _GAIN < best_seconds:
            best, best_seconds, without_gain = batch, seconds, 0
        else:
            without_gain += 1
            if without_gain == _PATIENCE:
                return _result(points, best, "larger batches are not faster")
        batch *= 2
    return _result(points, best, f"{largest} is the largest batch tried")


def _result(points: list[BatchPoint], best: int, reason: str) -> BatchSearch:
    return BatchSearch(tuple(points), best, reason)


def _expected(points: list[BatchPoint], batch: int) -> float | None:
    """Return the bytes that a batch is expected to need, from the growth between the last two."""
    known = [(point.batch, point.memory) for point in points if point.memory is not None]
    if not known:
        return None
    last, memory = known[-1]
    if len(known) == 1:
        return memory * batch / last
    earlier, less = known[-2]
    slope = max((memory - less) / (last - earlier), memory / last / 2)
    return memory + slope * (batch - last)
