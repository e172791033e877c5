"""Write frames to a video file: small, exact in time, cheap to read at random places.

Legend: T frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.video
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from t3d.errors import ConfigError, did_you_mean
from t3d.files import atomic_path

CODECS = ("libx264", "libx264rgb", "libvpx-vp9")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}

# The clock of MPEG: fine enough for any frame rate, and every container can hold it or something near.
_CLOCK = 90_000

# AVCOL_SPC_SMPTE170M, written into the file so that no reader has to guess.
_BT601 = 6


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
    """Encode frames into a video file; the file appears whole or not at all.

    The container follows the file's ending (.mp4 is the usual one; its index is put in front). x264 does not
    promise the same bytes each time for the same frames.

    Args:
        path: Where to write; an existing file is replaced once the new one is complete.
        frames: RGB frames, uint8 T C H W, on any device.
        fps: Frames per second, exact as a `Fraction` (30000/1001). Left unused when `frame_times` is given.
        codec: One of `CODECS`.
        crf: Constant rate factor: lower is better and larger; 0 is lossless for libx264.
        keyframe_interval: At most this many frames from one key frame to the next. A short interval makes
            random access cheap: 16 costs a few per cent of file size.
        pixel_format: What is stored. `yuv420p` plays everywhere and needs even sides; `yuv444p` takes any.
        frame_times: Seconds at which each frame appears, ascending, for a variable frame rate; the file
            counts from the first.

    Returns:
        The path that was written.

    Raises:
        ConfigError: A shape, dtype, codec, ending or option that cannot be written.
        OSError: The folder is missing or cannot be written to.

    Example:
        >>> write_video("grey.mp4", torch.full((8, 3, 64, 64), 128, dtype=torch.uint8), fps=25)
        PosixPath('grey.mp4')
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "the folder to write into is missing", str(path.parent))
    container_format = FORMATS.get(path.suffix.lower())
    if container_format is None:
        hint = did_you_mean(path.suffix, FORMATS)
        raise ConfigError(f"{path}: cannot write a video with the ending {path.suffix!r}; {hint}")
    images = _check_frames(frames)  # T H W C
    _check_codec(codec, pixel_format)
    _check_sides(pixel_format, height=images.shape[1], width=images.shape[2])
    if keyframe_interval < 1:
        raise ConfigError(f"keyframe_interval is {keyframe_interval}; it must be at least 1")
    if not 0 <= crf <= 63:
        raise ConfigError(f"crf is {crf}; it must lie in 0 … 63 (18 looks like the source, 28 is small)")
    ticks, time_base = _ticks(len(images), fps, frame_times)

    with atomic_path(path) as part:
        options = {"movflags": "+faststart"} if container_format in ("mp4", "mov") else {}
        try:
            with av.open(os.fspath(part), "w", format=container_format, options=options) as container:
                rate = Fraction(fps).limit_denominator(100_000) if frame_times is None else Fraction(25)
                stream = cast(
                    av.video.VideoStream,
                    container.add_stream(codec, rate=rate, options={"crf": str(crf)}),
                )
                stream.height, stream.width = images.shape[1:3]
                stream.pix_fmt = pixel_format
                context = stream.codec_context
                context.gop_size = keyframe_interval
                context.time_base = time_base
                if not av.VideoFormat(pixel_format).is_rgb:
                    context.colorspace = _BT601
                    context.color_range = _range(pixel_format)
                context.thread_count = 1  # short clips gain nothing by more, and callers run many processes
                for frame in _frames(images, ticks, time_base, pixel_format):
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except (av.FFmpegError, ValueError) as error:
            if isinstance(error, OSError):
                raise
            raise ConfigError(
                f"{path}: {codec} could not write {len(images)} frames of {images.shape[2]} × "
                f"{images.shape[1]} as {pixel_format} into {container_format}: {error}"
            ) from error
    return path


def _check_frames(frames: torch.Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    got = f"{tuple(frames.shape)} of {frames.dtype}"
    if frames.dtype not in (torch.uint8, np.dtype(np.uint8)):
        raise ConfigError(f"frames must be uint8 in 0 … 255, got {got}")
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ConfigError(f"frames must be T C H W with C = 3 (RGB), got {got}")
    if 0 in frames.shape:
        raise ConfigError(f"frames must hold at least one frame of at least 1 × 1, got {got}")
    array = frames.detach().cpu().numpy() if isinstance(frames, torch.Tensor) else frames
    return array.transpose(0, 2, 3, 1)


def _check_codec(codec: str, pixel_format: str) -> None:
    if codec not in CODECS:
        raise ConfigError(f"unknown codec {codec!r}; {did_you_mean(codec, CODECS)}")
    try:
        formats = [form.name for form in av.Codec(codec, "w").video_formats or []]
    except av.codec.codec.UnknownCodecError as error:
        raise ConfigError(f"this build of FFmpeg has no encoder {codec!r}; use libx264") from error
    if pixel_format not in formats:
        raise ConfigError(f"{codec} cannot store {pixel_format!r}; {did_you_mean(pixel_format, formats)}")


def _check_sides(pixel_format: str, *, height: int, width: int) -> None:
    form = av.VideoFormat(pixel_format, 64, 64)
    if len(form.components) == 1:
        return
    # A colour plane half as wide needs an even width: the codecs refuse or crop an odd one.
    odd = [f"width {width}"] if width % (64 // form.chroma_width()) else []
    odd += [f"height {height}"] if height % (64 // form.chroma_height()) else []
    if odd:
        raise ConfigError(
            f"{pixel_format} cannot store an odd side, got {' and '.join(odd)}; crop to even sides or use "
            f"pixel_format='yuv444p'"
        )


def _ticks(
    count: int, fps: float | Fraction, frame_times: Sequence[float] | None
) -> tuple[list[int], Fraction]:
    if frame_times is None:
        if not 0 < fps <= 100_000:
            raise ConfigError(f"fps is {fps}; it must lie above 0 and not above 100000")
        return list(range(count)), 1 / Fraction(fps).limit_denominator(100_000)
    if len(frame_times) != count:
        raise ConfigError(f"frame_times holds {len(frame_times)} times for {count} frames; give one a frame")
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


def _range(pixel_format: str) -> ColorRange:
    return ColorRange.JPEG if pixel_format.startswith("yuvj") else ColorRange.MPEG


def _frames(
    images: npt.NDArray[np.uint8], ticks: list[int], time_base: Fraction, pixel_format: str
) -> Iterator[av.VideoFrame]:
    reformatter = VideoReformatter()
    for i, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if not av.VideoFormat(pixel_format).is_rgb:
            frame = reformatter.reformat(
                frame,
                format=pixel_format,
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=_range(pixel_format),
                threads=1,
            )
        frame.pts = ticks[i]
        frame.time_base = time_base
        if i + 1 < len(ticks):
            frame.duration = ticks[i + 1] - ticks[i]
        yield frame
