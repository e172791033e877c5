"""RGB pixels of decoded frames: one conversion for files and for live sources.

Legend: H height, W width, C channels (RGB).
"""

from __future__ import annotations

import os
from fractions import Fraction

import av
import av.video
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from t3d.errors import VideoError
from t3d.video.orientation import Image
from t3d.video.tonemap import to_sdr

# Values of AVColorSpace that swscale can read. Others (YCgCo, ICtCp, …) are read as BT.601.
_KNOWN_COLORSPACES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})

# Without these flags swscale drops every other color sample, which costs 1 to 3 dB.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


class RGBConverter:
    """Converts the frames of one source to RGB.

    Args:
        path: The source, for messages.
        tonemap: Whether frames with a high dynamic range (HDR) are converted to a standard one.
    """

    def __init__(self, path: str | os.PathLike[str], *, tonemap: bool = False) -> None:
        self._path = path
        self._reformatter = VideoReformatter()
        self._tonemap = tonemap

    def __call__(self, frame: av.VideoFrame, *, shape: tuple[int, int] | None = None) -> Image:
        """Convert a frame to RGB as stored (not rotated), uint8 H W C, by its own color space and range.

        Args:
            frame: The frame as decoded.
            shape: Height and width to scale it to, by swscale's bicubic filter.

        Raises:
            VideoError: FFmpeg cannot convert it.
        """
        height, width = shape or (None, None)
        try:
            if self._tonemap:
                frame = to_sdr(frame)
            known = frame.colorspace in _KNOWN_COLORSPACES
            space = None if known else Colorspace.ITU601
            converted = self._reformatter.reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                src_colorspace=space,
                dst_colorspace=space,
                interpolation=None if shape is None else _SCALING,
                threads=1,
            )
        except (av.FFmpegError, ValueError, MemoryError) as error:
            reason = (
                f"cannot turn {frame.format.name} of {frame.width} × {frame.height} into RGB: "
                f"{ffmpeg_text(error)}"
            )
            raise VideoError(self._path, reason) from error
        # The memory of the new frame, whose rows may have a margin: `to_ndarray` would copy it.
        plane = converted.planes[0]
        size, strides = (converted.height, converted.width, 3), (plane.line_size, 3, 1)
        return np.ndarray(size, np.uint8, buffer=memoryview(plane), strides=strides)


def stored_pixel_aspect(video: av.video.VideoStream) -> Fraction:
    """Return the width of a stored pixel divided by its height.

    It is the container's value, else the codec's, else 1.
    Absurd values, such as damaged headers have, are read as 1.
    """
    ratio = video.sample_aspect_ratio
    if not ratio or ratio == 1:
        return Fraction(1)
    return ratio if Fraction(1, 10) <= ratio <= 10 else Fraction(1)


def ffmpeg_text(error: Exception) -> str:
    """Return FFmpeg's own words for an error, without the name of the file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
