"""Exact random access to the frames of a video file.

Legend: T frames, C = 3 channels (RGB), H height, W width.

How it is exact: all packets are read once, without decoding, for the time stamp of every frame. A call then
decodes from the nearest key frame and finds its frames by their time stamps, checking each frame that comes
by against the table. Where one packet need not be one frame (AVI with B-frames, MPEG streams, missing or
repeated time stamps, damaged packets), or where a check fails, the whole file is decoded once without
keeping pixels, and what that gives is the truth.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt
import torch

from t3d.errors import VideoError
from t3d.video.frame_table import FrameTable, Int64s, read_table, scan_table
from t3d.video.stream import Stream, orientation, size_of, turned

if TYPE_CHECKING:
    from t3d.video.facts import VideoFacts

# Going on decoding over this many frames costs no more than a seek.
_SLACK = 6
# Half of the finest tick in use, 1/90000 s: a time computed as 3 / 29.97 must find frame 3.
_TIME_TOLERANCE = 5e-6
# Open decoders of a parent process: freeing them after a fork would wait for threads that are not there.
_left_by_fork: list[Stream] = []


class _DisagreementError(Exception):
    """The decoder gave another frame than the table has."""


class _Call:
    """What the present call asks for; apart from `Video`, so that its decoder does not hold it alive."""

    def __init__(self) -> None:
        self.wanted: list[int] = []  # time stamps, ascending

    def needless(self, stamp: int) -> bool:
        """Whether neither this call nor one that goes on from it looks at the frame of this time stamp."""
        place = bisect_left(self.wanted, stamp)
        return place < len(self.wanted) and self.wanted[place] != stamp


class Video:
    """A video file as a sequence of frames: frame i is the i-th that decoding from start to end gives.

    The number of frames, their times and the size come from reading and decoding, never from the header.
    Rotation and mirroring that the file asks for are done (to the nearest quarter turn), any pixel format
    becomes RGB by the colour space and range that the stream states, alpha is dropped. Cover pictures are no
    video; of several video streams FFmpeg's best is read.

    A `Video` can be pickled, survives a fork, and may be shared by threads (calls wait for each other). After
    an error it stays usable.

    Args:
        path: The file.
        threads: Decoding threads. 1 is best where many videos are read by many processes.
        facts: What an index knows of the file (`t3d.data.index`), so that it is not read through.

    Attributes:
        path: The file.
        num_frames: Number of frames, T.
        height: Height in pixels, as shown.
        width: Width in pixels, as shown.
        damage: What is wrong with a file that can be read only in part, as far as reading it has shown so
            far; None when nothing is known to be wrong.

    Raises:
        VideoError: The file is missing, empty, no video, or none of its frames can be decoded; or it is not
            as long as `facts` say.

    Example:
        >>> from t3d.video.encode import write_video
        >>> path = write_video("grey.mp4", torch.full((40, 3, 64, 96), 128, dtype=torch.uint8))
        >>> with Video(path) as video:
        ...     video.frames_at(range(0, 32, 2)).shape
        torch.Size([16, 3, 64, 96])
    """

    def __init__(
        self, path: str | os.PathLike[str], *, threads: int = 1, facts: VideoFacts | None = None
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}; it must be at least 1")
        self.path = Path(path)
        self.damage: str | None = None
        self._threads = threads
        self._member = None if facts is None else facts.member(self.path)
        self._closed = False
        self._stream: Stream | None = None
        self._frames: Iterator[av.VideoFrame] | None = None  # what the decoder gives next
        self._known_errors = 0  # of the stream, when decoding began
        self._next = 0  # which frame that is, counted in the table or (by count) in the decoder's output
        self._call = _Call()
        self._lock = threading.RLock()
        self._pid = os.getpid()
        try:
            self._table = self._index() if facts is None else self._trust(facts)
        except BaseException:
            self._forget()
            raise

    @property
    def num_frames(self) -> int:
        """Number of frames, T."""
        return len(self._table.pts)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds at which each frame appears, counted from the first, float64 [T], ascending."""
        return (self._table.pts - self._table.pts[0]) * float(self._table.time_base)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's appearance to the last frame's end."""
        ticks = int(self._table.pts[-1] - self._table.pts[0]) + self._table.last
        return float(ticks * self._table.time_base)

    @property
    def average_fps(self) -> float:
        """Frames per second on average, `num_frames / duration`."""
        return self.num_frames / self.duration

    def frames_at(self, indices: Sequence[int] | Int64s) -> torch.Tensor:
        """Decode the frames with these numbers, each once, in any order and with repeats.

        Args:
            indices: Frame numbers in 0 … `num_frames` - 1.

        Returns:
            RGB, uint8 T C H W in the order of `indices`, with the colours of a pixel side by side in memory
            (`channels_last`), as FFmpeg gives them.

        Raises:
            IndexError: A number outside the video.
            VideoError: A frame that cannot be decoded or has another size than the first, or a closed video.
        """
        with self._lock:
            wanted = self._checked(indices)
            try:
                return self._collect(wanted)
            except _DisagreementError:
                self._table = self._scan(self._table)
                return self._collect(wanted)

    def index_at(self, seconds: float) -> int:
        """Find the frame that is shown at a time.

        Args:
            seconds: Time from the first frame's appearance, in 0 … `duration`; at `duration` itself the last
                frame is meant.

        Returns:
            The frame's number.

        Raises:
            IndexError: A time outside the video.
        """
        if not -_TIME_TOLERANCE <= seconds <= self.duration + _TIME_TOLERANCE:
            raise IndexError(f"{self.path}: {seconds} s is outside 0 … {self.duration:.6f} s")
        return max(int(np.searchsorted(self.times, seconds + _TIME_TOLERANCE, side="right")) - 1, 0)

    def frames_at_times(self, seconds: Sequence[float]) -> torch.Tensor:
        """Decode the frames shown at these times; `index_at` says which, `frames_at` what comes back."""
        return self.frames_at([self.index_at(second) for second in seconds])

    def close(self) -> None:
        """Let go of the file; frames cannot be read afterwards."""
        with self._lock:
            self._forget()
            self._closed = True

    def __len__(self) -> int:
        return self.num_frames

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # PyAV's containers and streams hold each other: else files stay open until a garbage collection.
        if "_stream" in self.__dict__:
            self._forget()

    def __repr__(self) -> str:
        size = f"{self.num_frames} frames of {self.width} × {self.height}"
        return f"Video({os.fspath(self.path)!r}: {size}, {self.duration:.3f} s)"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_stream": None, "_frames": None, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        self._pid = os.getpid()

    # ---- from here on: how ----

    def _checked(self, indices: Sequence[int] | Int64s) -> Int64s:
        if self._closed:
            raise VideoError(self.path, "is closed; open it again with Video(path)")
        wanted = np.asarray(indices)
        if wanted.size == 0:
            return np.zeros(0, dtype=np.int64)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise TypeError(f"frame numbers must be a list of integers, got {wanted.dtype} {wanted.shape}")
        outside = wanted[(wanted < 0) | (wanted >= self.num_frames)]
        if outside.size:
            raise IndexError(f"{self.path}: frame {outside[0]} is outside 0 … {self.num_frames - 1}")
        return wanted.astype(np.int64)

    def _collect(self, wanted: Int64s) -> torch.Tensor:
        out = np.empty((len(wanted), self.height, self.width, 3), dtype=np.uint8)  # T H W C
        first: dict[int, int] = {}
        for place, number in enumerate(wanted.tolist()):
            first.setdefault(number, place)
        try:
            numbers = sorted(first)
            self._call.wanted = self._table.pts[numbers].tolist()
            for number in numbers:
                out[first[number]] = self._pixels(number)
        except BaseException:
            self._forget()
            raise
        for place, number in enumerate(wanted.tolist()):
            if place != first[number]:
                out[place] = out[first[number]]
        return torch.from_numpy(out).permute(0, 3, 1, 2)  # T C H W

    def _pixels(self, number: int) -> npt.NDArray[np.uint8]:
        frame = self._by_time(number) if self._table.order is None else self._by_count(number)
        if (frame.height, frame.width) != self._stored_size:
            height, width = self._stored_size
            reason = (
                f"frame {number} is {frame.width} × {frame.height} but the first is {width} × {height}; "
                "a video that changes its size must be transcoded first"
            )
            raise VideoError(self.path, reason)
        assert self._stream is not None
        return turned(self._stream.rgb(frame), self._orientation)

    def _by_time(self, number: int) -> av.VideoFrame:
        table = self._table
        key = self._go_to(number)
        for frame in self._frames or ():
            if frame.pts is None or frame.is_corrupt or self._new_error():
                break
            if key is not None and frame.pts < table.pts[self._next]:
                continue  # the container went further back than asked, or shows frames of the group before
            if key is not None and frame.pts == key and not frame.key_frame:
                break  # not a place to start from: what follows may lean on frames before it
            while frame.pts != table.pts[self._next]:
                if not self._call.needless(int(table.pts[self._next])):
                    raise _DisagreementError
                self._next += 1
            key = None
            self._next += 1
            if self._next > number:
                return frame
        raise _DisagreementError

    def _go_to(self, number: int) -> int | None:
        """Bring the decoder before a frame; gives the key frame's time stamp, or None if it just goes on."""
        running = self._frames is not None and not self._foreign() and number >= self._next
        if running and number <= self._next + _SLACK:
            return None
        table = self._table
        key = max(int(np.searchsorted(table.key_pts, table.pts[number], side="right")) - 1, 0)
        start = int(np.searchsorted(table.pts, table.key_pts[key]))
        if running and start <= self._next + _SLACK:
            return None
        try:
            stream = self._open()
            stream.seek(int(table.key_seek[key]))
        except VideoError as error:
            raise _DisagreementError from error
        self._frames, self._next = stream.frames(self._call.needless), start
        self._known_errors = len(stream.errors)
        return int(table.key_pts[key])

    def _new_error(self) -> bool:
        assert self._stream is not None
        return len(self._stream.errors) > self._known_errors

    def _by_count(self, number: int) -> av.VideoFrame:
        assert self._table.order is not None
        place = int(self._table.order[number])
        if place < 0:
            reason = f"frame {number}, at {self.times[number]:.3f} s, cannot be decoded: {self.damage}"
            raise VideoError(self.path, reason)
        if self._frames is None or self._foreign() or place < self._next:
            self._forget()
            self._frames, self._next = self._open().frames(), 0
        for frame in self._frames:
            self._next += 1
            if self._next > place:
                return frame
        raise VideoError(self.path, f"frame {number} is gone; the file has changed since it was opened")

    def _open(self) -> Stream:
        if self._foreign():
            self._forget()
        if self._stream is None:
            self._stream = Stream(self.path, threads=self._threads, member=self._member)
            self._pid = os.getpid()
        return self._stream

    def _foreign(self) -> bool:
        return self._pid != os.getpid()

    def _forget(self) -> None:
        if self._stream is not None and self._foreign():
            _left_by_fork.append(self._stream)
        elif self._stream is not None:
            self._frames = None
            self._stream.close()
        self._stream = self._frames = None

    def _index(self) -> FrameTable:
        stream = self._open()
        found = read_table(stream)
        self.damage = found.damage
        self._shape((found.first.height, found.first.width), orientation(found.first))
        return found.table if found.sure else self._scan(found.table, opening=True)

    def _trust(self, facts: VideoFacts) -> FrameTable:
        # A shard is looked at when frames are asked for: until then it need not be here.
        size = facts.size if self._member is not None else size_of(self.path)
        if size != facts.size:
            reason = (
                f"has {size} bytes, and had {facts.size} when it was indexed; run t3d prepare index again"
            )
            raise VideoError(self.path, reason)
        self.damage = facts.damage
        self._shape(facts.stored_size, facts.orientation)
        return facts.table

    def _shape(self, stored: tuple[int, int], how: tuple[bool, bool, bool]) -> None:
        self._stored_size, self._orientation = stored, how
        self.height, self.width = stored[::-1] if how[0] else stored

    def _scan(self, table: FrameTable, *, opening: bool = False) -> FrameTable:
        self._forget()
        table, damage = scan_table(self._open(), table, opening=opening)
        self._forget()
        self.damage = damage or self.damage
        return table
