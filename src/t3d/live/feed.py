"""A live source as the newest frames of it, whatever happens to the connection.

Another process reads the source. If the connection fails, the process crashes or does not answer, a new one
is started after a waiting time.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Protocol

from t3d.clip import ClipSpec
from t3d.errors import VideoError
from t3d.live.address import Address
from t3d.live.backoff import Backoff
from t3d.live.problems import Problem
from t3d.live.ring import FrameRing, Samples
from t3d.live.schedule import Place
from t3d.live.source import Ended, Event, Opened, ReadTask, Resized, serve
from t3d.workers.deaths import death_of

_GRACE = 5.0  # seconds after the time limit, in which the reading process reports the problem itself
_STARTING = 60.0  # seconds for a process to start, on a busy machine
_SPARE = 8  # places of the ring that may be written to while a clip is copied


@dataclass(frozen=True)
class FeedOptions:
    """Limits of reading a source.

    Args:
        timeout: Seconds without an answer or data after which a connection has failed.
        retries: Attempts in a row to connect again.
        max_megapixels: Largest frame that is decoded, in megapixels.
    """

    timeout: float = 10.0
    retries: int = 10
    max_megapixels: float = 40.0


class Reading(Protocol):
    """The process that reads one connection."""

    def poll(self, seconds: float) -> list[Event]:
        """Wait at most some seconds for events, and return them."""
        ...

    def exit_code(self) -> int | None:
        """Return the exit code; None while the process runs."""
        ...

    def stop(self) -> None:
        """End the process."""
        ...


class ReadingProcess:
    """A process that runs `t3d.live.source.serve`.

    Args:
        task: The connection.
    """

    def __init__(self, task: ReadTask) -> None:
        # Not forked: this process may have threads, and a child would inherit their locks in any state.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=serve, args=(task, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def poll(self, seconds: float) -> list[Event]:
        """Wait at most some seconds for events, and return them."""
        wait([self._pipe, self._process.sentinel], seconds)
        events = []
        with suppress(EOFError, OSError):  # it has ended, or was killed within a message
            while self._pipe.poll():
                events.append(self._pipe.recv())
        return events

    def exit_code(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return self._process.exitcode

    def stop(self) -> None:
        """Kill the process, which may hang."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Feed:
    """The newest frames of a live source. Used in a `with` block.

    Args:
        address: The source.
        spec: What a clip is.
        options: How the source is read.
        note: Function that is called with each message for the user.
        start: Function that starts a process for a connection.
        clock: Function that returns the seconds of a clock.
        sleep: Function that waits for some seconds.

    Attributes:
        ended: Whether the source has ended, so that no more frames arrive.
        connections: Number of connections that delivered frames.
    """

    def __init__(
        self,
        address: Address,
        spec: ClipSpec,
        options: FeedOptions,
        *,
        note: Callable[[str], None],
        start: Callable[[ReadTask], Reading] = ReadingProcess,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ended = False
        self.connections = 0
        self._address, self._options, self._note = address, options, note
        self._start_process, self._clock, self._sleep = start, clock, sleep
        self._frames = spec.num_frames * spec.segments
        self._backoff = Backoff(options.retries)
        self._ring = FrameRing.create(2 * self._frames + _SPARE, spec.size)
        stdin = Connection(os.dup(0), writable=False) if address.kind == "pipe" else None
        self._task = ReadTask(
            address, spec, self._ring.plan, options.timeout, options.max_megapixels, stdin=stdin
        )
        self._process: Reading | None = None
        self._attempt = 0
        self._retry_at = -math.inf
        self._opened: Opened | None = None  # the present connection
        self._was_live = False
        self._beats, self._beat_at = 0, 0.0
        self._begin = (0, 0)  # frames and places written before the present connection
        self._first_at: float | None = None  # when its first frame arrived

    def __enter__(self) -> Feed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._task.stdin is not None:
            self._task.stdin.close()
        self._ring.close()

    @property
    def frames(self) -> int:
        """Number of frames that were decoded so far."""
        return self._ring.count("frames")

    @property
    def skipped(self) -> int:
        """Number of frames that were not decoded, because reading was too slow."""
        return self._ring.count("skipped")

    def newest_place(self) -> Place | None:
        """Return the place of the newest frame of this connection, once a clip is complete."""
        newest = self._ring.newest_place()
        if newest is None or newest.chosen + 1 - self._begin[1] < self._frames:
            return None
        return self._of_connection(newest)

    def newest(self) -> Samples | None:
        """Return the newest clip; None if there is no complete one without a break."""
        self._notice_frames()
        samples = self._ring.newest(self._frames)
        if samples is None or samples.first.chosen < self._begin[1]:
            return None
        return samples._replace(
            first=self._of_connection(samples.first), last=self._of_connection(samples.last)
        )

    def poll(self, seconds: float) -> None:
        """Wait at most some seconds for something to happen, and keep the connection alive.

        Raises:
            VideoError: The source cannot be read, and another attempt does not help.
        """
        if self.ended:
            return
        if self._process is None:
            left = self._retry_at - self._clock()
            if left > 0:
                self._sleep(min(left, seconds))
                return
            self._connect()
        assert self._process is not None
        code = self._process.exit_code()  # asked before the events: what it sent before its end counts
        for event in self._process.poll(seconds):
            self._notice_frames()
            self._handle(event)
            if self._process is None:
                return
        self._notice_frames()
        # A source that is not live is opened again only if nothing was read from it.
        retry = self._address.is_live or self._opened is None
        if code is not None:
            reason = death_of("the process that reads the source", code).problem
            self._fail(Problem(reason, retry=retry))
        elif self._hangs():
            limit = self._options.timeout
            reason = f"the source does not answer, also {_GRACE:g} s after the limit of {limit:g} s"
            self._fail(Problem(reason, retry=retry))

    def _notice_frames(self) -> None:
        if self._first_at is None and self._process is not None and self.frames > self._begin[0]:
            self._first_at = self._clock()
            self.connections += 1
            self._task = replace(self._task, worked=True)

    def _of_connection(self, place: Place) -> Place:
        # Two connections never share an epoch.
        return place._replace(epoch=(self._attempt << 32) + place.epoch)

    def _connect(self) -> None:
        self._attempt += 1
        self._opened, self._first_at = None, None
        self._begin = self._ring.count("frames"), self._ring.count("written")
        self._beats, self._beat_at = self._ring.count("beats"), self._clock()
        self._process = self._start_process(self._task)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Opened):
            self._opened = event
            if event.finite and self._was_live:
                # A playlist that is complete now would begin again at its first segment.
                self._finish("the stream has ended")
                return
            self._was_live = not event.finite
            rate = "" if event.fps is None else f", {event.fps:.4g} frames per second"
            self._note(
                f"{self._address.shown}: connected: {event.width} × {event.height}{rate}, {event.codec}"
            )
        elif isinstance(event, Resized):
            self._note(f"{self._address.shown}: frames are {event.width} × {event.height} from now on")
        elif isinstance(event, Ended):
            self._finish("the source has ended")
        else:
            self._fail(event)

    def _finish(self, reason: str) -> None:
        self._note(f"{self._address.shown}: {reason}")
        self.ended = True
        self._stop()

    def _fail(self, problem: Problem) -> None:
        """Plan the next attempt, or give up.

        Raises:
            VideoError: There is no further attempt.
        """
        self._stop()
        if not problem.retry:
            raise VideoError(self._address.shown, problem.reason)
        alive = 0.0 if self._first_at is None else self._clock() - self._first_at
        delay = self._backoff.after_failure(alive)
        if delay is None:
            tries = self._options.retries
            raise VideoError(
                self._address.shown,
                f"{problem.reason}; given up after {tries} retries" if tries else problem.reason,
            )
        count = f"{self._backoff.failed} of {self._backoff.retries}"
        self._note(f"{self._address.shown}: {problem.reason}; retry {count} in {delay:g} s")
        self._retry_at = self._clock() + delay

    def _hangs(self) -> bool:
        beats, now = self._ring.count("beats"), self._clock()
        if beats != self._beats:
            self._beats, self._beat_at = beats, now
        # HLS waits for the next segment, see `t3d.live.source`.
        limit = self._options.timeout * 3 + _GRACE if self._opened else self._options.timeout + _STARTING
        return now - self._beat_at > limit

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None
