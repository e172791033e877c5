"""Write frames to a video file that is small, exact in time, and cheap for random access.

Legend: T frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from t3d.errors import ConfigError
from t3d.video.writer import Encoding, video_writer

if TYPE_CHECKING:
    import torch

# MPEG's clock: fine enough for any frame rate, and every container supports it or a similar one.
_CLOCK = 90_000


def write_video(
    path: str | os.PathLike[str],
    frames: torch.Tensor | npt.NDArray[np.uint8],
    *,
    fps: float | Fraction = 25,
    codec: str = "libx264",
    crf: int = 18,
    keyframe_interval: int = 16,
    pixel_format: str = "yuv420p",
    frame_times: Sequence[float] | None = None,
) -> Path:
    """Encode frames into a video file. The file appears complete or not at all.

    The file extension determines the container (usually .mp4; its index is placed at the start). x264 does
    not guarantee the same bytes each time for the same frames.

    Args:
        path: Where to write; an existing file is replaced once the new one is complete.
        frames: RGB frames, uint8 T C H W, on any device.
        fps: Frames per second, exact as a `Fraction` (30000/1001). Ignored if `frame_times` is given.
        codec: One of `t3d.video.writer.CODECS`.
        crf: Constant rate factor: lower is better and larger; 0 is lossless for libx264.
        keyframe_interval: Maximum number of frames from one key frame to the next. A short interval makes
            random access cheap: 16 costs a few percent of file size.
        pixel_format: Stored pixel format. `yuv420p` plays everywhere and needs even sides; `yuv444p` takes
            any.
        frame_times: Seconds at which each frame appears, ascending, for a variable frame rate. Times in
            the file start at the first.

    Returns:
        The path that was written.

    Raises:
        ConfigError: An unsupported shape, dtype, codec, file extension or option.
        OSError: The folder is missing or cannot be written to.

    Example:
        >>> import torch
        >>> write_video("gray.mp4", torch.full((8, 3, 64, 64), 128, dtype=torch.uint8), fps=25)
        PosixPath('gray.mp4')
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder to write into is missing", str(path.parent))
    images = _check_frames(frames)  # T H W C
    ticks, time_base = _ticks(len(images), fps, frame_times)
    durations = [*np.diff(ticks).tolist(), None]
    with video_writer(
        path,
        height=images.shape[1],
        width=images.shape[2],
        time_base=time_base,
        rate=1 / time_base if frame_times is None else Fraction(25),
        encoding=Encoding(codec, crf, keyframe_interval, pixel_format),
    ) as writer:
        for image, tick, duration in zip(images, ticks, durations, strict=True):
            writer.add(image, tick, duration=duration)
    return path


def _check_frames(frames: torch.Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    got = f"{tuple(frames.shape)} of {frames.dtype}"
    if str(frames.dtype).removeprefix("torch.") != "uint8":
        raise ConfigError(f"frames must be uint8 in 0 … 255, got {got}")
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ConfigError(f"frames must be T C H W with C = 3 (RGB), got {got}")
    if 0 in frames.shape:
        raise ConfigError(f"frames must hold at least one frame of at least 1 × 1, got {got}")
    array = frames if isinstance(frames, np.ndarray) else frames.detach().cpu().numpy()
    return array.transpose(0, 2, 3, 1)


def _ticks(
    count: int, fps: float | Fraction, frame_times: Sequence[float] | None
) -> tuple[list[int], Fraction]:
    if frame_times is None:
        if not 0 < fps <= 100_000:
            raise ConfigError(f"fps is {fps}; it must be above 0 and not above 100000")
        return list(range(count)), 1 / Fraction(fps).limit_denominator(100_000)
    if len(frame_times) != count:
        raise ConfigError(f"frame_times holds {len(frame_times)} times for {count} frames; give one each")
    times = np.asarray(frame_times, dtype=np.float64)
    if not np.isfinite(times).all():
        raise ConfigError("frame_times holds a value that is not finite")
    ticks = np.rint((times - times[0]) * _CLOCK).astype(np.int64)
    stuck = np.flatnonzero(np.diff(ticks) < 1)
    if stuck.size:
        i = int(stuck[0])
        raise ConfigError(
            f"frame_times must ascend by at least 1/{_CLOCK} s: frame {i} is at {times[i]} s, frame {i + 1} "
            f"at {times[i + 1]} s"
        )
    return ticks.tolist(), Fraction(1, _CLOCK)
