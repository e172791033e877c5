"""Decode numbered frames of one file, in any order.

Legend: T frames, C = 3 channels (RGB), H height, W width.

Exactness: all packets are read once, without decoding, for the time stamp of every frame. A call then decodes
from the nearest key frame and finds its frames by their time stamps. Each decoded frame is checked against
the table. Some files do not have exactly one frame per packet: AVI with B-frames, MPEG streams, missing or
repeated time stamps, damaged packets. For these, or if a check fails, the whole file is decoded once without
keeping pixels, and the result replaces the table.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
import numpy.typing as npt
import torch

from t3d.errors import VideoError
from t3d.video.frame_table import FrameTable, Int64s, read_table, scan_table
from t3d.video.limits import ReadLimits, TimeLimit, check_frame_size
from t3d.video.orientation import Image, Orientation
from t3d.video.remarks import SCALED, hdr_remark, size_remark
from t3d.video.stream import Stream, size_of

if TYPE_CHECKING:
    from t3d.video.facts import VideoFacts

Transform = Callable[[torch.Tensor], torch.Tensor]

# Decoding this many frames forward costs no more than a seek.
_SLACK = 6
# Open decoders of a parent process: freeing them after a fork would wait for missing threads.
_left_by_fork: list[Stream] = []


class _DisagreementError(Exception):
    """The decoder returned a frame that does not match the table."""


class _Call:
    """Frames wanted by the current call; separate from the reader, so its decoder does not keep it alive."""

    def __init__(self) -> None:
        self.wanted: list[int] = []  # time stamps, ascending

    def needless(self, stamp: int) -> bool:
        """Return whether neither this call nor a continuation needs the frame of this time stamp."""
        place = bisect_left(self.wanted, stamp)
        return place < len(self.wanted) and self.wanted[place] != stamp


class FrameReader:
    """The frame table of a file and, while frames are read, its open decoder.

    It can be pickled and survives a fork; the file is then opened again. It is not thread-safe: `Video`
    serializes the calls.

    Args:
        path: The file.
        threads: Decoding threads.
        facts: Facts from an index, so that the file need not be read through.
        limits: Largest frame, and time limit.

    Attributes:
        table: When each frame is shown, and where decoding can start.
        size: Height and width of a frame in pixels, as displayed.
        orientation: How stored frames are rotated for display.
        codec: FFmpeg's name of the codec.
        damage: What is wrong with the file, as far as known.
        remarks: What else is unusual about it, as far as known.

    Raises:
        VideoError: None of the file's frames can be decoded, its size differs from that in `facts`, or it
            exceeds a limit.
    """

    def __init__(self, path: Path, *, threads: int, facts: VideoFacts | None, limits: ReadLimits) -> None:
        self.path = path
        self.remarks: list[str] = []
        self._max_megapixels = limits.max_megapixels
        self._time_limit = TimeLimit(path, limits.timeout)
        self.damage: str | None = None
        self._threads = threads
        self._member = None if facts is None else facts.member(path)
        self._stream: Stream | None = None
        self._frames: Iterator[av.VideoFrame] | None = None  # the decoder's next frames
        self._known_errors = 0  # of the stream, when decoding began
        self._next = 0  # number of the next frame, in the table or (by count) in the decoder's output
        self._call = _Call()
        self._pid = os.getpid()
        try:
            with self._time_limit:
                self.table = self._index() if facts is None else self._trust(facts)
        except BaseException:
            self.release()
            raise

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds at which each frame appears, counted from the first, float64 [T], ascending."""
        return (self.table.pts - self.table.pts[0]) * float(self.table.time_base)

    def read(self, numbers: Int64s, *, transform: Transform | None = None) -> torch.Tensor:
        """Decode the frames with these numbers, each once, in any order and with repeats.

        Args:
            numbers: Frame numbers within the table, int64 [T].
            transform: See `Video.frames_at`.

        Returns:
            RGB, uint8 T C H W in the order of `numbers`, the colors of a pixel adjacent in memory.

        Raises:
            VideoError: A frame cannot be decoded, or the time limit is over.
        """
        with self._time_limit:
            try:
                return self._collect(numbers, transform)
            except _DisagreementError:
                self.table = self._scan(self.table)
                return self._collect(numbers, transform)

    def release(self) -> None:
        """Close the file. `read` opens it again."""
        if self._stream is not None and self._foreign():
            _left_by_fork.append(self._stream)
        elif self._stream is not None:
            self._frames = None
            self._stream.close()
        self._stream = self._frames = None

    def __del__(self) -> None:
        # PyAV's containers and streams reference each other: files would stay open until garbage collection.
        if "_stream" in self.__dict__:
            self.release()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_stream": None, "_frames": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._pid = os.getpid()

    def _collect(self, wanted: Int64s, transform: Transform | None) -> torch.Tensor:
        out = np.empty(
            (len(wanted), *(self.size if transform is None else (0, 0)), 3), dtype=np.uint8
        )  # T H W C
        first: dict[int, int] = {}
        for place, number in enumerate(wanted.tolist()):
            first.setdefault(number, place)
        try:
            numbers = sorted(first)
            self._call.wanted = self.table.pts[numbers].tolist()
            for number in numbers:
                image = self._pixels(number)
                if transform is not None:  # now, so that one frame of full size is in memory
                    image = _transformed(image, transform)
                    if out.shape[1:] != image.shape:
                        out = np.empty((len(wanted), *image.shape), dtype=np.uint8)
                out[first[number]] = image
        except BaseException:
            self.release()
            raise
        for place, number in enumerate(wanted.tolist()):
            if place != first[number]:
                out[place] = out[first[number]]
        return torch.from_numpy(out).permute(0, 3, 1, 2)  # T C H W

    def _pixels(self, number: int) -> Image:
        frame = self._by_time(number) if self.table.order is None else self._by_count(number)
        assert self._stream is not None
        if (frame.height, frame.width) == self._stored_size:
            return self.orientation.apply(self._stream.rgb(frame))
        if SCALED not in f"{self.damage}{self.remarks}":
            self.remarks.append(size_remark(number, frame, self._stored_size))
        return self.orientation.apply(self._stream.rgb(frame, shape=self._stored_size))

    def _by_time(self, number: int) -> av.VideoFrame:
        table = self.table
        key = self._go_to(number)
        for frame in self._frames or ():
            if frame.pts is None or frame.is_corrupt or self._new_error():
                break
            if key is not None and frame.pts < table.pts[self._next]:
                continue  # the container went too far back, or returns frames of the previous group
            if key is not None and frame.pts == key and not frame.key_frame:
                break  # not a valid start: later frames may depend on frames before it
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
        """Move the decoder before a frame; return the key frame's time stamp, or None if it did not seek."""
        running = self._frames is not None and not self._foreign() and number >= self._next
        if running and number <= self._next + _SLACK:
            return None
        table = self.table
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
        assert self.table.order is not None
        place = int(self.table.order[number])
        if place < 0:
            reason = f"frame {number}, at {self.times[number]:.3f} s, cannot be decoded: {self.damage}"
            raise VideoError(self.path, reason)
        if self._frames is None or self._foreign() or place < self._next:
            self.release()
            self._frames, self._next = self._open().frames(), 0
        for frame in self._frames:
            self._next += 1
            if self._next > place:
                return frame
        raise VideoError(self.path, f"frame {number} is gone; the file has changed since it was opened")

    def _open(self) -> Stream:
        if self._foreign():
            self.release()
        if self._stream is None:
            self._stream = Stream(
                self.path,
                threads=self._threads,
                member=self._member,
                max_megapixels=self._max_megapixels,
                time_limit=self._time_limit,
            )
            self._pid = os.getpid()
        return self._stream

    def _foreign(self) -> bool:
        return self._pid != os.getpid()

    def _index(self) -> FrameTable:
        stream = self._open()
        packets = read_table(stream)
        self.damage = packets.damage
        self.codec = stream.codec
        self.remarks = [remark for remark in (hdr_remark(packets.first),) if remark]
        self._shape((packets.first.height, packets.first.width), Orientation.of_frame(packets.first))
        return packets.table if packets.sure else self._scan(packets.table, opening=True)

    def _trust(self, facts: VideoFacts) -> FrameTable:
        # A shard is checked when frames are read: until then it need not be on this machine.
        size = facts.size if self._member is not None else size_of(self.path)
        if size != facts.size:
            reason = (
                f"has {size} bytes, and had {facts.size} when it was indexed; run t3d prepare index again"
            )
            raise VideoError(self.path, reason)
        height, width = facts.stored_size
        check_frame_size(self.path, height, width, max_megapixels=self._max_megapixels)
        self.damage = facts.damage
        self.codec = facts.codec
        self._shape(facts.stored_size, facts.orientation)
        return facts.table

    def _shape(self, stored_size: tuple[int, int], orientation: Orientation) -> None:
        self._stored_size, self.orientation = stored_size, orientation
        self.size = orientation.size(stored_size)

    def _scan(self, table: FrameTable, *, opening: bool = False) -> FrameTable:
        self.release()
        table, damage = scan_table(self._open(), table, opening=opening)
        self.release()
        self.damage = damage or self.damage
        return table


def _transformed(image: Image, transform: Transform) -> Image:
    """Return an image H W C after a transform of frames N C H W."""
    frame = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).unsqueeze(0)
    return cast(Image, transform(frame)[0].permute(1, 2, 0).numpy())
