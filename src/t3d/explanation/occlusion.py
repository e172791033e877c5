"""Occlusion over time: by how much the score of a class falls if a few frames are missing.

The frames of a window are replaced by the nearest frames of the clip that are left: time stands still, and
then jumps. So the network sees only real pictures. Gray or black frames would be two cuts in the clip, and a
3D network reacts to these more than to what is missing. Frames whose absence changes nothing get 0, also if
they show the class: the rest of the clip shows it, too.

Legend: B clips of a batch, S segments, T frames of a segment.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Indices = npt.NDArray[np.int64]
Window = tuple[int, int]
"""First frame of a window, and the frame after its last."""
_TOGETHER = 8  # clips that are scored together


def windows_of(frames: int) -> list[Window]:
    """Return windows of a quarter of a clip, each half a window after the one before it.

    Args:
        frames: Number of frames of the clip, T. A single frame has no window.

    Example:
        >>> windows_of(8)
        [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7), (6, 8)]
    """
    if frames < 2:
        return []
    width = max(frames // 4, 1)
    starts = list(range(0, frames - width, max(width // 2, 1)))
    return [(start, start + width) for start in [*starts, frames - width]]


def without_window(frames: int, window: Window) -> Indices:
    """Return the frame that is shown at each place if a window is missing, int64 [T].

    Example:
        >>> without_window(8, (2, 5)).tolist()
        [0, 1, 1, 1, 5, 5, 6, 7]
        >>> without_window(4, (0, 2)).tolist()
        [2, 2, 2, 3]
    """
    left = np.array([number for number in range(frames) if not window[0] <= number < window[1]])
    return left[np.abs(np.arange(frames)[:, None] - left[None]).argmin(1)]


def importance_of(
    scores: Callable[[Tensor], Tensor], frames: Tensor, *, segments: int = 1
) -> npt.NDArray[np.float64]:
    """Return the importance of each frame: the mean fall of the score over the windows that contain it.

    Args:
        scores: Score of the class for clips uint8 [B, S·T, C, H, W], float [B].
        frames: The clip, uint8 [S·T, C, H, W].
        segments: Number of parts of the clip that have a gap in time between them, S.

    Returns:
        Falls of the score, float64 [S·T]; 0 throughout for clips of a single frame.
    """
    length = len(frames) // segments
    shown = [np.arange(len(frames))]
    spans: list[Window] = []
    for first in range(0, len(frames), length):
        for window in windows_of(length):
            places = np.arange(len(frames))
            places[first : first + length] = first + without_window(length, window)
            shown.append(places)
            spans.append((first + window[0], first + window[1]))
    values: list[float] = []
    for start in range(0, len(shown), _TOGETHER):
        clips = torch.stack([frames[torch.from_numpy(each)] for each in shown[start : start + _TOGETHER]])
        values += scores(clips).double().tolist()
    falls, counts = np.zeros(len(frames)), np.zeros(len(frames))
    for (low, high), value in zip(spans, values[1:], strict=True):
        falls[low:high] += values[0] - value
        counts[low:high] += 1
    return falls / np.maximum(counts, 1)
