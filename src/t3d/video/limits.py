"""Limits of reading one file, so that no file can fill the memory or stop a run."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from types import TracebackType

from t3d.errors import VideoError, at_least

DEFAULT_MEGAPIXELS = 40.0
"""Default of `max_megapixels`. A frame of 8K video has 33 megapixels."""


@dataclass(frozen=True)
class ReadLimits:
    """Limits of reading one video file. A file that exceeds one of them is reported as unreadable.

    Args:
        timeout: Time limit per file, in seconds of reading. It is checked after every packet, so that common
            files are not slowed down.
        max_megapixels: Largest frame that is decoded, in megapixels. 8K video has 33.
        max_clip_gb: Largest size of the resized frames of one clip in memory, in GB.

    Raises:
        ConfigError: A value that cannot work.
    """

    timeout: float = 3600.0
    max_megapixels: float = DEFAULT_MEGAPIXELS
    max_clip_gb: float = 2.0

    def __post_init__(self) -> None:
        at_least("timeout", self.timeout, 1e-3)
        at_least("max_megapixels", self.max_megapixels, 1e-3)
        at_least("max_clip_gb", self.max_clip_gb, 1e-6)

    def check_clip(self, path: str | os.PathLike[str], *, frames: int, height: int, width: int) -> None:
        """Refuse a clip whose resized frames take too much memory.

        Args:
            path: The video, for the message.
            frames: Number of frames of the clip.
            height: Their height after resizing, in pixels.
            width: Their width after resizing, in pixels.

        Raises:
            VideoError: The clip exceeds `max_clip_gb`.
        """
        gigabytes = 3 * frames * height * width / 1e9
        if gigabytes > self.max_clip_gb:
            raise VideoError(
                path,
                f"{frames} frames resized to {width} × {height} take {gigabytes:.2f} GB, more than "
                f"`max_clip_gb` = {self.max_clip_gb:g} allows; raise `max_clip_gb`, or set "
                "`clip.resize_mode` to square",
            )


NO_LIMITS = ReadLimits(timeout=math.inf, max_megapixels=math.inf, max_clip_gb=math.inf)
DEFAULT_LIMITS = ReadLimits()


def check_frame_size(path: str | os.PathLike[str], height: int, width: int, *, max_megapixels: float) -> None:
    """Refuse a video whose frames are too large to decode.

    Args:
        path: The video, for the message.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        max_megapixels: Largest frame in megapixels.

    Raises:
        VideoError: A frame is larger.

    Example:
        >>> check_frame_size("a.mp4", 4320, 7680, max_megapixels=40)
    """
    megapixels = height * width / 1e6
    if megapixels > max_megapixels:
        raise VideoError(
            path,
            f"frames are {width} × {height}, {megapixels:.3g} megapixels, more than `max_megapixels` = "
            f"{max_megapixels:g} allows; raise `max_megapixels`, or make the video smaller with "
            "`ffmpeg -i IN -vf scale=-2:1080 OUT.mp4`",
        )


class TimeLimit:
    """Measures the time spent reading one file. It runs in a `with` block, and stands still between blocks.

    Args:
        path: The file, for the message.
        seconds: Time limit in seconds.

    Example:
        >>> limit = TimeLimit("a.mp4", 60)
        >>> with limit:
        ...     limit.check()
    """

    def __init__(self, path: str | os.PathLike[str], seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._left = seconds
        self._end = math.inf

    def __enter__(self) -> None:
        self._end = time.monotonic() + self._left

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = self._end - time.monotonic()
        self._end = math.inf

    def check(self) -> None:
        """Raise an error if the time is over.

        Raises:
            VideoError: The time is over.
        """
        if time.monotonic() > self._end:
            raise VideoError(
                self._path,
                f"timeout: not read within {self._seconds:g} s; raise `timeout`, or make the file faster to "
                "read with `t3d prepare transcode`",
            )
