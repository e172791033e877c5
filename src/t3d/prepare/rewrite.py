"""Re-encode one video to be small and fast to seek in, with the same frames at the same times.

Processes start only to run this module, so it imports nothing heavy.

Legend: T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np

from t3d.errors import ConfigError, Failed, VideoError, at_least, between, did_you_mean
from t3d.io.files import temporary_name, writing
from t3d.prepare.examine import examine
from t3d.video.facts import VideoFacts
from t3d.video.frame_table import HIDDEN_ERRORS, FrameTable, damage_of, read_table, scan_table
from t3d.video.image_names import file_state
from t3d.video.images import ImageReader
from t3d.video.orientation import Image, Orientation
from t3d.video.remarks import hdr_remark, joined, size_remark
from t3d.video.stream import Stream, size_of
from t3d.video.ticks import ticks_of
from t3d.video.writer import Encoding, video_writer

# Files are read many times: "fastdecode" leaves out what is slowest to decode, at slightly larger files, and
# "veryfast" leaves out what is slowest to encode.
_X264 = {"preset": "veryfast", "tune": "fastdecode"}
Codec = Literal["h264", "jpeg"]


@dataclass(frozen=True)
class TranscodeSpec:
    """Options of transcoding.

    Args:
        short_side: Maximum short side in pixels (even). Videos are never upscaled.
        keyframe_interval: Maximum number of frames from one key frame to the next (H.264).
        crf: Constant rate factor of x264, 0 to 51. Lower values give better quality and larger files: 18 is
            fine, 23 is small.
        codec: Codec of the new files. With `jpeg` (Motion JPEG) every frame is a separate picture, so any
            frame is equally fast to read, and files are several times as large.
        jpeg_q: Quantizer of JPEG pictures, 1 to 31. Lower values give better quality and larger files.
        image_fps: Frames per second of videos that are folders of images. Default: the rate in the index, if
            the videos are given as one, else 25.

    Raises:
        ConfigError: A value that cannot work.

    Example:
        >>> TranscodeSpec().short_side
        256
    """

    short_side: int = 256
    keyframe_interval: int = 16
    crf: int = 20
    codec: Codec = "h264"
    jpeg_q: int = 3
    image_fps: float | None = None

    def __post_init__(self) -> None:
        if self.codec not in get_args(Codec):
            raise ConfigError(f"codec is {self.codec!r}; {did_you_mean(self.codec, get_args(Codec))}")
        between("jpeg_q", self.jpeg_q, 1, 31)
        if self.image_fps is not None:
            between("image_fps", self.image_fps, 0.001, 100_000)
        at_least("short_side", self.short_side, 2)
        if self.short_side % 2:
            raise ConfigError(f"short_side is {self.short_side}; the codecs need an even number")
        at_least("keyframe_interval", self.keyframe_interval, 1)
        between("crf", self.crf, 0, 51)

    def encoding(self) -> Encoding:
        """Return the options of the encoder."""
        if self.codec == "jpeg":
            quantizer = {"qmin": str(self.jpeg_q), "qmax": str(self.jpeg_q)}
            return Encoding("mjpeg", keyframe_interval=1, pixel_format="yuvj420p", extra=quantizer)
        return Encoding(crf=self.crf, keyframe_interval=self.keyframe_interval, extra=_X264)


@dataclass(frozen=True)
class Rewritten:
    """A transcoded file.

    Args:
        row: Result of `examine` for the new file, under its final name.
        size: Bytes of the source.
        modified: When the source was last changed, in nanoseconds.
        damage: Damage of the source, or None.
    """

    row: dict[str, Any]
    size: int
    modified: int
    damage: str | None


class _DisagreementError(Exception):
    """A decoded frame differs from the one that the packets announced."""


def rewritten_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return height and width of a re-encoded video.

    Example:
        >>> rewritten_shape(1080, 1920, 256), rewritten_shape(240, 321, 256)
        ((256, 456), (240, 320))
    """
    scale = min(Fraction(short_side, min(height, width)), Fraction(1))
    if scale == 1:
        return height - height % 2, width - width % 2
    return 2 * round(height * scale / 2), 2 * round(width * scale / 2)


def rewrite(
    source: Path, target: Path, spec: TranscodeSpec, *, max_megapixels: float = math.inf
) -> Rewritten:
    """Re-encode a file, check the new one, and only then give it its name.

    Pixels are scaled by swscale's bicubic filter, which agrees with torchvision's in kind, not bit for bit.

    Args:
        source: The file.
        target: The `.mp4` file to write, in a folder that is created if it is missing.
        spec: How the file is transcoded.
        max_megapixels: Largest frame that is decoded, in megapixels.

    Returns:
        The row of the new file, and the state of the source.

    Raises:
        VideoError: The source cannot be read or re-encoded, or changes meanwhile; or the new file does not
            hold the same frames at the same times.
        WriteError: The new file cannot be written.
    """
    if source.is_dir():
        return _rewrite_images(source, target, spec, max_megapixels)
    size, modified = _state(source)
    stream = Stream(source, max_megapixels=max_megapixels)
    try:
        reading = read_table(stream)
    finally:
        stream.close()
    passing = _Pass(source, target, spec, reading.first)
    table, notes = reading.table, reading.notes

    row: dict[str, Any] = {}

    def check(part: Path) -> None:
        nonlocal row
        row = passing.checked(part)
        if _state(source) != (size, modified):
            raise VideoError(source, "was changed while it was read")

    try:
        if not reading.sure:
            raise _DisagreementError
        passing.write(table, sure=False, check=check)
    except _DisagreementError:
        # As an index counts: the frames that decoding from start to end gives.
        stream = Stream(source, max_megapixels=max_megapixels)
        try:
            scanned = scan_table(stream, table, promised=False, trusted=True)
        finally:
            stream.close()
        hidden = reading.sure and not scanned.notes
        table, notes = scanned.table, (*notes, *([HIDDEN_ERRORS] if hidden else scanned.notes))
        try:
            passing.write(table, sure=True, check=check)
        except _DisagreementError as error:
            raise VideoError(source, "does not give the same frames each time it is decoded") from error
    return Rewritten(row, size, modified, joined(damage_of(*notes), hdr_remark(reading.first), passing.odd))


def _rewrite_images(source: Path, target: Path, spec: TranscodeSpec, max_megapixels: float) -> Rewritten:
    """Encode a folder of images, see `rewrite`."""
    size, modified = file_state(source)
    reader = ImageReader(source, fps=spec.image_fps, max_megapixels=max_megapixels)
    stored = reader.orientation.size(reader.size)
    shape = rewritten_shape(*stored, spec.short_side)
    if 0 in shape:
        raise VideoError(source, f"is {stored[1]} × {stored[0]}; the codecs need two pixels each way")
    height, width = reader.orientation.size(shape)
    count = len(reader.table.pts)
    row: dict[str, Any] = {}

    def check(part: Path) -> None:
        row.update(examine(str(part)))
        if row.get("error") or row.get("damage") or row["frames"] != count:
            raise VideoError(source, f"the new file is wrong: {row.get('error') or row.get('damage')}")

    cut = stored[0] - shape[0] < 2 and stored[1] - shape[1] < 2  # an odd last row or column
    try:
        with video_writer(
            target,
            height=height,
            width=width,
            time_base=reader.table.time_base,
            rate=(1 / reader.table.time_base).limit_denominator(100_000),
            check=check,
            encoding=spec.encoding(),
        ) as writer:
            for number in range(count):
                image = reader.image(number, shape=None if cut else shape)
                writer.add(np.ascontiguousarray(image[:height, :width]), number, duration=1)
    except ConfigError as error:
        raise VideoError(source, f"cannot be re-encoded: {error}") from error
    return Rewritten(row, size, modified, reader.damage)


class _Pass:
    """One pass over a file, which decodes, rotates, scales and encodes its frames one by one."""

    def __init__(self, source: Path, target: Path, spec: TranscodeSpec, first: av.VideoFrame) -> None:
        self.source, self.target, self.spec = source, target, spec
        self.odd: str | None = None
        self._stored = (first.height, first.width)
        self._orientation = Orientation.of_frame(first)
        self._shape = rewritten_shape(*self._stored, spec.short_side)  # not turned yet
        if 0 in self._shape:
            reason = f"is {first.width} × {first.height}; the codecs need two pixels each way"
            raise VideoError(source, reason)

    def write(self, table: FrameTable, *, sure: bool, check: Callable[[Path], None]) -> None:
        """Decode and encode; `sure`: the table is what decoding gave before, not what packets promise."""
        ticks = ticks_of(table, self.source)
        self._clock, self._ticks = ticks.clock, ticks.times
        height, width = self._orientation.size(self._shape)
        # Strict, so that damage that the decoder would cover up is found, and noted.
        stream = Stream(self.source, strict=not sure)
        try:
            with video_writer(
                self.target,
                height=height,
                width=width,
                time_base=self._clock,
                rate=ticks.rate(),
                check=check,
                pixel_aspect=self._orientation.pixel_aspect(stream.pixel_aspect),
                encoding=self.spec.encoding(),
            ) as writer:
                images = self._images(stream, table, sure=sure)
                for image, tick, duration in zip(images, ticks.times.tolist(), ticks.durations, strict=True):
                    writer.add(image, tick, duration=duration)
        except ConfigError as error:
            raise VideoError(self.source, f"cannot be re-encoded: {error}") from error
        finally:
            stream.close()

    def checked(self, part: Path) -> dict[str, Any]:
        """Decode a new file from start to end and return its row, if its frames are as expected."""
        row = examine(str(part))
        wrong = row.get("error") or row.get("damage")
        if wrong is None:
            table = VideoFacts.of_row(row).table
            ratio = table.time_base / self._clock
            ticks = (table.pts - table.pts[0]) * ratio.numerator
            keys = np.flatnonzero(np.isin(table.pts, table.key_pts))
            gaps = np.diff(keys, append=len(table.pts))
            if table.order is not None or not np.array_equal(ticks, self._ticks * ratio.denominator):
                wrong = "its frames or their times differ from the source"
            elif keys[:1].tolist() != [0] or gaps.max() > self.spec.encoding().keyframe_interval:
                wrong = f"its key frames are {gaps.max()} frames apart"
        if wrong is not None:
            raise VideoError(self.source, f"the new file is wrong: {wrong}")
        return row

    def _images(self, stream: Stream, table: FrameTable, *, sure: bool) -> Iterator[Image]:
        count = len(table.pts)
        number = -1
        for number, frame in enumerate(stream.frames()):
            kept = number < count and (
                sure or (frame.pts == table.pts[number] and not frame.is_corrupt and not stream.errors)
            )
            if not kept:
                raise _DisagreementError
            yield self._orientation.apply(self._small(stream, frame, number))
        if number + 1 != count or (stream.errors and not sure):
            raise _DisagreementError

    def _small(self, stream: Stream, frame: av.VideoFrame, number: int) -> Image:
        height, width = self._shape
        if (frame.height, frame.width) != self._stored:
            if self.odd is None:
                self.odd = size_remark(number, frame, self._stored)
        elif self._stored[0] - height < 2 and self._stored[1] - width < 2:
            return stream.rgb(frame)[:height, :width]
        return stream.rgb(frame, shape=self._shape)


def _state(path: Path) -> tuple[int, int]:
    return size_of(path), path.stat().st_mtime_ns


# --- as a task ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A file to re-encode.

    Args:
        source: The file.
        target: The new file.
        name: The source as the journal names it.
        new_name: The new file as the journal names it.
    """

    source: str
    target: str
    name: str
    new_name: str


@dataclass(frozen=True)
class Staged:
    """A re-encoded file that does not have its final name yet.

    Args:
        part: Its temporary path, next to the final one.
        row: Its record for the journal.
    """

    part: str
    row: dict[str, Any]


def stage(task: Task, *, spec: TranscodeSpec, max_megapixels: float) -> Staged | Failed:
    """Re-encode a file under a temporary name.

    The main process gives the file its final name. It alone writes the journal. If two machines re-encode a
    file, since one of them seemed dead, only one result is kept.

    Args:
        task: The file.
        spec: How the file is transcoded.
        max_megapixels: Largest frame that is decoded, in megapixels.

    Returns:
        What was done, or why it could not be.

    Raises:
        WriteError: The new file cannot be written.
    """
    part = temporary_name(Path(task.target))
    try:
        with writing(task.target, part):
            done = rewrite(Path(task.source), part, spec, max_megapixels=max_megapixels)
    except VideoError as error:
        return Failed(task.source, error.reason)
    names = {"path": task.new_name, "source": task.name}
    state = {
        "source_size": done.size,
        "source_modified": done.modified,
        "source_damage": done.damage,
    }
    return Staged(str(part), done.row | names | state)
