"""Decode numbered frames of one file, in any order.

Legend: T frames, C = 3 channels (RGB), H height, W width.

Exactness: all packets are read once, without decoding, for the time stamp of every frame; of MPEG-4 AVI, the
index is compared with the bytes instead (`t3d.video.avi_index`), which gives the same. A call then decodes
from the nearest key frame and finds its frames by their time stamps. Each decoded frame is checked against
the table. The decoder is strict: it must not cover up damage with parts of frames that were decoded before.
Some files do not have exactly one frame per packet: AVI with B-frames, MPEG streams, missing or repeated time
stamps, damaged packets. For these, or if a check fails, the whole file is decoded once without keeping
pixels, and the result replaces the table. From then on, frames of a sound file are found by time stamp and
compared with their signatures; frames of other files are decoded from the start, in order.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt

from t3d.errors import VideoError
from t3d.video.frame_table import HIDDEN_ERRORS, Int64s, damage_of, scan_table
from t3d.video.limits import ReadLimits, TimeLimit
from t3d.video.missing import nearest_decodable
from t3d.video.opening import open_file, open_indexed
from t3d.video.orientation import Image
from t3d.video.remarks import SCALED, joined, size_remark
from t3d.video.signature import signature
from t3d.video.stream import WRONG_PLACES, Stream

if TYPE_CHECKING:
    from t3d.video.facts import VideoFacts

Transform = Callable[[Image], Image]
# Decoding this many frames forward costs no more than a seek.
_SLACK = 6
# Open decoders of a parent process: freeing them after a fork would wait for missing threads.
_left_by_fork: list[Stream] = []


class _DisagreementError(Exception):
    """The decoder returned a frame that does not match the table.

    Args:
        note: What is wrong with the file, if that is clear.
    """

    def __init__(self, note: str | None = None) -> None:
        super().__init__(note)
        self.note = note


class _Call:
    """Frames wanted by the current call; separate from the reader, so its decoder does not keep it alive."""

    def __init__(self) -> None:
        self.wanted: list[int] = []  # time stamps, ascending
        self.unchained: set[int] = set()  # time stamps, see `Stream.frames`

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
        threads: Decoding threads. Damaged files and those decoded in order use one.
        facts: Facts from an index, so that the file need not be read through.
        limits: Largest frame, and time limit.
        tonemap: See `Video`.

    Attributes:
        table: When each frame is shown, and where decoding can start.
        size: Height and width of a frame in pixels, as displayed.
        orientation: How stored frames are rotated for display.
        codec: FFmpeg's name of the codec.

    Raises:
        VideoError: None of the file's frames can be decoded, its size differs from that in `facts`, or it
            exceeds a limit.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        facts: VideoFacts | None,
        limits: ReadLimits,
        tonemap: bool = False,
    ) -> None:
        self.path = path
        self._tonemap = tonemap
        self._max_megapixels = limits.max_megapixels
        self._time_limit = TimeLimit(path, limits.timeout)
        self._notes: tuple[
            str, ...
        ] = ()  # what is wrong with the file; see `Opening`, also for the next ones
        self._remarks: list[str] = []
        self._landings: Mapping[int, int]
        self._signatures: Mapping[int, int] | None
        self._pixel_aspect: Fraction | None
        self._starts: list[int] | None = None  # see `_group_starts`
        self._strict = True  # until frames are decoded in order
        self._threads = threads
        self._member = None if facts is None else facts.member(path)
        self._stream: Stream | None = None
        self._frames: Iterator[av.VideoFrame] | None = None  # the decoder's next frames
        # Decoders fill gaps in damaged frames with the old contents of their buffers. For that to be the same
        # each time, every frame lives until the next one is decoded, whether it is returned or passed over.
        self._held: av.VideoFrame | None = None
        self._known_errors = 0  # of the stream, when decoding began
        self._next = 0  # number of the next frame, in the table or (by count) in the decoder's output
        self._call = _Call()
        self._pid = os.getpid()
        try:
            with self._time_limit:
                self._start(facts)
        except BaseException:
            self.release()
            raise

    @property
    def damage(self) -> str | None:
        """Damage of the file, and remarks about it, as far as known."""
        return joined(damage_of(*self._notes), *self._remarks)

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a displayed pixel divided by its height."""
        if self._pixel_aspect is None:  # an older index does not know it
            self._pixel_aspect = self.orientation.pixel_aspect(self._open().pixel_aspect)
        return self._pixel_aspect

    @property
    def missing(self) -> Int64s:
        """Numbers of the frames that cannot be decoded, as far as known, int64 [M]."""
        order = self.table.order
        return np.flatnonzero(order < 0) if order is not None else np.zeros(0, dtype=np.int64)

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """Seconds at which each frame appears, counted from the first, float64 [T], ascending."""
        return (self.table.pts - self.table.pts[0]) * float(self.table.time_base)

    def read(
        self, numbers: Int64s, *, nearest: bool = False, transform: Transform | None = None
    ) -> npt.NDArray[np.uint8]:
        """Decode the frames with these numbers, each once, in any order and with repeats.

        Args:
            numbers: Frame numbers within the table, int64 [T].
            nearest: Replace a frame that cannot be decoded by the nearest one that can, the earlier one of
                two.
            transform: Applied to each frame H W C as it is decoded. Its results are returned instead.

        Returns:
            RGB, uint8 T H W C in the order of `numbers`.

        Raises:
            VideoError: The time limit is over, or a frame cannot be decoded; with `nearest`, a frame and more
                than 10 % of the video cannot be decoded.
        """
        with self._time_limit:
            try:
                return self._collect(self._nearest(numbers) if nearest else numbers, transform)
            except _DisagreementError as error:
                self._scan_again(error.note)
                return self._collect(self._nearest(numbers) if nearest else numbers, transform)

    def check(self, signatures: dict[int, int]) -> str | None:
        """Decode the whole file again, the last group first, and compare it with decoding in order.

        Args:
            signatures: Signature of each frame, by number.

        Returns:
            None if all frames are the same; else what is wrong with the file, empty if nothing is.
        """
        self._signatures = signatures
        count = len(self.table.pts)
        starts = {0, *np.searchsorted(self.table.pts, self.table.key_pts).tolist()} - {count}
        groups = list(pairwise([*sorted(starts), count]))
        try:
            # The last one once more: a decoder that keeps something through a seek has seen all the others.
            for start, stop in [*reversed(groups), groups[-1]]:
                self._call.wanted = self.table.pts[start:stop].tolist()
                for number in range(start, stop):
                    self._by_time(number)
        except _DisagreementError as error:
            return error.note or ""
        finally:
            self.release()
        return None

    def release(self) -> None:
        """Close the file. `read` opens it again."""
        if self._stream is not None and self._foreign():
            _left_by_fork.append(self._stream)
        elif self._stream is not None:
            self._frames = None
            self._stream.close()
        self._stream = self._frames = self._held = None

    def __del__(self) -> None:
        # PyAV's containers and streams reference each other: files would stay open until garbage collection.
        if "_stream" in self.__dict__:
            self.release()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_stream": None, "_frames": None, "_held": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._pid = os.getpid()

    def _collect(self, wanted: Int64s, transform: Transform | None) -> npt.NDArray[np.uint8]:
        height, width = self.size if transform is None or not len(wanted) else (0, 0)
        out = np.empty((len(wanted), height, width, 3), dtype=np.uint8)  # T H W C
        first: dict[int, int] = {}
        for place, number in enumerate(wanted.tolist()):
            first.setdefault(number, place)
        try:
            numbers = sorted(first)
            self._call.wanted = self.table.pts[numbers].tolist()
            self._call.unchained.clear()
            if self.codec == "mpeg4" and self.table.order is None:
                self._call.unchained.update(self._unchained(numbers))
            for number in numbers:
                image = self._pixels(number)
                if transform is not None:  # now, so that one frame of full size is in memory
                    image = transform(image)
                    if out.shape[1:] != image.shape:
                        out = np.empty((len(wanted), *image.shape), dtype=np.uint8)
                out[first[number]] = image
        except BaseException:
            self.release()
            raise
        for place, number in enumerate(wanted.tolist()):
            if place != first[number]:
                out[place] = out[first[number]]
        return out

    def _pixels(self, number: int) -> Image:
        frame = self._by_time(number) if self.table.order is None else self._by_count(number)
        assert self._stream is not None
        if (frame.height, frame.width) == self._stored_size:
            return self.orientation.apply(self._stream.rgb(frame))
        if SCALED not in (self.damage or ""):
            self._remarks.append(size_remark(number, frame, self._stored_size))
        return self.orientation.apply(self._stream.rgb(frame, shape=self._stored_size))

    def _nearest(self, numbers: Int64s) -> Int64s:
        return nearest_decodable(self.path, numbers, self.table, damage=self.damage)

    def _by_time(self, number: int) -> av.VideoFrame:
        key = self._go_to(number)
        pts = self.table.pts
        stamp = pts.item(self._next)
        for frame in self._frames or ():
            self._held = frame
            assert self._stream is not None
            if len(self._stream.errors) > self._known_errors:
                raise _DisagreementError(
                    WRONG_PLACES if WRONG_PLACES in self._stream.errors else HIDDEN_ERRORS
                )
            shown = frame.pts
            if shown is None or frame.is_corrupt:
                break
            if key is not None:
                if shown < stamp:
                    continue  # the container went too far back, or returns frames of the previous group
                if shown == key and not frame.key_frame:
                    break  # not a valid start: later frames may depend on frames before it
                key = None
            if shown != stamp:
                self._pass_over(frame)
            self._next += 1
            if self._next > number:
                if self._signatures is not None and signature(frame) != self._signatures[number]:
                    # Without an error only where the first packet holds a palette for all.
                    raise _DisagreementError(None if frame.format.has_palette else WRONG_PLACES)
                return frame
            stamp = pts.item(self._next)
        raise _DisagreementError(HIDDEN_ERRORS if self._frames is not None and self._new_error() else None)

    def _pass_over(self, frame: av.VideoFrame) -> None:
        """Count the frames up to this one, which must be those that were passed over."""
        assert self._stream is not None
        if self._stream.chained and not frame.key_frame:
            raise _DisagreementError  # it may depend on those
        while frame.pts != self.table.pts[self._next]:
            if int(self.table.pts[self._next]) not in self._stream.passed_over:
                raise _DisagreementError
            self._next += 1

    def _group_starts(self) -> list[int]:
        """Return the number of the first frame from each key frame on."""
        if self._starts is None:
            self._starts = np.searchsorted(self.table.pts, self.table.key_pts).tolist()
        return self._starts

    def _unchained(self, numbers: Sequence[int]) -> Iterator[int]:
        """Yield the time stamps of frames after a wanted one and before the key frame of the next one."""
        starts = self._group_starts()
        for number, following in pairwise(numbers):
            start = starts[max(bisect_right(starts, following) - 1, 0)]
            if number + 1 < start <= number + 1 + _SLACK:
                yield from self.table.pts[number + 1 : start].tolist()

    def _go_to(self, number: int) -> int | None:
        """Move the decoder before a frame; return the key frame's time stamp, or None if it did not seek."""
        running = self._frames is not None and number >= self._next and not self._foreign()
        if running and number <= self._next + _SLACK:
            return None
        table = self.table
        starts = self._group_starts()
        key = max(bisect_right(starts, number) - 1, 0)
        start = starts[key]
        if running and start <= self._next + _SLACK:
            return None
        try:
            stream = self._open()
            stream.seek(int(table.key_seek[key]))
        except VideoError as error:
            raise _DisagreementError from error
        stamp = int(table.key_pts[key])
        landing = (stamp, self._landings.get(stamp))
        call = self._call
        self._frames = stream.frames(call.needless, unchained=call.unchained, landing=landing)
        self._next = start
        self._known_errors = len(stream.errors)
        return stamp

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
            self._held = frame
            self._next += 1
            if self._next > place:
                return frame
        raise VideoError(self.path, f"frame {number} is gone; the file has changed since it was opened")

    def _open(self) -> Stream:
        if self._foreign():
            self.release()
        if self._stream is None:
            # Several threads may cover up damage differently each time, and mix up parameters that change.
            threads = self._threads if self._strict and not self._notes else 1
            self._stream = Stream(
                self.path,
                threads=threads,
                member=self._member,
                strict=self._strict,
                max_megapixels=self._max_megapixels,
                time_limit=self._time_limit,
                tonemap=self._tonemap,
            )
            self._pid = os.getpid()
        return self._stream

    def _reopen(self, strict: bool) -> Stream:
        self.release()
        self._strict = strict
        return self._open()

    def _foreign(self) -> bool:
        return self._pid != os.getpid()

    def _start(self, facts: VideoFacts | None) -> None:
        """Take the facts about the file from an index, or read it through."""
        limit = self._max_megapixels
        opening = None if facts is None else open_indexed(self.path, facts, max_megapixels=limit)
        if opening is None:
            opening = open_file(self._reopen)
            if opening.scanned or not self._strict:
                self.release()
        self.table, self.codec, self.orientation = opening.table, opening.codec, opening.orientation
        self._stored_size, self._pixel_aspect = opening.stored_size, opening.pixel_aspect
        self.size = self.orientation.size(self._stored_size)
        self._notes, self._remarks = opening.notes, list(opening.remarks)
        self._landings, self._signatures = opening.landings, opening.signatures
        self._strict = opening.table.order is None

    def _scan_again(self, note: str | None) -> None:
        """Decode the file from start to end after its table failed, and count frames from then on."""
        scanned = scan_table(self._reopen(False), self.table, promised=True, trusted=False)
        self.release()
        self.table, self._starts, self._signatures = scanned.table, None, None
        self._notes += scanned.notes
        if note is not None and (note == WRONG_PLACES or not scanned.notes):
            self._notes += (note,)
