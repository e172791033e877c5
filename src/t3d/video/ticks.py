"""Times of frames as a new file stores them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from t3d.errors import VideoError
from t3d.video.frame_table import FrameTable, Int64s

# The finest clock that is kept as it is: an MP4 file's has 32 bits, and counts a frame's length in as many.
_FINEST = 1_000_000


class Ticks(NamedTuple):
    """Times of the frames of a file.

    Args:
        clock: Seconds in a tick.
        times: Tick at which each frame is shown, counted from the first, int64 [T].
        durations: Ticks for which each frame is shown, T.
    """

    clock: Fraction
    times: Int64s
    durations: list[int]

    def rate(self) -> Fraction:
        """Return the frames per second for the header of a file."""
        seconds = sum(self.durations) * self.clock
        rate = min(max(Fraction(len(self.durations)) / seconds, Fraction(1, 1000)), Fraction(1000))
        return rate.limit_denominator(100_000)


def ticks_of(table: FrameTable, source: Path) -> Ticks:
    """Return the times of frames, exact unless the clock is finer than a microsecond.

    Args:
        table: The frames.
        source: The file, for messages.

    Raises:
        VideoError: Two frames are less than a microsecond apart.
    """
    clock, ticks, last = table.time_base, table.pts - table.pts[0], table.last
    if clock.denominator > _FINEST:
        finer = float(clock * _FINEST)
        clock = Fraction(1, _FINEST)
        ticks, last = np.rint(ticks * finer).astype(np.int64), max(round(last * finer), 1)
        stuck = np.flatnonzero(np.diff(ticks) < 1)
        if stuck.size:
            raise VideoError(
                source, f"frames {stuck[0]} and {stuck[0] + 1} are less than 1/{_FINEST} s apart"
            )
    return Ticks(clock, ticks, [*np.diff(ticks).tolist(), last])
