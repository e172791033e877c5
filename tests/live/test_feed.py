"""Connections that fail, hang, crash and come back, without processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from t3d.clip import ClipSpec
from t3d.errors import VideoError
from t3d.live.address import parse_address
from t3d.live.feed import Feed, FeedOptions
from t3d.live.problems import Problem
from t3d.live.ring import FrameRing
from t3d.live.source import Ended, Event, Opened, ReadTask

SPEC = ClipSpec(num_frames=2, stride=1, size=4, resize=4)
LIVE = Opened(80, 48, 25.0, "h264", finite=False)
GONE = Problem("the source ended the connection")
URL = "rtsp://me:secret@cam/1"


class Clock:
    """A clock that advances by some seconds with every look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 100.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)


class Script:
    """Stands for the reading processes: a look does one step of a connection.

    A step is an event, `frame`, `hang`, or the exit code of a process that crashes.
    """

    def __init__(self, clock: Clock, *connections: list[Any]) -> None:
        self.clock, self.connections = clock, list(connections)
        self.tasks: list[ReadTask] = []
        self.starts: list[float] = []
        self.running = 0

    def start(self, task: ReadTask) -> Any:
        script, steps = self, self.connections.pop(0)
        self.tasks.append(task)
        self.starts.append(self.clock.now)
        self.running += 1
        assert self.running == 1
        ring = FrameRing.attach(task.ring)

        class Process:
            code: int | None = None

            def poll(self, seconds: float) -> list[Event]:
                script.clock.now += max(seconds, 0.01)
                step = steps.pop(0) if steps else "hang"
                if step == "hang":
                    return []
                ring.add("beats")
                if step == "frame":
                    number = ring.count("frames")
                    image = np.full((4, 4, 3), number, np.uint8)
                    ring.write(image, frame=number, epoch=0, time=script.clock.now, arrived=script.clock.now)
                    ring.add("frames")
                elif isinstance(step, int):
                    self.code = step
                else:
                    return [step]
                return []

            def exit_code(self) -> int | None:
                return self.code

            def stop(self) -> None:
                script.running -= 1
                ring.close()

        return Process()


def run(
    *connections: list[Any],
    retries: int = 3,
    look: Callable[[Feed], None] = lambda _: None,
    source: str = URL,
) -> tuple[Script, list[str], str | None]:
    """Poll until the source ends or fails. Return the script, the notes and the error."""
    clock, notes, error = Clock(), [], None
    script = Script(clock, *connections)
    options = FeedOptions(timeout=2.0, retries=retries)
    with Feed(
        parse_address(source),
        SPEC,
        options,
        note=notes.append,
        start=script.start,
        clock=clock,
        sleep=clock.sleep,
    ) as feed:
        for _ in range(100_000):
            try:
                feed.poll(0.1)
            except VideoError as caught:
                error = str(caught)
                break
            look(feed)
            if feed.ended:
                break
        else:
            pytest.fail("neither ended nor failed")
    assert script.running == 0
    assert "secret" not in str([notes, error])
    return script, notes, error


def test_a_connection_that_fails_is_tried_again_after_growing_times() -> None:
    refused = Problem("cannot be reached: Connection refused")
    script, notes, error = run([refused], [refused], [refused], [refused])
    gaps = np.diff(script.starts)
    np.testing.assert_allclose(gaps, [1, 2, 4], atol=0.3)
    assert notes == [
        f"rtsp://cam/1: cannot be reached: Connection refused; retry {i} of 3 in {2 ** (i - 1)} s"
        for i in (1, 2, 3)
    ]
    assert error == "rtsp://cam/1: cannot be reached: Connection refused; given up after 3 retries"


def test_a_wrong_password_is_not_tried_again() -> None:
    script, notes, error = run([Problem("the source refuses (401)", retry=False)])
    assert len(script.starts) == 1
    assert (notes, error) == ([], "rtsp://cam/1: the source refuses (401)")


def test_a_stream_that_drops_comes_back_and_ends() -> None:
    finite = Opened(80, 48, None, "h264", finite=True)
    script, notes, error = run([LIVE, "frame", GONE], [LIVE, "frame", GONE], [finite])
    assert error is None
    assert notes == [
        "rtsp://cam/1: connected: 80 × 48, 25 frames per second, h264",
        "rtsp://cam/1: the source ended the connection; retry 1 of 3 in 1 s",
        "rtsp://cam/1: connected: 80 × 48, 25 frames per second, h264",
        "rtsp://cam/1: the source ended the connection; retry 2 of 3 in 2 s",
        "rtsp://cam/1: the stream has ended",  # a live playlist that is complete now
    ]
    assert [task.worked for task in script.tasks] == [False, True, True]


def test_retries_start_again_after_a_stable_connection() -> None:
    stable = [LIVE, *["frame"] * 120, GONE]  # 12 s
    _, notes, _ = run([GONE], stable, [GONE], [Ended()])
    retries = [note.partition("; ")[2] for note in notes if "retry" in note]
    assert retries == ["retry 1 of 3 in 1 s", "retry 1 of 3 in 1 s", "retry 2 of 3 in 2 s"]


def test_a_process_that_crashes_or_hangs_is_replaced() -> None:
    script, notes, error = run([LIVE, -11], [LIVE, "frame", "hang"], [1], [Ended()])
    assert error is None
    assert "was killed by SIGSEGV" in notes[1]
    assert "the source does not answer" in notes[3]
    assert "ended with exit status 1" in notes[4]
    assert (
        script.starts[2] - script.starts[1] > 2 * 3 + 5
    )  # the process reports the problem itself until then


@pytest.mark.parametrize(("end", "reason"), [(-11, "was killed by SIGSEGV"), ("hang", "does not answer")])
def test_a_file_that_was_read_in_part_is_not_read_again(end: int | str, reason: str) -> None:
    film = Opened(80, 48, 25.0, "h264", finite=True)
    script, notes, error = run([film, "frame", end], source="film.mp4")
    assert len(notes) == 1
    assert reason in str(error)
    script, _, error = run([1], [film, "frame", Ended()], source="film.mp4")  # nothing was read before
    assert (len(script.starts), error) == (2, None)


def test_no_clip_contains_frames_of_two_connections() -> None:
    seen = []

    def look(feed: Feed) -> None:
        newest, clip = feed.newest_place(), feed.newest()
        assert (newest is None) == (clip is None)
        if clip is not None and clip.last.chosen not in [each.last.chosen for each in seen]:
            assert newest == clip.last
            seen.append(clip)

    run([LIVE, "frame", "frame", "frame", GONE], [LIVE, "frame", "frame", Ended()], look=look)
    assert [clip.images[:, 0, 0, 0].tolist() for clip in seen] == [[0, 1], [1, 2], [3, 4]]
    assert seen[1].last.epoch != seen[2].last.epoch
