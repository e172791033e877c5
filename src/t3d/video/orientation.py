"""Rotation and mirroring of stored frames for display.

Legend: C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import av

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Orientation:
    """Orientation of stored frames: for display they are mirrored (optionally), then rotated.

    Args:
        rotation: Degrees clockwise: 0, 90, 180 or 270.
        mirrored: Whether left and right are exchanged before the rotation.

    Raises:
        ValueError: Any other rotation.

    Example:
        >>> phone = Orientation(rotation=90)
        >>> phone.size((720, 1280))
        (1280, 720)
    """

    rotation: int = 0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if self.rotation not in (0, 90, 180, 270):
            raise ValueError(f"rotation is {self.rotation}; it must be 0, 90, 180 or 270")

    @classmethod
    def of_frame(cls, frame: av.VideoFrame) -> Orientation:
        """Read the display matrix of a decoded frame; a frame without one is upright."""
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV fails on kinds of side data that it does not know, such as EXIF
            return cls()
        if matrix is None:
            return cls()
        a, b, _, c, d = np.frombuffer(cast(bytes, matrix), dtype=np.int32)[:5].tolist()
        return cls.of_matrix(a, b, c, d)

    @classmethod
    def of_matrix(cls, a: int, b: int, c: int, d: int) -> Orientation:
        """Round a display matrix to the nearest quarter turn.

        Args:
            a: With `b`, `c` and `d`, the matrix that shows a stored point (x, y) at (a x + c y, b x + d y).
            b: See `a`.
            c: See `a`.
            d: See `a`.

        Example:
            >>> Orientation.of_matrix(0, 1, -1, 0)
            Orientation(rotation=90, mirrored=False)
        """
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(90 if c < 0 else 270, mirrored=(b < 0) == (c < 0))
        return cls(180 if d < 0 else 0, mirrored=(a < 0) != (d < 0))

    def apply(self, image: Image) -> Image:
        """Return a stored image H W C as displayed, as a view of its memory."""
        if self.mirrored:
            image = image[:, ::-1]
        return np.rot90(image, -self.rotation // 90) if self.rotation else image

    def pixel_aspect(self, stored: Fraction) -> Fraction:
        """Convert a stored pixel's width divided by its height to that of a displayed pixel, or back."""
        return 1 / stored if self.rotation in (90, 270) else stored

    def size(self, stored: tuple[int, int]) -> tuple[int, int]:
        """Convert (height, width) of a stored frame to the displayed frame's, or back."""
        height, width = stored
        return (width, height) if self.rotation in (90, 270) else (height, width)
