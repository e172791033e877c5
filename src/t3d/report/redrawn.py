"""Draw on the frames of a video, and write them as a new video.

Legend: N frames, H height, W width, C channels (RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from t3d.video.video import Images, Video
from t3d.video.writer import Encoding, VideoWriter, video_writer

_TOGETHER = 4_000_000  # pixels of the frames that are decoded together


def writer_like(video: Video, file: Path) -> AbstractContextManager[VideoWriter]:
    """Open a file for the frames of a video, with its size, rate and shape of pixels.

    Args:
        video: The video. An odd height or width gets one more row or column.
        file: The file to write, see `video_writer`.
    """
    ticks = video.ticks()
    return video_writer(
        file,
        height=video.height + video.height % 2,
        width=video.width + video.width % 2,
        time_base=ticks.clock,
        rate=ticks.rate(),
        encoding=_encoding(file),
        pixel_aspect=video.pixel_aspect,
    )


def frames_to_draw(video: Video, numbers: Sequence[int]) -> Iterator[tuple[int, Images]]:
    """Yield frames that can be changed, with even sides. A few are in memory at a time.

    Args:
        video: The video.
        numbers: Numbers of the frames, ascending.

    Yields:
        Number and image of each frame, uint8 [H, W, C].
    """
    step = max(min(_TOGETHER // (video.height * video.width), 16), 1)
    for first in range(0, len(numbers), step):
        some = numbers[first : first + step]
        yield from zip(some, _even_sides(video.images_at(some, missing="nearest")), strict=True)


def _encoding(file: Path) -> Encoding:
    """Return the compression of a drawn video, by the ending of its file."""
    if file.suffix.lower() == ".webm":
        return Encoding("libvpx-vp9", 30, 60, extra={"deadline": "realtime", "cpu-used": "8"}, threads=0)
    return Encoding(crf=20, keyframe_interval=60, extra={"preset": "veryfast"}, threads=0)


def _even_sides(images: Images) -> Images:
    """Return frames N H W C that can be changed, with even sides: the last row and column are repeated."""
    odd = images.shape[1] % 2, images.shape[2] % 2
    if any(odd):
        return np.pad(images, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    return images if images.flags.writeable else images.copy()
