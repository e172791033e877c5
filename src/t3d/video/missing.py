"""Frames that cannot be decoded, and the ones that stand in for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from t3d.errors import VideoError
from t3d.video.frame_table import FrameTable, Int64s

MAX_MISSING = 0.1
"""Largest share of frames that cannot be decoded in a video whose other frames stand in for them."""


def nearest_decodable(path: Path, numbers: Int64s, table: FrameTable, *, damage: str | None) -> Int64s:
    """Replace frames that cannot be decoded by the nearest ones that can, the earlier one of two.

    Args:
        path: The file, for the message.
        numbers: Frame numbers, int64 [T].
        table: Table of the file.
        damage: What is wrong with the file, for the message.

    Raises:
        VideoError: A frame, and more than `MAX_MISSING` of the video, cannot be decoded.
    """
    order = table.order
    if order is None or not (order[numbers] < 0).any():
        return numbers
    sound = np.flatnonzero(order >= 0)
    lost = len(order) - len(sound)
    if lost > MAX_MISSING * len(order):
        reason = (
            f"{lost} of {len(order)} frames cannot be decoded, more than {100 * MAX_MISSING:g} %: {damage}"
        )
        raise VideoError(path, reason)
    after = np.minimum(np.searchsorted(sound, numbers), len(sound) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(sound[before] - numbers) <= np.abs(sound[after] - numbers)
    return np.where(closer, sound[before], sound[after])
