"""When the next clip is due, and how many frames were dropped because the model was too slow.

A clip always consists of the newest frames. If the model was busy when clips were due, they are left out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

_ROUNDING = 1e-6


class Place(NamedTuple):
    """Place of a chosen frame in a live source.

    Args:
        chosen: Number of the frame among the chosen ones.
        frame: Number of the frame among all.
        time: Time at which it appears, in seconds.
        epoch: Number of the stretch without a break. No clip contains frames of two.
    """

    chosen: int
    frame: int
    time: float
    epoch: int


class Schedule:
    """Decides when a clip is due.

    Args:
        frames: Frames of a clip, T.
        every: Seconds from one result to the next. None: a clip begins where the one before ended.

    Example:
        >>> schedule = Schedule(2, None)
        >>> schedule.take(Place(0, 0, 0.0, 0), Place(1, 1, 0.1, 0))
        0
        >>> schedule.is_due(Place(2, 2, 0.2, 0)), schedule.is_due(Place(3, 3, 0.3, 0))
        (False, True)
        >>> schedule.take(Place(6, 6, 0.6, 0), Place(7, 7, 0.7, 0))  # frames 2 to 5 are in no clip
        4
    """

    def __init__(self, frames: int, every: float | None) -> None:
        self._frames = frames
        self._every = every
        self._last: Place | None = None
        self._due = 0.0

    def is_due(self, newest: Place) -> bool:
        """Return whether a clip is due that ends with the newest chosen frame."""
        if self._last is None or newest.epoch != self._last.epoch:
            return True
        if self._every is None:
            return newest.chosen >= self._last.chosen + self._frames
        return newest.time >= self._due - _ROUNDING

    def take(self, first: Place, last: Place) -> int:
        """Record that a clip is classified. Return the number of frames dropped before it.

        These are the frames between this clip and the one before that clips would have contained if the model
        had kept up. Frames are left out on purpose if `every` is longer than a clip.

        Args:
            first: First frame of the clip.
            last: Last frame of the clip.
        """
        before, self._last = self._last, last
        if before is None or before.epoch != last.epoch:
            self._due = last.time + (self._every or 0.0)
            return 0
        between = first.frame - before.frame - 1
        apart = first.chosen > before.chosen + 1
        if self._every is None:
            return between if apart else 0
        missed = max(math.floor((last.time - self._due) / self._every + _ROUNDING), 0)
        late = last.time - self._due - missed * self._every
        self._due += (missed + 1) * self._every
        length = (last.time - first.time) * self._frames / max(self._frames - 1, 1)
        if not apart or self._every < length:
            return between if apart else 0
        rate = (first.frame - before.frame) / max(first.time - before.time, _ROUNDING)
        seconds = missed * length + min(
            max(late, 0.0), length
        )  # of clips that were due, and are not in this one
        return min(math.floor(rate * seconds + _ROUNDING), between)
