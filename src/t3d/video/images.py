"""Folders of images as videos: one picture per frame, in natural order, at a frame rate that the user gives.

Legend: T frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from t3d.errors import VideoError, between
from t3d.video.frame_table import FrameTable, Int64s
from t3d.video.image_names import IMAGE_FPS, image_names
from t3d.video.limits import DEFAULT_MEGAPIXELS, check_frame_size
from t3d.video.orientation import Image, Orientation

if TYPE_CHECKING:
    from t3d.video.facts import VideoFacts

# FFmpeg's decoder by the first bytes of a file. Endings are often wrong.
_DECODERS = (
    (rb"\xff\xd8", "mjpeg"),
    (rb"\x89PNG\r\n", "png"),
    (rb"RIFF....WEBP", "webp"),
    (rb"BM", "bmp"),
    (rb"II\*\0|MM\0\*", "tiff"),
    (rb"P[36]\s", "ppm"),
    (rb"P[25]\s", "pgm"),
)
IMAGE_CODECS = frozenset(codec for _, codec in _DECODERS)
"""FFmpeg's names of the codecs of images."""
_ORIENTATION_TAG = 0x0112
# Rotation and mirroring of each value of the tag.
_EXIF = {
    2: (0, True),
    3: (180, False),
    4: (180, True),
    5: (270, True),
    6: (90, False),
    7: (90, True),
    8: (270, False),
}
_FLAGS = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class ImageReader:
    """The frames of a folder of images. It has the attributes and methods of `FrameReader`.

    Images are decoded by FFmpeg, whatever their endings. Images of another size than the first are scaled to
    it.

    Args:
        path: The folder.
        fps: Frames per second. None: the rate in `facts`, or else `IMAGE_FPS`.
        facts: Facts from an index, so that no image is decoded before frames are read.
        max_megapixels: Largest image that is decoded, in megapixels.

    Attributes:
        table: When each frame is shown.
        size: Height and width of a frame in pixels, as displayed.
        orientation: How the first image is rotated for display, by its EXIF tag. It holds for all.
        codec: FFmpeg's name of the first image's codec.
        pixel_aspect: Width of a pixel divided by its height: 1, since images rarely say otherwise.
        damage: Gaps in the numbers of the images, and what is wrong with images that were read; or None.

    Raises:
        VideoError: The folder cannot be read, holds other files, or its first image cannot be decoded; or the
            number of its images differs from that in `facts`.
        ConfigError: The frame rate is not from 0.001 to 100,000.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: float | None = None,
        facts: VideoFacts | None = None,
        max_megapixels: float = DEFAULT_MEGAPIXELS,
    ) -> None:
        if fps is not None:
            between("image_fps", fps, 0.001, 100_000)
        self.path = path
        self._max_megapixels = max_megapixels
        self._names = image_names(path)
        if fps is None:
            fps = IMAGE_FPS if facts is None else float(1 / facts.table.time_base)
        self.table = image_table(len(self._names), fps)
        self.pixel_aspect = Fraction(1)
        self._notes: list[str] = []
        if facts is None:
            self._notes += [text for text in [_gaps(self._names)] if text]
            self.codec, first = self._decoded(0)
            self._stored_size = (first.height, first.width)
            self.orientation = _exif_orientation(path / self._names[0])
        else:
            if len(self._names) != len(facts.table.pts):
                raise VideoError(
                    path,
                    f"has {len(self._names)} images, and had {len(facts.table.pts)} when it was indexed; run "
                    "t3d prepare index again",
                )
            self._notes += [facts.damage] if facts.damage else []
            self.codec, self._stored_size, self.orientation = (
                facts.codec,
                facts.stored_size,
                facts.orientation,
            )
        self.size = self.orientation.size(self._stored_size)

    @property
    def damage(self) -> str | None:
        """Gaps and faults of the images, as far as known."""
        return "; ".join(self._notes) or None

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds at which each frame appears, float64 [T], ascending."""
        return self.table.pts.astype(np.float64) * float(self.table.time_base)

    @property
    def missing(self) -> Int64s:
        """Numbers of the frames that cannot be decoded: none. A bad image is an error when it is read."""
        return np.zeros(0, dtype=np.int64)

    def read(
        self,
        numbers: Int64s,
        *,
        nearest: bool = False,  # noqa: ARG002 (the signature of FrameReader)
        transform: Callable[[Image], Image] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Decode the frames with these numbers, each once, in any order and with repeats.

        Args:
            numbers: Frame numbers, int64 [T].
            nearest: Has no effect: unlike a frame of a damaged video, an image can be replaced or deleted.
            transform: Applied to each frame H W C as it is decoded. Its results are returned instead.

        Returns:
            RGB, uint8 T H W C in the order of `numbers`.

        Raises:
            VideoError: An image cannot be read.
        """
        images: dict[int, Image] = {}
        for number in numbers.tolist():
            if number not in images:
                image = self.image(number)
                images[number] = image if transform is None else transform(image)
        if not images:
            return np.empty((0, *self.size, 3), dtype=np.uint8)
        return np.stack([images[number] for number in numbers.tolist()])

    def image(self, number: int, *, shape: tuple[int, int] | None = None) -> Image:
        """Decode one frame.

        Args:
            number: Number of the frame.
            shape: Height and width as stored (not rotated) to scale it to. None: those of the first image.

        Returns:
            RGB as displayed, uint8 H W C.

        Raises:
            VideoError: The image cannot be read.
        """
        _, frame = self._decoded(number)
        if (frame.height, frame.width) != self._stored_size:
            height, width = self._stored_size
            self._note(
                f"images of different sizes: {self._names[number]} is {frame.width} × {frame.height}, the "
                "first "
                f"is {width} × {height}; all are scaled to the first"
            )
        height, width = shape or self._stored_size
        scaled = (frame.height, frame.width) != (height, width)
        try:
            rgb = VideoReformatter().reformat(
                frame,
                width=width,
                height=height,
                format="rgb24",
                interpolation=_FLAGS if scaled else None,
                threads=1,
            )
            return self.orientation.apply(cast(Image, rgb.to_ndarray()))
        except (av.FFmpegError, ValueError, MemoryError) as error:
            reason = f"{self._names[number]}: cannot turn {frame.format.name} into RGB: {error}"
            raise VideoError(self.path, reason) from error

    def release(self) -> None:
        """Do nothing: no file stays open."""

    def _decoded(self, number: int) -> tuple[str, av.VideoFrame]:
        """Return the codec and the picture of an image."""
        name = self._names[number]
        try:
            content = (self.path / name).read_bytes()
        except OSError as error:
            raise VideoError(self.path, f"{name}: cannot be read: {error.strerror}") from error
        codec = next((codec for start, codec in _DECODERS if re.match(start, content, re.DOTALL)), None)
        if codec is None:
            raise VideoError(self.path, f"{name}: is not an image that can be read, or is cut off")
        if codec == "tiff":
            picture = _jpeg_in_tiff(self.path / name, content, self._max_megapixels)
            if picture is not None:
                return codec, picture
        decoder = av.CodecContext.create(codec, "r")
        decoder.thread_count = 1
        if math.isfinite(self._max_megapixels):
            # FFmpeg counts the margins of a picture in memory, so the exact size is checked again.
            decoder.options = {"max_pixels": str(int(self._max_megapixels * 2e6) + 2**17)}
        frames: list[av.VideoFrame] = []
        try:
            for packet in (av.Packet(content), None):
                frames += decoder.decode(packet)  # type: ignore[attr-defined]
        except av.EOFError:
            pass
        except (av.FFmpegError, ValueError, MemoryError) as error:
            _refuse_large(self.path / name, self._max_megapixels)
            raise VideoError(self.path, f"{name}: cannot be decoded: {error}") from error
        if not frames:
            raise VideoError(self.path, f"{name}: holds no picture that can be decoded")
        height, width = frames[0].height, frames[0].width
        check_frame_size(self.path / name, height, width, max_megapixels=self._max_megapixels)
        if frames[0].is_corrupt:
            self._note(f"{name} is damaged")
        return codec, frames[0]

    def _note(self, text: str) -> None:
        if text not in self._notes and len(self._notes) < 3:
            self._notes.append(text)


def image_table(count: int, fps: float) -> FrameTable:
    """Return when each of a number of images is shown, at a rate in frames per second."""
    numbers = np.arange(count, dtype=np.int64)
    step = 1 / Fraction(fps).limit_denominator(100_000)
    return FrameTable(pts=numbers, time_base=step, last=1, key_pts=numbers, key_seek=numbers)


def _refuse_large(image: Path, max_megapixels: float) -> None:
    """Raise an error if an image that FFmpeg refused is too large."""
    import PIL.Image

    most = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None  # only the header is read
    try:
        with PIL.Image.open(image) as opened:
            width, height = opened.size
    except Exception:  # Pillow raises many kinds of errors
        return
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = most
    check_frame_size(image, height, width, max_megapixels=max_megapixels)


def _jpeg_in_tiff(path: Path, content: bytes, max_megapixels: float) -> av.VideoFrame | None:
    """Decode a TIFF image that is compressed as JPEG, whose colors FFmpeg reads wrongly; else return None.

    Raises:
        VideoError: It is compressed as JPEG, and is too large.
    """
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(content)) as image:
            if image.info.get("compression") not in ("jpeg", "tiff_jpeg"):
                return None
            check_frame_size(path, image.height, image.width, max_megapixels=max_megapixels)
            image.getexif().pop(_ORIENTATION_TAG, None)  # else Pillow rotates it, and so does the reader
            return av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    except VideoError:
        raise
    except Exception:  # Pillow raises many kinds of errors for a file that FFmpeg may still decode
        return None


def _exif_orientation(image: Path) -> Orientation:
    import PIL.Image

    try:
        with PIL.Image.open(image) as opened:
            tag = opened.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow raises many kinds of errors for a file that FFmpeg can still decode
        tag = 1
    return Orientation(*_EXIF.get(tag, (0, False)))


def _gaps(names: list[str]) -> str:
    """Describe missing numbers in the names of images, or return nothing."""
    groups = [re.findall(r"\d+", os.path.splitext(name)[0]) for name in names]  # noqa: PTH122
    numbers = [int(each[-1]) for each in groups if each]
    steps = np.diff(numbers)
    if len(numbers) < len(names) or not len(steps) or steps.min() < 1:
        return ""
    usual = int(np.median(steps))
    wide = np.flatnonzero(steps > usual)
    if not wide.size:
        return ""
    at = int(wide[0])
    missing = int(sum(steps[place] // usual - 1 for place in wide)) or int(wide.size)
    return f"{missing} images are missing between {names[at]} and {names[at + 1]}" + (
        f" and at {wide.size - 1} other places" if wide.size > 1 else ""
    )
