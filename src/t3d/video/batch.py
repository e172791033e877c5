"""Metadata of a video, and a batch of its frames.

Legend: T frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from t3d.video.orientation import Orientation

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VideoMetadata:
    """Metadata of an open video. Numbers come from reading and decoding it, never from its header.

    Args:
        num_frames: Number of frames, T.
        duration: Seconds from the first frame's appearance to the last frame's end.
        average_fps: Frames per second, `num_frames / duration`.
        height: Height in pixels, as displayed.
        width: Width in pixels, as displayed.
        codec: FFmpeg's name of the codec, such as `h264`.
        orientation: How stored frames are rotated for display. Frames are returned rotated.
        damage: What is wrong with a file that can be read only in part, as far as known. None if no damage
            is known.
        pixel_aspect: Width of a displayed pixel divided by its height, 1 for square pixels. Frames are
            returned as they are stored, not stretched.
    """

    num_frames: int
    duration: float
    average_fps: float
    height: int
    width: int
    codec: str
    orientation: Orientation
    damage: str | None
    pixel_aspect: Fraction = Fraction(1)


@dataclass(frozen=True, eq=False)
class FrameBatch:
    """Frames of a video with their times.

    Args:
        data: RGB, uint8 T C H W.
        times: Seconds at which each frame appears, counted from the video's first frame, float64 [T].
        durations: Seconds for which each frame is shown, float64 [T].

    Raises:
        ValueError: The shapes or types do not match.

    Example:
        >>> import torch
        >>> data = torch.zeros((2, 3, 48, 64), dtype=torch.uint8)
        >>> FrameBatch(data, times=np.array([0.0, 0.04]), durations=np.array([0.04, 0.04]))
        FrameBatch(data: uint8 [2, 3, 48, 64], times: float64 [2], durations: float64 [2], 0.000 … 0.080 s)
    """

    data: torch.Tensor
    times: npt.NDArray[np.float64]
    durations: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if str(self.data.dtype) != "torch.uint8" or self.data.ndim != 4 or self.data.shape[1] != 3:
            raise ValueError(f"data must be uint8 T C H W with C = 3 (RGB), got {_shape(self.data)}")
        for name, seconds in (("times", self.times), ("durations", self.durations)):
            if seconds.dtype != np.float64 or seconds.shape != (len(self.data),):
                raise ValueError(
                    f"{name} must be float64 [{len(self.data)}], one number per frame, got {_shape(seconds)}"
                )

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, float, float]]:
        """Yield each frame, uint8 C H W, with its time and duration."""
        yield from zip(self.data, self.times.tolist(), self.durations.tolist(), strict=True)

    def __repr__(self) -> str:
        names = ("data", "times", "durations")
        shapes = ", ".join(f"{name}: {_shape(getattr(self, name))}" for name in names)
        if not len(self):
            return f"FrameBatch({shapes})"
        return f"FrameBatch({shapes}, {self.times[0]:.3f} … {self.times[-1] + self.durations[-1]:.3f} s)"


def _shape(array: torch.Tensor | npt.NDArray[np.float64]) -> str:
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"
