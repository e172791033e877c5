"""The process that reads a live source: it decodes frames, and writes the chosen ones to the ring.

One process reads one connection. `t3d.live.feed` starts another one if it ends, and kills it if it hangs.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.connection import Connection
from typing import TypeAlias

import av
import av.container
import av.logging
import av.video
from av.stream import Discard

from t3d.clip import ClipSpec
from t3d.data.clips.numpy_pixels import center_crop, resize
from t3d.data.clips.shapes import resized_shape
from t3d.errors import VideoError, without_credentials
from t3d.live.address import Address
from t3d.live.clips import JUMP, FrameChooser
from t3d.live.pace import Lag, Pace
from t3d.live.problems import Problem, opening_problem, reading_problem
from t3d.live.ring import FrameRing, RingPlan
from t3d.video.limits import ReadLimits, check_frame_size
from t3d.video.orientation import Orientation
from t3d.video.rgb import RGBConverter, stored_pixel_aspect
from t3d.video.stream import FORMATS
from t3d.video.video import Images

# Of segments of HLS, too. Only web sources are limited: a web server may send anything.
_WEB_FORMATS = f"{FORMATS},hls,dash,aac,mp3,ac3,eac3,webvtt"
_SEGMENTED = ("hls", "dash")
_PATIENCE = 3  # times `timeout`: for the next segment, and for the first key frame
_NAP = 0.5  # seconds after which a process that waits shows that it lives


@dataclass(frozen=True)
class Opened:
    """A source was opened.

    Args:
        width: Width of a frame, in pixels.
        height: Height of a frame, in pixels.
        fps: Frames per second that the source announces; None if it does not.
        codec: FFmpeg's name of the codec.
        finite: Whether the source has an end, as a file does.
    """

    width: int
    height: int
    fps: float | None
    codec: str
    finite: bool


@dataclass(frozen=True)
class Resized:
    """Frames have another size from now on, in pixels."""

    width: int
    height: int


@dataclass(frozen=True)
class Ended:
    """A source with an end was read to its end."""


Event: TypeAlias = Opened | Resized | Ended | Problem
Opener: TypeAlias = "Callable[[ReadTask], av.container.InputContainer]"


@dataclass(frozen=True)
class ReadTask:
    """One connection to a source.

    Args:
        address: The source.
        spec: Which frames are chosen, and how they are resized.
        ring: Where they are written.
        timeout: Seconds without an answer or without data after which the connection has failed.
        max_megapixels: Largest frame that is decoded, in megapixels.
        worked: Whether frames arrived in an earlier connection.
        stdin: Standard input of the command, if it is the source.
    """

    address: Address
    spec: ClipSpec
    ring: RingPlan
    timeout: float
    max_megapixels: float
    worked: bool = False
    stdin: Connection | None = None


def serve(task: ReadTask, pipe: Connection) -> None:
    """Read a source in this process, and send what happens through a pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):  # may reach all processes: the parent stops this one
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    ring = FrameRing.attach(task.ring)
    try:
        SourceReader(task, ring, pipe.send).read()
    except BrokenPipeError:  # the parent has ended
        return
    except Exception:  # errors of FFmpeg contain the URL
        text = task.address.hide_secrets(traceback.format_exc())
        print(without_credentials(text), file=sys.stderr)
        sys.exit(1)


def open_source(task: ReadTask) -> av.container.InputContainer:
    """Open a source with FFmpeg.

    Raises:
        av.FFmpegError: It cannot be opened.
    """
    address = task.address
    web = {"format_whitelist": _WEB_FORMATS} if address.is_web else {}
    target = f"pipe:{task.stdin.fileno()}" if task.stdin is not None else address.target
    largest = str(int(task.max_megapixels * 2e6) + 2**17)  # see `t3d.video.stream`

    def opened(**more: str) -> av.container.InputContainer:
        container: av.container.InputContainer = av.open(
            target,
            format=address.form,
            options={} if math.isinf(task.max_megapixels) else {"max_pixels": largest},
            container_options={**dict(address.options), **web, **more},
            metadata_errors="replace",
            timeout=(task.timeout, _read_timeout(task)),
        )
        return container

    container = opened()
    if container.format.name == "mpjpeg":  # has no time stamps: FFmpeg would assume 25 frames per second
        container.close()
        container = opened(use_wallclock_as_timestamps="1")
    return container


def _read_timeout(task: ReadTask) -> float:
    """Return the seconds to wait for data. A segment of HLS may last longer than the time limit."""
    return task.timeout * (_PATIENCE if task.address.is_web else 1)


class SourceReader:
    """Reads one connection to a source.

    Args:
        task: The connection.
        ring: Where frames are written.
        emit: Function that is called with what happens.
        opener: Function that opens the source.
        clock: Function that returns the seconds of a clock.
        sleep: Function that waits for some seconds.
    """

    def __init__(
        self,
        task: ReadTask,
        ring: FrameRing,
        emit: Callable[[Event], None],
        *,
        opener: Opener = open_source,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._task, self._ring, self._emit = task, ring, emit
        self._opener, self._clock, self._sleep = opener, clock, sleep
        self._chooser = FrameChooser(task.spec)
        self._lag, self._pace = Lag(), Pace()
        self._rgb = RGBConverter(task.address.shown, tonemap=task.spec.tonemap)
        self._epoch = 0
        self._first: float | None = None  # time stamp of the first frame, in seconds
        self._before: tuple[av.VideoFrame, int, float] | None = None  # frame, its number and arrival
        self._size = (0, 0)
        self._orientation = Orientation()
        self._aspect = Fraction(1)
        self._packet_time: float | None = None
        self._latest = (0.0, 0.0)  # time of the latest frame, and when it was decoded

    def read(self) -> None:
        """Read until the source ends or fails, and emit why."""
        av.logging.set_level(None)
        task = self._task
        try:
            container = self._opener(task)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._emit(opening_problem(error, task.address, timeout=task.timeout, worked=task.worked))
            return
        with container:
            try:
                self._emit(self._read(container))
            except VideoError as error:
                self._emit(Problem(error.reason, retry=False))

    def _read(self, container: av.container.InputContainer) -> Event:
        """Read an open source, and return how it ended."""
        if not container.streams.video:
            kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            return Problem(f"sends no video, only {kinds}", retry=False)
        video = container.streams.best("video") or container.streams.video[0]
        assert isinstance(video, av.video.VideoStream)
        for other in container.streams:
            if other.index != video.index:
                other.discard = Discard.all
        context = video.codec_context
        if context is None:
            return Problem("this build of FFmpeg cannot decode its video codec", retry=False)
        context.thread_type = "SLICE"  # threads that decode different frames would delay each of them
        if context.name == "hevc":  # it hides errors otherwise, see `t3d.video.stream`
            context.options = {**context.options, "err_detect": "explode"}
        self._aspect = stored_pixel_aspect(video)
        finite = (container.duration or 0) > 0 or self._task.address.kind in ("file", "pipe")
        # Standard input may be live: whoever writes to it sets the speed.
        paced = (finite or container.format.name in _SEGMENTED) and self._task.address.kind != "pipe"
        rate = float(video.average_rate) if video.average_rate else None
        self._check_size(context.height, context.width)
        self._emit(Opened(context.width, context.height, rate, context.name, finite))
        try:
            if (problem := self._read_packets(container, video, paced=paced)) is not None:
                return problem
        except (av.FFmpegError, OSError, ValueError) as error:
            return reading_problem(error, self._task.address, timeout=_read_timeout(self._task))
        return Ended() if finite else Problem("the source ended the connection")

    def _read_packets(
        self, container: av.container.InputContainer, video: av.video.VideoStream, *, paced: bool
    ) -> Problem | None:
        limit = self._task.timeout * _PATIENCE
        decoded = self._clock()
        packets = container.demux(video)
        while True:
            asked = self._clock()
            packet = next(packets, None)
            if packet is None:
                return None
            self._ring.add("beats")
            now = self._clock()
            if packet.size:
                self._ring.add("packets")
                if not paced and self._skips(packet, now, now - asked):
                    self._ring.add("skipped")
                    if self._before is not None:  # the first one
                        video.codec_context.flush_buffers()  # frames that wait for later ones
                        self._restart()
                    continue
            try:
                frames = video.codec_context.decode(packet if packet.size else None)
            except av.EOFError:
                frames = []
            except (av.FFmpegError, ValueError, MemoryError):
                frames = []  # a damaged packet: later ones may be whole
            for frame in frames:
                if not frame.is_corrupt:
                    self._take(frame, now, paced=paced)
                    decoded = self._clock()
            if self._clock() - decoded > limit:
                return Problem(
                    f"data arrives, but no frame could be decoded for {limit:g} s: the source sends no key "
                    "frame, or its frames are damaged",
                    retry=self._task.address.is_live,
                )

    def _skips(self, packet: av.Packet[av.video.VideoStream], now: float, waited: float) -> bool:
        """Return whether a packet is not decoded, because reading is too slow."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or packet.time_base is None:
            return False
        seconds = float(stamp * packet.time_base)
        if self._packet_time is not None and not -1 <= seconds - self._packet_time <= JUMP:
            self._lag.restart()
        self._packet_time = seconds
        return self._lag.skips(seconds, now, key=packet.is_keyframe, waited=waited)

    def _restart(self) -> None:
        """Begin another stretch: no clip contains frames of both sides."""
        self._chooser.restart()
        self._before = None
        self._epoch += 1

    def _take(self, frame: av.VideoFrame, now: float, *, paced: bool) -> None:
        """Take a decoded frame, and write those that are chosen now."""
        stamp = now if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        if self._first is None:
            self._first = stamp
        seconds = stamp - self._first
        chosen = self._chooser.offer(seconds)
        if chosen.restarted:  # times continue by the clock of this machine
            self._restart()
            self._pace.restart()
            seconds = self._latest[0] + max(now - self._latest[1], 0.0)
            self._first = stamp - seconds
            chosen = self._chooser.offer(seconds)
        self._latest = (seconds, now)
        if paced:
            now = self._wait(seconds)
        else:
            now -= self._lag.of(stamp, now)
        number = self._ring.count("frames")
        if (frame.height, frame.width) != self._size:
            self._resize(frame)
        for moment in chosen.before:
            assert self._before is not None
            self._write(*self._before, moment)
        if chosen.now is not None:
            self._write(frame, number, now, chosen.now)
        self._before = (frame, number, now)
        self._ring.add("frames")

    def _wait(self, seconds: float) -> float:
        """Wait until a frame is due, and return that time."""
        while (left := self._pace.wait(seconds, self._clock())) > 0:
            self._ring.add("beats")
            self._sleep(min(left, _NAP))
        return self._clock()

    def _resize(self, frame: av.VideoFrame) -> None:
        self._check_size(frame.height, frame.width)
        self._orientation = Orientation.of_frame(frame)
        if self._size != (0, 0):
            self._emit(Resized(frame.width, frame.height))
        self._size = (frame.height, frame.width)

    def _check_size(self, height: int, width: int) -> None:
        limit = self._task.max_megapixels
        check_frame_size(self._task.address.shown, height, width, max_megapixels=limit)

    def _write(self, frame: av.VideoFrame, number: int, arrived: float, moment: float) -> None:
        image = self._pixels(frame)
        self._ring.write(image, frame=number, epoch=self._epoch, time=moment, arrived=arrived)

    def _pixels(self, frame: av.VideoFrame) -> Images:
        """Return the pixels of a frame as a clip contains them, uint8 [size, size, C]."""
        spec = self._task.spec
        image = self._orientation.apply(self._rgb(frame))
        aspect = self._orientation.pixel_aspect(self._aspect)
        height, width = resized_shape(image.shape[0], image.shape[1], spec, pixel_aspect=aspect)
        ReadLimits().check_clip(self._task.address.shown, frames=1, height=height, width=width)
        return center_crop(resize(image[None], height, width), spec)[0]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
