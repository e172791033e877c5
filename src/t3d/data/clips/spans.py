"""Frames of a video that a row of a manifest stands for, and the times of clips."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from t3d.clip import ClipSpec
from t3d.data.clips.sampling import Extent, check_length
from t3d.data.clips.timeline import Timeline
from t3d.data.manifest.table import Entry
from t3d.errors import ConfigError, VideoError


class Timed(Protocol):
    """Times of the frames of one video."""

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds of each frame from the first one, [N]."""

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last frame's end."""


def usable_part(frames: Timed, entry: Entry, spec: ClipSpec) -> tuple[int, Extent]:
    """Return the part of a video that the clips of a manifest row are cut from.

    Returns:
        The part's first frame, and its number of frames, or their times if clips are sampled by time.

    Raises:
        VideoError: The row's time span holds no frame, or is shorter than a clip and `spec.short` is `error`.
    """
    low, high = frame_range(frames, entry)
    part: Extent = high - low
    if spec.fps is not None:
        start = 0.0 if entry.start is None else entry.start
        end = frames.duration if entry.end is None else min(entry.end, frames.duration)
        times = frames.times[low:high]
        # Times in a table are rounded, so the first frame may appear a little after `start`, and a `start`
        # after the last frame's end stands for the last frame.
        part = Timeline(times, begin=min(max(start, float(times[0])), float(times[-1])), end=end)
    try:
        check_length(part, spec)
    except ConfigError as error:
        raise VideoError(entry.path, str(error)) from error
    return low, part


def frame_range(frames: Timed, entry: Entry) -> tuple[int, int]:
    """Return the first frame of a manifest row's time span, and the frame after its last.

    Raises:
        VideoError: The span holds no frame.
    """
    times = frames.times
    # The frame shown at `start` began before it; the half-millisecond forgives times rounded in a table.
    low = 0
    if entry.start is not None:
        low = max(int(np.searchsorted(times, entry.start + 5e-4, side="right")) - 1, 0)
    high = len(times) if entry.end is None else int(np.searchsorted(times, entry.end - 5e-4, side="left"))
    if low >= high or (entry.start is not None and entry.start > times[-1] + 1):
        raise VideoError(
            entry.path,
            f"the span from {entry.start} to {entry.end} s holds no frame; the video has {len(times)} frames "
            f"from 0 to {times[-1]:.3f} s",
        )
    return low, high


def clip_times(times: npt.NDArray[np.float64], wanted: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Return when the first frame of a clip appears and when its last one ends, in seconds.

    The last frame of a video ends after the mean duration of its frames.

    Args:
        times: Time of each frame of the video, float64 [N].
        wanted: Frames of the clip, in any order.

    Example:
        >>> clip_times(np.array([0.0, 0.5, 1.0]), np.array([2, 1]))
        (0.5, 1.5)
    """
    last = int(wanted.max())
    if last + 1 < len(times):
        end = float(times[last + 1])
    else:
        end = float(times[-1] + (times[-1] - times[0]) / max(len(times) - 1, 1))
    return float(times[wanted.min()]), end
