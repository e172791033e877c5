"""Repair time stamps that repeat, run backward or are missing; the others keep their values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Time stamps beyond these are not those of a clock.
_LARGEST = 1 << 60
# Time stamps are taken to start again only if that keeps this many more of them than one line of time does.
_COST_OF_RESTART = 3


@dataclass(frozen=True)
class RepairedTimes:
    """Time stamps of all frames after a repair.

    Args:
        pts: Time stamps, int64 [T], strictly ascending, in ticks that are `finer` times as fine as before.
        finer: Number of new ticks in an old tick: above 1 if a gap had too few ticks for its frames.
        notes: What was repaired, in words; empty if nothing was.
    """

    pts: npt.NDArray[np.int64]
    finer: int
    notes: tuple[str, ...]


def repair(stamps: Sequence[int | None], *, step: int) -> RepairedTimes:
    """Keep as many time stamps as possible, and place the other frames evenly between their neighbors.

    The kept time stamps are the longest strictly ascending selection, the earliest one if several are equally
    long. Where time stamps start again, such as in joined recordings, the second part continues the first.

    Args:
        stamps: Time stamp of each frame in the order of display, or None; T above 0.
        step: Ticks from one frame to the next if the time stamps do not say, above 0.

    Example:
        >>> repair([0, 10, 10, 30, None, 50], step=10)
        RepairedTimes(pts=array([ 0, 10, 20, 30, 40, 50]), finer=1, notes=('2 of 6 time stamps repaired',))
        >>> repair([0, 10, 20, 30, 0, 10, 20, 30], step=10).pts.tolist()
        [0, 10, 20, 30, 40, 50, 60, 70]
    """
    known = [i for i, stamp in enumerate(stamps) if stamp is not None and abs(stamp) < _LARGEST]
    kept = _longest_ascending(known, stamps)
    count = len(stamps)
    line, restarts = _one_line_of_time(kept, stamps, step)
    places = np.array(kept, dtype=np.int64)
    steps = [(b - a, end - start) for a, b, start, end in zip(kept, kept[1:], line, line[1:], strict=False)]
    finer = max([1, *(-(-frames // ticks) for frames, ticks in steps)])
    if not kept or max(map(abs, line)) * finer >= _LARGEST:
        return RepairedTimes(np.arange(count, dtype=np.int64) * step, 1, (_repaired(count, count),))
    times = np.array(line, dtype=np.int64) * finer
    pts = _spread(places, times, count, step * finer)
    notes: tuple[str, ...] = (_repaired(count - len(kept), count),) if len(kept) < count else ()
    if restarts:
        more = f" and {len(restarts) - 1} more" if len(restarts) > 1 else ""
        notes += (f"time stamps start again at frame {restarts[0]}{more}",)
    return RepairedTimes(pts, finer, notes)


def _repaired(bad: int, count: int) -> str:
    return f"{bad} of {count} time stamps repaired"


def _longest_ascending(known: Sequence[int], stamps: Sequence[int | None]) -> list[int]:
    """Return the frames whose time stamps are kept: ascending, but for few restarts that pay off."""
    values = [stamp for i in known if (stamp := stamps[i]) is not None]
    levels = sorted(set(values))
    best = _PrefixMaximum(len(levels))
    before: list[int] = []
    lengths: list[int] = []
    top = (0, -1)  # the best selection so far that ends anywhere, and where
    for at, value in enumerate(values):
        level = bisect_left(levels, value)
        length, last = best.below(level)
        if top[0] - _COST_OF_RESTART > length:
            length, last = top[0] - _COST_OF_RESTART, top[1]
        lengths.append(length + 1)
        before.append(last)
        best.add(level, length + 1, at)
        if length + 1 > top[0]:
            top = (length + 1, at)
    chain, at = [], top[1]
    while at >= 0:
        chain.append(known[at])
        at = before[at]
    return chain[::-1]


class _PrefixMaximum:
    """Longest selection that ends below a level; of equally long ones, the one that was added first."""

    def __init__(self, levels: int) -> None:
        self._tree = [(0, -1)] * (levels + 1)  # a Fenwick tree: length, and where it ends

    def below(self, level: int) -> tuple[int, int]:
        length, last = 0, -1
        while level > 0:
            if self._tree[level][0] > length or (
                self._tree[level][0] == length and self._tree[level][1] < last
            ):
                length, last = self._tree[level]
            level &= level - 1
        return length, last

    def add(self, level: int, length: int, last: int) -> None:
        level += 1
        while level < len(self._tree):
            if length > self._tree[level][0]:
                self._tree[level] = (length, last)
            level += level & -level


def _one_line_of_time(
    kept: Sequence[int], stamps: Sequence[int | None], step: int
) -> tuple[list[int], list[int]]:
    """Return the time stamps of the kept frames with each restart continued, and the frames of restarts."""
    times: list[int] = []
    restarts: list[int] = []
    shift = 0
    for at, frame in enumerate(kept):
        stamp = stamps[frame]
        assert stamp is not None
        if at and stamp + shift <= times[-1]:
            frames = kept[at] - kept[at - 1]
            local = (times[-1] - times[-2]) // (kept[at - 1] - kept[at - 2]) if at > 1 else step
            shift = times[-1] + max(local, 1) * frames - stamp
            restarts.append(frame)
        times.append(stamp + shift)
    return times, restarts


def _spread(
    places: npt.NDArray[np.int64], times: npt.NDArray[np.int64], count: int, step: int
) -> npt.NDArray[np.int64]:
    """Place frames 0 … count - 1 evenly between those with known times, and at the same pace around them."""
    pts = np.empty(count, dtype=np.int64)
    for (first, last), (start, end) in zip(
        zip(places[:-1].tolist(), places[1:].tolist(), strict=True),
        zip(times[:-1].tolist(), times[1:].tolist(), strict=True),
        strict=True,
    ):
        inner = np.arange(last - first, dtype=np.int64)
        pts[first:last] = start + inner * (end - start) // (last - first)
    pts[places[-1]] = times[-1]

    def pace(a: int, b: int) -> int:
        return max(int(times[b] - times[a]) // int(places[b] - places[a]), 1) if len(places) > 1 else step

    head, tail = int(places[0]), int(places[-1])
    pts[:head] = times[0] + (np.arange(head, dtype=np.int64) - head) * pace(0, min(1, len(places) - 1))
    after = np.arange(1, count - tail, dtype=np.int64)
    pts[tail + 1 :] = times[-1] + after * pace(len(places) - 2, len(places) - 1)
    return pts
