"""When the frames of a video are shown.

A frame is shown from its own time until just before the time of the next one.

Legend: T is the number of frames of a clip, N the number of frames of a video.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

# Half of the finest tick in use, 1/90000 s, as in `t3d.video.video`: the time 3 / 29.97 must find frame 3.
_TICK = 5e-6
# Matroska, WebM and FLV round times to milliseconds: 2 / 30 s must find the frame at 0.067 s.
_MILLISECOND = 5e-4


@dataclass(frozen=True, eq=False)
class Timeline:
    """When the frames of a video, or of a part of it, are shown.

    Args:
        times: Seconds at which each frame appears, float64 [N], ascending.
        begin: Start of the part, in seconds. The first frame is shown then.
        end: End of the part, in seconds. The last frame is shown until then.

    Example:
        >>> line = Timeline(np.array([0.0, 0.5, 0.6]), begin=0.0, end=1.0)
        >>> line.frames_at(np.array([0.0, 0.49, 0.5, 0.7])).tolist()
        [0, 0, 1, 2]
    """

    times: Seconds
    begin: float
    end: float

    def __len__(self) -> int:
        """Return the number of frames, N."""
        return len(self.times)

    @property
    def seconds(self) -> float:
        """Length of the part."""
        return self.end - self.begin

    @cached_property
    def tolerance(self) -> float:
        """Seconds by which a time may miss the frame that appears then: the rounding of the file's times."""
        off = np.abs(self.times - np.rint(self.times * 1e3) / 1e3)
        return _MILLISECOND if off.max() < 1e-9 else _TICK

    def frames_at(self, seconds: Seconds) -> npt.NDArray[np.int64]:
        """Return the number of the frame that is shown at each time.

        Args:
            seconds: Times from `begin`, float64 [T].

        Returns:
            Numbers from 0 to N - 1, int64 [T].
        """
        wanted = self.begin + seconds + self.tolerance
        numbers = np.searchsorted(self.times, wanted, side="right") - 1
        return np.clip(numbers, 0, len(self.times) - 1).astype(np.int64)

    def between(self, first: int, last: int, *, count: int) -> npt.NDArray[np.int64]:
        """Return the frames in the middles of equal parts of the time from one frame to another.

        Args:
            first: First frame.
            last: Last frame; the time ends with it.
            count: Number of parts, X.

        Returns:
            Ascending frame numbers, int64 [X].
        """
        low, high = max(float(self.times[first]), self.begin), self.end_of(last)
        return self.frames_at(low + (np.arange(count) + 0.5) * (high - low) / count - self.begin)

    def end_of(self, frame: int) -> float:
        """Return the second at which a frame disappears."""
        return float(self.times[frame + 1]) if frame + 1 < len(self.times) else self.end
