"""Exact random access to the frames of a video file.

Legend: T frames, C = 3 channels (RGB), H height, W width.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, SupportsIndex

import numpy as np
import numpy.typing as npt

from t3d.errors import ManifestError, VideoError
from t3d.io.video_cache import local_name
from t3d.video.batch import FrameBatch, VideoMetadata
from t3d.video.frame_table import Int64s
from t3d.video.images import IMAGE_CODECS, ImageReader
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits
from t3d.video.orientation import Image
from t3d.video.reader import FrameReader
from t3d.video.ticks import Ticks, ticks_of

if TYPE_CHECKING:
    import torch

    from t3d.video.facts import VideoFacts

Images = npt.NDArray[np.uint8]
"""RGB frames, uint8 T H W C."""
ImagesTransform = Callable[[Images], Images]
"""Function from frames uint8 N H W C to uint8 N H' W' C, such as a resizing."""

# Pixels of all frames that are transformed together: at most 24 MB.
_TOGETHER = 8_000_000

# Half of the finest tick in use, 1/90000 s: a time computed as 3 / 29.97 must find frame 3.
_TIME_TOLERANCE = 5e-6


class Video:
    """A video as a sequence of frames: frame i is the i-th frame when decoding from start to end.

    A folder that holds only images is a video, too: its frames are the images in natural order.

    `video[i]` returns a frame, uint8 C H W. `video[a:b:c]` returns several, uint8 T C H W. A loop over the
    video decodes it once, frame by frame. The number of frames, their times and the size come from reading
    and decoding, never from the header. The file's rotation and mirroring are applied, to the nearest
    quarter turn. Any pixel format is converted to RGB by the stream's color space and range. Alpha is
    dropped. Cover pictures are ignored. If a file has several video streams, FFmpeg's best one is read.

    A `Video` can be pickled, survives a fork, and can be shared by threads (calls wait for each other). It
    stays usable after an error.

    Args:
        path: The file; a URL (`https://`, `s3://`, `gs://`), which is downloaded into the cache of videos
            (`t3d.io.video_cache`); or a folder that holds only images, which are the frames in natural order.
        threads: Decoding threads. 1 is best if many processes read many videos. Damaged files, and files that
            are decoded in order, use one.
        facts: Facts from an index (`t3d.data.index`), so that the file need not be read through.
        limits: Largest frame that is decoded, and time limit for all reading of the file.
        image_fps: Frames per second of a folder of images, see `t3d.video.images`. Files have their own.
            None: the rate in `facts`, or else 25.
        tonemap: Convert frames with a high dynamic range (HDR: PQ and HLG) to a standard range (BT.709).
            By default their values are returned as FFmpeg returns them, which look flat and gray.

    Raises:
        VideoError: The file is missing, is empty, is not a video, has no frame that can be decoded, exceeds
            a limit, or differs in size from `facts`; or its URL cannot be downloaded.
        ValueError: `threads` is below 1.

    Example:
        >>> import torch
        >>> from t3d.video.encode import write_video
        >>> path = write_video("gray.mp4", torch.full((40, 3, 64, 96), 128, dtype=torch.uint8))
        >>> with Video(path) as video:
        ...     len(video), video[-1].shape, video[0:32:2].shape, video.metadata.codec
        ...     video.frames_played_in(1.0, 1.1)
        (40, torch.Size([3, 64, 96]), torch.Size([16, 3, 64, 96]), 'h264')
        FrameBatch(data: uint8 [3, 3, 64, 96], times: float64 [3], durations: float64 [3], 1.000 … 1.120 s)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 1,
        facts: VideoFacts | None = None,
        limits: ReadLimits = DEFAULT_LIMITS,
        image_fps: float | None = None,
        tonemap: bool = False,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self.path = path if isinstance(path, Path) else Path(_local(path))  # a `Path` cannot hold a URL
        self._closed = False
        self._lock = threading.RLock()
        self._reader: FrameReader | ImageReader
        images = facts is None or facts.codec in IMAGE_CODECS
        if images and os.path.isdir(self.path):  # noqa: PTH112 (of every file that is opened)
            self._reader = ImageReader(
                self.path, fps=image_fps, facts=facts, max_megapixels=limits.max_megapixels
            )
        else:
            self._reader = FrameReader(
                self.path, threads=threads, facts=facts, limits=limits, tonemap=tonemap
            )

    @property
    def metadata(self) -> VideoMetadata:
        """Current metadata of the video. Reading damaged parts may add to `damage`."""
        return VideoMetadata(
            num_frames=len(self),
            duration=self.duration,
            average_fps=len(self) / self.duration,
            height=self.height,
            width=self.width,
            codec=self._reader.codec,
            orientation=self._reader.orientation,
            pixel_aspect=self.pixel_aspect,
            damage=self.damage,
        )

    @property
    def height(self) -> int:
        """Height in pixels, as displayed."""
        return self._reader.size[0]

    @property
    def width(self) -> int:
        """Width in pixels, as displayed."""
        return self._reader.size[1]

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a displayed pixel divided by its height. Frames are not stretched by it."""
        return self._reader.pixel_aspect

    @property
    def damage(self) -> str | None:
        """Damage and other remarks, as far as known; None for a whole, common file.

        Remarks are about frames that change their size, and about a high dynamic range (HDR).
        """
        return self._reader.damage

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds at which each frame appears, counted from the first, float64 [T], ascending."""
        return self._reader.times

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last frame's end."""
        table = self._reader.table
        return float((int(table.pts[-1] - table.pts[0]) + table.last) * table.time_base)

    def ticks(self) -> Ticks:
        """Return the times of all frames as a new file stores them.

        Raises:
            VideoError: Two frames are less than a microsecond apart.
        """
        return ticks_of(self._reader.table, self.path)

    @property
    def first_time(self) -> Fraction:
        """Time stamp of the first frame in the file, in seconds."""
        table = self._reader.table
        return int(table.pts[0]) * Fraction(table.time_base)

    @property
    def missing(self) -> Int64s:
        """Numbers of the frames that cannot be decoded, as far as known, int64 [M], ascending."""
        return self._reader.missing

    def __len__(self) -> int:
        """Return the number of frames, T."""
        return len(self._reader.table.pts)

    def __getitem__(self, key: SupportsIndex | slice) -> torch.Tensor:
        """Decode one frame, or those of a slice.

        Args:
            key: A frame number in -T … T - 1, or a slice, as for a list.

        Returns:
            RGB, uint8 C H W for a number, uint8 T C H W for a slice.

        Raises:
            IndexError: A number outside the video.
            VideoError: As in `frames_at`.
        """
        count = len(self)
        if isinstance(key, slice):
            return self.frames_at(range(*key.indices(count)))
        try:
            number = operator.index(key)
        except TypeError as error:
            raise TypeError(
                f"a video takes an integer or a slice in brackets, got {type(key).__name__}; give a list of "
                "frame numbers to frames_at"
            ) from error
        if not -count <= number < count:
            raise IndexError(f"{self.path}: frame {number} is outside {-count} … {count - 1}")
        return self.frames_at([number % count])[0]

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the frames in order, uint8 C H W, one at a time. The file is decoded once."""
        for number in range(len(self)):
            yield self[number]

    def frames_at(
        self,
        indices: Sequence[int] | Int64s,
        *,
        missing: Literal["error", "nearest"] = "error",
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Decode the frames with these numbers, each once, in any order and with repeats.

        A frame whose size differs from that of the first is scaled to it.

        Args:
            indices: Frame numbers in 0 … T - 1.
            missing: What a frame that cannot be decoded becomes: an error, or the nearest frame that can be
                decoded (the earlier one of two). Even so it is an error if more than 10 % of the video's
                frames cannot be decoded.
            transform: Function from frames uint8 N C H W to uint8 N C H' W', such as a resizing. Large frames
                are transformed one by one as they are decoded, so that the memory holds one of full size.

        Returns:
            RGB, uint8 T C H W in the order of `indices`, with the colors of a pixel adjacent in memory
            (`channels_last`), as FFmpeg returns them.

        Raises:
            IndexError: A number outside the video.
            VideoError: A frame cannot be decoded, the time limit is over, or the video is closed.
        """
        import torch  # not above: reading images needs no torch

        of_images = None if transform is None else partial(_on_tensors, transform=transform)
        images = self.images_at(indices, missing=missing, transform=of_images)
        return torch.from_numpy(images).permute(0, 3, 1, 2)  # T C H W

    def images_at(
        self,
        indices: Sequence[int] | Int64s,
        *,
        missing: Literal["error", "nearest"] = "error",
        transform: ImagesTransform | None = None,
    ) -> Images:
        """Decode frames as `frames_at` does, into a NumPy array. Does not import torch.

        Args:
            indices: See `frames_at`.
            missing: See `frames_at`.
            transform: Function from frames uint8 N H W C to uint8 N H' W' C, called as that of `frames_at`.

        Returns:
            RGB, uint8 T H W C in the order of `indices`.

        Raises:
            IndexError: See `frames_at`.
            VideoError: See `frames_at`.
        """
        with self._lock:
            wanted = self._checked(indices)
            large = len(wanted) * self.height * self.width > _TOGETHER
            single = partial(_on_one, transform=transform) if transform is not None and large else None
            images = self._reader.read(wanted, nearest=missing == "nearest", transform=single)
        return images if transform is None or large else transform(images)

    def frames_at_times(self, seconds: Sequence[float]) -> torch.Tensor:
        """Decode the frames shown at these times; see `index_at` for times and `frames_at` for frames."""
        return self.frames_at([self.index_at(second) for second in seconds])

    def frames_in(self, start: int, stop: int, *, step: int = 1) -> FrameBatch:
        """Decode a range of frames with their times.

        Args:
            start: Number of the first frame, in 0 … T.
            stop: Number of the frame after the last, in `start` … T.
            step: Distance from one frame to the next, at least 1.

        Raises:
            IndexError: A range outside the video.
            ValueError: `step` is below 1.
            VideoError: As in `frames_at`.
        """
        if step < 1:
            raise ValueError(f"step is {step}; it must be at least 1")
        if not 0 <= start <= stop <= len(self):
            raise IndexError(
                f"{self.path}: frames {start} to {stop} are not a range within 0 … {len(self)}; stop is the "
                "frame after the last"
            )
        numbers = np.arange(start, stop, step, dtype=np.int64)
        data = self.frames_at(numbers)
        table = self._reader.table
        durations = np.diff(table.pts, append=table.pts[-1] + table.last) * float(table.time_base)
        return FrameBatch(data, self.times[numbers], durations[numbers])

    def frames_played_in(self, start_seconds: float, stop_seconds: float) -> FrameBatch:
        """Decode the frames that are on screen at some moment of a time span, with their times.

        Args:
            start_seconds: Start of the span, counted from the first frame's appearance; the frame on screen
                at this time is the first.
            stop_seconds: End of the span, in `start_seconds` … `duration`. A frame that appears only then is
                excluded; a span of zero length has no frames.

        Raises:
            IndexError: A span outside the video.
            VideoError: As in `frames_at`.
        """
        if not -_TIME_TOLERANCE <= start_seconds <= stop_seconds <= self.duration + _TIME_TOLERANCE:
            raise IndexError(
                f"{self.path}: {start_seconds} to {stop_seconds} s is not a span within 0 … "
                f"{self.duration:.6f} s"
            )
        start = self.index_at(start_seconds)
        stop = int(np.searchsorted(self.times, stop_seconds - _TIME_TOLERANCE, side="left"))
        return self.frames_in(start, start if start_seconds == stop_seconds else max(start, stop))

    def index_at(self, seconds: float) -> int:
        """Find the frame that is shown at a time.

        Args:
            seconds: Time from the first frame's appearance, in 0 … `duration`. `duration` itself means
                the last frame.

        Returns:
            The frame's number.

        Raises:
            IndexError: A time outside the video.
        """
        if not -_TIME_TOLERANCE <= seconds <= self.duration + _TIME_TOLERANCE:
            raise IndexError(f"{self.path}: {seconds} s is outside 0 … {self.duration:.6f} s")
        return max(int(np.searchsorted(self.times, seconds + _TIME_TOLERANCE, side="right")) - 1, 0)

    def close(self) -> None:
        """Close the file. After that, frames cannot be read."""
        with self._lock:
            self._reader.release()
            self._closed = True

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{len(self)} frames of {self.width} × {self.height}"
        return f"Video({os.fspath(self.path)!r}: {size}, {self.duration:.3f} s)"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def _checked(self, indices: Sequence[int] | Int64s) -> Int64s:
        if self._closed:
            raise VideoError(self.path, "is closed; open it again with Video(path)")
        wanted = np.asarray(indices)
        if wanted.size == 0:
            return np.zeros(0, dtype=np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise TypeError(f"frame numbers must be a list of integers, got {wanted.dtype} {wanted.shape}")
        outside = wanted[(wanted < 0) | (wanted >= len(self))]
        if outside.size:
            raise IndexError(f"{self.path}: frame {outside[0]} is outside 0 … {len(self) - 1}")
        return wanted.astype(np.int64)


def _local(path: str | os.PathLike[str]) -> str:
    try:
        return local_name(path)
    except ManifestError as error:
        raise VideoError(path, str(error).removeprefix(f"{os.fspath(path)}: ")) from error


def _on_one(image: Image, transform: ImagesTransform) -> Image:
    """Return an image H W C after a transform of frames 1 H W C."""
    return transform(np.ascontiguousarray(image)[None])[0]


def _on_tensors(images: Images, transform: Callable[[torch.Tensor], torch.Tensor]) -> Images:
    """Return frames N H W C after a transform of tensors N C H W."""
    import torch

    return transform(torch.from_numpy(images).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
