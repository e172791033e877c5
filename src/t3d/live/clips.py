"""Choice of the frames of clips, while the frames of a live source arrive.

Any `num_frames` chosen frames in a row are a clip. `t3d predict` takes the same frames from a recording of
the source, for a time span that begins with the first of them. Every `stride`-th frame is chosen. With
`clip.fps`, the frame that is shown at each of the times t, t + 1 / fps, t + 2 / fps, … is chosen.
"""

from __future__ import annotations

from typing import NamedTuple

from t3d.clip import ClipSpec

# As in `t3d.data.clips.timeline`: times of files are rounded to 1/90000 s, or to milliseconds.
_TICK = 5e-6
_MILLISECOND = 5e-4
JUMP = 10.0
"""Seconds between two frames above which no clip contains both."""


class Chosen(NamedTuple):
    """Frames that clips contain, decided when another frame arrives.

    Args:
        before: Times for which the frame before the new one is chosen, in seconds. Several if the source has
            fewer frames per second than a clip.
        now: Time for which the new frame is chosen; None if it is not, or not yet.
        restarted: Whether the times jumped, so that no clip contains frames of both sides.
    """

    before: tuple[float, ...] = ()
    now: float | None = None
    restarted: bool = False


class FrameChooser:
    """Chooses frames by the times at which they appear.

    Args:
        spec: What a clip is.

    Example:
        >>> chooser = FrameChooser(ClipSpec(stride=2))
        >>> [chooser.offer(time).now for time in (0.0, 0.1, 0.2)]
        [0.0, None, 0.2]
        >>> chooser = FrameChooser(ClipSpec(fps=4))
        >>> [chooser.offer(time).before for time in (0.0, 0.1, 0.6)]
        [(), (0.0,), (0.25, 0.5)]
    """

    def __init__(self, spec: ClipSpec) -> None:
        self._spec = spec
        self._last: float | None
        self.restart()

    def restart(self) -> None:
        """Forget all frames, and start again with the next one."""
        self._last = None
        self._begin: float | None = None
        self._count = 0  # of frames, or of chosen times
        self._whole_milliseconds = True

    def offer(self, time: float) -> Chosen:
        """Return which frames are chosen now that a frame has arrived.

        Args:
            time: Time at which it appears, in seconds.
        """
        jumped = self._last is not None and not 0 <= time - self._last <= JUMP
        if jumped:
            self.restart()
        self._last = time
        if self._begin is None:
            self._begin = time
        if self._spec.fps is None:
            self._count += 1
            return Chosen((), time if (self._count - 1) % self._spec.step == 0 else None, jumped)
        self._whole_milliseconds &= abs(time - round(time * 1e3) / 1e3) < 1e-9
        tolerance = _MILLISECOND if self._whole_milliseconds else _TICK
        before = []
        while (wanted := self._begin + self._count / self._spec.fps) + tolerance < time:
            before.append(wanted)
            self._count += 1
        return Chosen(tuple(before), None, jumped)
