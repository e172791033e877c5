"""Write a video file frame by frame, so that a long video is never in memory as a whole.

Legend: C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.container
import av.video
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from t3d.errors import ConfigError, did_you_mean
from t3d.io.files import atomic_path
from t3d.video.sound import Sound

CODECS = ("libx264", "libx264rgb", "libvpx-vp9", "mjpeg")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}

# AVCOL_SPC_SMPTE170M, written into the file so that readers need not guess.
_BT601 = 6


@dataclass(frozen=True)
class Encoding:
    """Compression of frames.

    Args:
        codec: One of `CODECS`.
        crf: Constant rate factor: lower is better and larger; 0 is lossless for libx264. `mjpeg` ignores it.
        keyframe_interval: Maximum number of frames from one key frame to the next.
        pixel_format: Stored pixel format, such as `yuv420p`.
        extra: Additional encoder options, such as `{"preset": "veryfast"}`.
        threads: Threads of the encoder. 1 is best for short clips, and where many processes encode.

    Raises:
        ConfigError: An invalid value.
    """

    codec: str = "libx264"
    crf: int = 18
    keyframe_interval: int = 16
    pixel_format: str = "yuv420p"
    extra: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1

    def __post_init__(self) -> None:
        _check_codec(self.codec, self.pixel_format)
        if self.keyframe_interval < 1:
            raise ConfigError(f"keyframe_interval is {self.keyframe_interval}; it must be at least 1")
        if not 0 <= self.crf <= 63:
            raise ConfigError(
                f"crf is {self.crf}; it must be in 0 … 63 (18 looks like the source, 28 is small)"
            )

    def options(self) -> dict[str, str]:
        """Return the options of the encoder, as FFmpeg takes them."""
        rate = {} if self.codec == "mjpeg" else {"crf": str(self.crf)}
        return {**rate, **self.extra}


class VideoWriter:
    """Encoder for the frames of a file that `video_writer` opened."""

    def __init__(
        self, container: av.container.OutputContainer, stream: av.video.VideoStream, what: str
    ) -> None:
        self._container = container
        self._stream = stream
        self._what = what
        self._reformatter = VideoReformatter()
        self._last: int | None = None  # ticks for which the frame added last is shown
        self._sound: Sound | None = None

    def add_sound(self, sound: Sound, *, first_frame: Fraction) -> Fraction:
        """Copy the sound of another file, in step with the frames. Call it before the first frame is added.

        Args:
            sound: The sound of the file that the frames are from.
            first_frame: Seconds at which the first frame appears in that file.

        Returns:
            Seconds at which the first frame must appear in this file: above 0 if the sound starts earlier.

        Raises:
            ConfigError: This kind of file cannot hold the sound.
        """
        lead = sound.lead(first_frame)
        with _refused(f"{self._what}, or its sound ({', '.join(sound.codecs)})"):
            sound.copy_to(self._container, shift=first_frame - lead)
        self._sound = sound
        return lead

    def add(self, image: npt.NDArray[np.uint8], tick: int, *, duration: int | None = None) -> None:
        """Encode the next frame.

        Args:
            image: RGB, uint8 H W C.
            tick: When it is shown, in the writer's `time_base`. Must exceed the previous frame's.
            duration: Ticks for which it is shown. A container needs it only for the last frame. None lets
                the container guess.
        """
        context = self._stream.codec_context
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if not av.VideoFormat(str(context.pix_fmt)).is_rgb:
            frame = self._reformatter.reformat(
                frame,
                format=context.pix_fmt,
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=_range(str(context.pix_fmt)),
                threads=1,
            )
        frame.pts = tick
        frame.time_base = context.time_base
        if duration is not None:
            frame.duration = duration
        self._last = duration
        with _refused(self._what):
            packets = self._stream.encode(frame)
            for packet in packets:
                if packet.pts == tick and duration is not None:  # else taken to be the mean of all
                    packet.duration = duration
            if self._sound is not None:
                for packet_of_sound in self._sound.until(tick * Fraction(context.time_base or 1)):
                    self._container.mux(packet_of_sound)
            self._container.mux(packets)

    def finish(self) -> None:
        """Flush the encoder and write the file's index. `video_writer` calls it."""
        with _refused(self._what):
            packets = self._stream.encode(None)
            if packets and self._last is not None:
                # The encoder reorders frames, and a container takes the file's end from the packet written
                # last.
                packets[-1].duration = self._last
            self._container.mux(packets)
            if self._sound is not None:
                for packet_of_sound in self._sound.until():
                    self._container.mux(packet_of_sound)
            self._container.close()


@contextmanager
def video_writer(
    path: str | os.PathLike[str],
    *,
    height: int,
    width: int,
    time_base: Fraction,
    rate: Fraction,
    encoding: Encoding | None = None,
    check: Callable[[Path], None] | None = None,
    pixel_aspect: Fraction = Fraction(1),
) -> Iterator[VideoWriter]:
    """Open a video file for writing. It appears complete when the block ends without error, or not at all.

    The file extension determines the container (usually .mp4; its index is placed at the start).

    Args:
        path: Where to write; an existing file is replaced once the new one is complete.
        height: Height of every frame, in pixels.
        width: Width of every frame, in pixels.
        time_base: Seconds per tick.
        rate: Frames per second for the header. Exact times come from the frames' ticks.
        encoding: How frames are compressed. Default: `Encoding()`.
        check: Called with the path of the complete temporary file before it replaces `path`. If it raises,
            `path` is not replaced.
        pixel_aspect: Width of a pixel divided by its height, for the header.

    Raises:
        ConfigError: An unsupported frame size or frame.
        OSError: The folder cannot be written to, or is full.

    Example:
        >>> form = {"height": 64, "width": 96, "time_base": Fraction(1, 25), "rate": Fraction(25)}
        >>> with video_writer("black.mp4", **form) as writer:
        ...     for tick in range(8):
        ...         writer.add(np.zeros((64, 96, 3), dtype=np.uint8), tick)
    """
    path = Path(path)
    container_format = FORMATS.get(path.suffix.lower())
    if container_format is None:
        hint = did_you_mean(path.suffix, FORMATS)
        raise ConfigError(f"{path}: cannot write a video with the ending {path.suffix!r}; {hint}")
    encoding = encoding or Encoding()
    _check_sides(encoding.pixel_format, height=height, width=width)
    what = f"{path}: {encoding.codec} could not write frames of {width} × {height} as {encoding.pixel_format}"
    muxing = {"movflags": "+faststart"} if container_format in ("mp4", "mov") else {}
    with atomic_path(path) as part:
        with av.open(os.fspath(part), "w", format=container_format, options=muxing) as container:
            with _refused(what):
                stream = cast(
                    av.video.VideoStream,
                    container.add_stream(encoding.codec, rate=rate, options=encoding.options()),
                )
                stream.height, stream.width = height, width
                stream.pix_fmt = encoding.pixel_format
                context = stream.codec_context
                context.gop_size = encoding.keyframe_interval
                context.time_base = time_base
                if pixel_aspect != 1:
                    context.sample_aspect_ratio = pixel_aspect
                if not av.VideoFormat(encoding.pixel_format).is_rgb:
                    context.colorspace = _BT601
                    context.color_range = _range(encoding.pixel_format)
                context.thread_count = encoding.threads
            writer = VideoWriter(container, stream, what)
            yield writer
            writer.finish()
        if check is not None:
            check(part)


@contextmanager
def _refused(what: str) -> Iterator[None]:
    try:
        yield
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, OSError):
            raise
        raise ConfigError(f"{what}: {error}") from error


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
    # A color plane of half the width needs an even width: codecs reject or crop an odd one.
    odd = [f"width {width}"] if width % (64 // form.chroma_width()) else []
    odd += [f"height {height}"] if height % (64 // form.chroma_height()) else []
    if odd:
        raise ConfigError(
            f"{pixel_format} cannot store an odd side, got {' and '.join(odd)}; crop to even sides or use "
            f"pixel_format='yuv444p'"
        )


def _range(pixel_format: str) -> ColorRange:
    return ColorRange.JPEG if pixel_format.startswith("yuvj") else ColorRange.MPEG
