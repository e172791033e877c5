"""Arrival of frames: whether reading is too slow, and when frames of files and segments are due.

A source that sends frames as they happen (RTSP, a camera) must be read at its own speed. Otherwise frames
wait in buffers of the system, and results are late. `Lag` measures that. Files and segments of HLS arrive
faster than they happen. `Pace` releases their frames when a player would show them.
"""

from __future__ import annotations

_LEAK = 1e-3  # seconds per second by which the clocks of source and reader may differ
_LATE = 0.25  # seconds


class Lag:
    """Measures how long frames have waited before they are read.

    Args:
        most: Seconds from which reading is too late.

    Example:
        >>> lag = Lag(most=1.0)
        >>> [round(lag.measure(time, now), 2) for time, now in ((0.0, 5.0), (0.1, 5.1), (0.2, 6.7))]
        [0.0, 0.0, 1.5]
        >>> lag.skips(0.3, 6.7, key=False), lag.skips(2.0, 6.8, key=True)
        (True, False)
    """

    def __init__(self, most: float = 1.0) -> None:
        self._most = most
        self.restart()

    def restart(self) -> None:
        """Start again, since the times of the source jumped."""
        self._delay: float | None = None  # of the frame that was read soonest
        self._measured = 0.0
        self._skipping = False

    def measure(self, time: float, now: float) -> float:
        """Return the seconds for which a frame has waited, compared with the one that waited least.

        Args:
            time: Time at which it appears.
            now: Time at which it is read, by the clock of this machine.
        """
        delay = now - time
        if self._delay is None:
            self._delay = delay
        else:
            self._delay = min(self._delay + _LEAK * max(now - self._measured, 0.0), delay)
        self._measured = now
        return delay - self._delay

    def skips(self, time: float, now: float, *, key: bool) -> bool:
        """Return whether a packet is not decoded, in order to catch up with the source.

        Args:
            time: See `measure`.
            now: See `measure`.
            key: Whether decoding can start at it. Skipping only ends at such a packet.
        """
        lag = self.measure(time, now)
        if self._skipping:
            self._skipping = not (key and lag < self._most / 2)
        else:
            self._skipping = lag > self._most
        return self._skipping


class Pace:
    """Says how long to wait before a frame, so that frames are released at the speed of the source.

    Example:
        >>> pace = Pace()
        >>> pace.wait(0.0, 5.0), pace.wait(0.5, 5.25)
        (0.0, 0.25)
        >>> pace.wait(1.0, 7.0), pace.wait(1.5, 7.0)  # it came late, so all later ones are shown later
        (0.0, 0.5)
    """

    def __init__(self) -> None:
        self._start: float | None = None

    def restart(self) -> None:
        """Start again, since the times of the source jumped."""
        self._start = None

    def wait(self, time: float, now: float) -> float:
        """Return the seconds until a frame is due.

        Args:
            time: Time at which it appears.
            now: Time by the clock of this machine.
        """
        if self._start is None or now - time > self._start + _LATE:
            self._start = now - time
        return max(self._start + time - now, 0.0)
