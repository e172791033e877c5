"""The parts of `t3d watch` that need no source: addresses, waiting times, chosen and dropped frames."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest

from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.sampling import clips_of
from t3d.data.clips.timeline import Timeline
from t3d.errors import ConfigError
from t3d.live.address import Address, parse_address
from t3d.live.backoff import Backoff
from t3d.live.clips import FrameChooser
from t3d.live.pace import Lag
from t3d.live.problems import Problem, opening_problem, reading_problem, web_head
from t3d.live.ring import FrameRing
from t3d.live.schedule import Place, Schedule

# --- addresses and problems ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "shown", "target"),
    [
        ("0", "camera", "/dev/video0", "/dev/video0"),
        ("/dev/video2", "camera", "/dev/video2", "/dev/video2"),
        ("-", "pipe", "standard input", ""),
        ("a b.mp4", "file", "a b.mp4", "file:a b.mp4"),
        ("file:///a.mp4", "file", "/a.mp4", "file:/a.mp4"),
        (
            "rtsp://me:se@cret@cam:554/1?key=2",
            "url",
            "rtsp://cam:554/1?…",
            "rtsp://me:se@cret@cam:554/1?key=2",
        ),
        ("udp://@:5000", "url", "udp://:5000", "udp://@:5000"),
        ("HTTP://a/b.m3u8", "url", "http://a/b.m3u8", "HTTP://a/b.m3u8"),
        ("rtmp://h/app/se-cret", "url", "rtmp://h/app/…", "rtmp://h/app/se-cret"),
        ("RTMPS://h/app/se/cret/", "url", "rtmps://h/app/se/…", "RTMPS://h/app/se/cret/"),
        (
            "rtsp://h/user=me_password=se/cret_channel=1.sdp?real",
            "url",
            "rtsp://h/user=…?…",
            "rtsp://h/user=me_password=se/cret_channel=1.sdp?real",
        ),
        ("http://h/a/streamKey=secret/b", "url", "http://h/a/streamKey=…", "http://h/a/streamKey=secret/b"),
    ],
)
def test_an_address_and_its_text_without_credentials(text: str, kind: str, shown: str, target: str) -> None:
    address = parse_address(text, platform="linux")
    assert (address.kind, address.shown, address.target) == (kind, shown, target)
    assert "cret" not in repr(address)


def test_cameras_of_other_systems() -> None:
    assert parse_address("1", platform="darwin").form == "avfoundation"
    assert parse_address("video=Front", platform="win32").form == "dshow"


@pytest.mark.parametrize(
    ("text", "platform", "message"),
    [
        ("", "linux", "source is empty"),
        ("ftp://a/b", "linux", r"source begins with ftp://; live sources are read from rtsp://"),
        ("rtsp://me:a/secret@cam/1", "linux", r"source is rtsp://…, which is not a valid URL; .* %2F"),
        ("rtsp:///1", "linux", "names no host"),
        ("0", "win32", "cameras have names: give `video=NAME`"),
        ("-", "win32", "standard input is not supported on Windows"),
    ],
)
def test_a_wrong_address_is_explained(text: str, platform: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_address(text, platform=platform)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("words", ["m rtsp://me:secret@h/1 rtsp://me:secret@h/1", "rtsp://me:secret@h/1 m"])
def test_a_mistake_on_the_command_line_shows_no_password(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", *words.split()]) == 2
    err = capsys.readouterr().err
    assert "rtsp://h/1" in err
    assert "secret" not in err


CAMERA = Address("camera", "/dev/video0", "/dev/video0", "v4l2")
STREAM = parse_address("rtsp://me:secret@cam/1")
PAGE = parse_address("https://cam/")


@pytest.mark.parametrize(
    ("address", "error", "worked", "reason", "retry"),
    [
        (CAMERA, OSError(errno.EBUSY, "busy"), False, "another program uses the camera; close it", False),
        (CAMERA, OSError(errno.EBUSY, "busy"), True, "another program uses the camera", True),
        (CAMERA, PermissionError(errno.EACCES, "denied"), False, "add your user to the group `video`", False),
        (CAMERA, PermissionError(errno.EACCES, "denied"), True, "no permission", False),
        (CAMERA, FileNotFoundError(errno.ENOENT, "no"), False, "there is no such camera", False),
        (CAMERA, FileNotFoundError(errno.ENOENT, "no"), True, "there is no such camera", True),
        (CAMERA, OSError(errno.ENOTTY, "ioctl"), False, "is not a camera that records video", False),
        (
            STREAM,
            av.HTTPUnauthorizedError(401, "x", "rtsp://me:secret@cam"),
            True,
            r"(401); give them",
            False,
        ),
        (STREAM, av.HTTPForbiddenError(403, "x"), True, "refuses access (403)", False),
        (STREAM, av.HTTPNotFoundError(404, "x"), False, "no such stream (404)", True),
        (STREAM, av.HTTPServerError(500, "Server error"), False, "cannot be reached: Server error", True),
        (STREAM, av.ProtocolNotFoundError(1, "x"), False, "cannot read rtsp://", False),
        (STREAM, av.ExitError(1, "x"), False, "no answer within 3 s", True),
        (STREAM, av.InvalidDataError(1, "x"), False, "is not video, or damaged", True),
        (STREAM, OSError(errno.ECONNREFUSED, "Connection refused"), False, "cannot be reached: Conn", True),
        (parse_address("-"), av.InvalidDataError(1, "x"), False, "is not video, or damaged", False),
        (PAGE, av.InvalidDataError(1, "x"), False, "this is a web page, not a stream", False),
    ],
)
def test_problems_say_what_to_do_and_whether_to_retry(
    address: Address, error: Exception, worked: bool, reason: str, retry: bool
) -> None:
    problem = opening_problem(error, address, timeout=3, worked=worked, head_of=lambda _: b" <!DOCTYPE html>")
    assert reason in problem.reason
    assert problem.retry == retry
    assert "secret" not in problem.reason


def test_problems_of_an_open_source() -> None:
    assert reading_problem(av.ExitError(1, "x"), STREAM, timeout=2) == Problem("no data for 2 s")
    reset = av.ConnectionResetError(errno.ECONNRESET, "Connection reset by peer", "rtsp://me:secret@cam")
    problem = reading_problem(reset, STREAM, timeout=2)
    assert problem.reason == "the connection broke: Connection reset by peer"
    assert problem.retry


@pytest.mark.parametrize("source", ["a.mp4", "-"])
def test_a_file_or_pipe_that_breaks_is_not_read_again(source: str) -> None:
    address = parse_address(source)
    broken = reading_problem(OSError(errno.EIO, "Input/output error"), address, timeout=2)
    assert broken == Problem("reading failed before the end: Input/output error", retry=False)
    assert not reading_problem(av.ExitError(1, "x"), address, timeout=2).retry


def test_a_look_at_a_page_sends_the_password_in_a_header(site: Any) -> None:
    site.put("/index", b"<html>")
    url = site.url("/index").replace("http://", "http://me:se%40cret@")
    assert web_head(url) == b"<html>"
    assert site.asked[-1][1]["authorization"] == "Basic bWU6c2VAY3JldA=="
    assert web_head("http://me:secret@127.0.0.1:9/x") == b""
    assert web_head("http://127.0.0.1:9/a b") == b""  # an error of http.client


def test_a_crash_report_has_no_secrets() -> None:
    text = "InvalidURL: nonnumeric port: 'secret@host' of http://me:secret@host/x, me:secret@host"
    hidden = parse_address("http://me:secret@host/x").hide_secrets(text)
    assert hidden == "InvalidURL: nonnumeric port: 'host' of http://host/x, host"
    assert "key" not in parse_address("rtmp://host/app/key").hide_secrets("'rtmp://host/app/key'")


# --- waiting times ---------------------------------------------------------------------------------------


def test_waiting_times_grow_to_a_limit_and_begin_again_after_success() -> None:
    backoff = Backoff(retries=8)
    assert [backoff.after_failure() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.after_failure(seconds=9) == 30  # frames for a short time are not a success
    assert backoff.after_failure() is None
    assert backoff.after_failure(seconds=10) == 1
    assert Backoff(retries=0).after_failure() is None
    assert Backoff(10**6, failed=10**5).after_failure() == 30


# --- the choice of frames --------------------------------------------------------------------------------


def choose(times: Sequence[float], spec: ClipSpec) -> list[tuple[int, float, int]]:
    """Return number, time and stretch of each chosen frame, as the reading process does."""
    chooser, chosen, stretch = FrameChooser(spec), [], 0
    for number, time in enumerate(times):
        choice = chooser.offer(time)
        chosen += [(number - 1, moment, stretch) for moment in choice.before]
        stretch += choice.restarted
        if choice.now is not None:
            chosen.append((number, choice.now, stretch))
    return chosen


@pytest.mark.parametrize("seed", range(20))
def test_every_clip_has_the_frames_of_the_recording_from_its_first_time_on(seed: int) -> None:
    """The frames at these times are those that `t3d predict` takes from a file, whatever the frame rate."""
    rng = np.random.default_rng(seed)
    rate = rng.choice([5, 10, 23.976, 25, 30, 60])
    gaps = np.full(200, 1 / rate) if seed % 2 else rng.exponential(1 / rate, 200)
    times = np.concatenate([[0.0], gaps.cumsum()])
    if seed % 3 == 0:
        times = times.round(3)
    spec = ClipSpec(num_frames=int(rng.integers(1, 6)), fps=float(rng.choice([4, 8, 12.5, 25])))
    chosen = choose(times.tolist(), spec)
    length = spec.num_frames / (spec.fps or 1)
    assert len(chosen) > spec.num_frames
    for window in zip(*(chosen[i:] for i in range(spec.num_frames)), strict=False):
        begin = window[0][1]
        line = Timeline(times, begin=begin, end=begin + length)
        assert clips_of(line, spec)[0].tolist() == [number for number, _, _ in window]


def test_strides_count_frames_and_clips_do_not_span_a_jump() -> None:
    assert [number for number, _, _ in choose(np.arange(7) / 10, ClipSpec(stride=3))] == [0, 3, 6]
    times = [0.0, 0.1, 0.2, 50.0, 50.1, 50.2, 3.0, 3.1]  # forward by more than a gap, and backward
    for spec in (ClipSpec(stride=2), ClipSpec(fps=10)):
        chosen = choose(times, spec)
        assert {stretch for _, _, stretch in chosen} == {0, 1, 2}
        for number, _, stretch in chosen:
            assert stretch == (number >= 3) + (number >= 6)


# --- dropped frames --------------------------------------------------------------------------------------


def simulate(
    schedule: Schedule, work: Sequence[float], *, frames: int, rate: float = 10.0
) -> tuple[list[range], int]:
    """Return the frames of each clip and the dropped frames, for a model that needs the times in `work`."""
    now, clips, dropped = 0.0, [], 0
    for seconds in work:
        while True:
            newest = int(now * rate + 1e-9)
            places = [Place(i, i, i / rate, 0) for i in (newest - frames + 1, newest)]
            if newest >= frames - 1 and schedule.is_due(places[1]):
                break
            now += 1 / rate
        dropped += schedule.take(*places)
        clips.append(range(newest - frames + 1, newest + 1))
        now += seconds
    return clips, dropped


@pytest.mark.parametrize("every", [None, 0.3])
@pytest.mark.parametrize("seed", range(5))
def test_dropped_frames_are_those_in_no_clip(seed: int, every: float | None) -> None:
    work = np.random.default_rng(seed).exponential(0.5, 40)
    clips, dropped = simulate(Schedule(4, every), work.tolist(), frames=4)
    covered = {frame for clip in clips for frame in clip}
    uncovered = set(range(clips[0].start, clips[-1].stop)) - covered
    assert dropped == len(uncovered) > 0
    assert all(later.stop > earlier.stop for earlier, later in pairwise(clips))


def test_a_fast_model_drops_nothing_and_keeps_the_interval() -> None:
    clips, dropped = simulate(Schedule(4, None), [0.01] * 20, frames=4)
    assert dropped == 0
    assert [clip.start for clip in clips] == list(range(0, 80, 4))
    clips, dropped = simulate(Schedule(4, 2.0), [0.01] * 20, frames=4)  # frames left out on purpose
    assert dropped == 0
    assert [clip.stop for clip in clips] == list(range(4, 404, 20))


def test_with_longer_intervals_only_missed_clips_are_dropped() -> None:
    clips, dropped = simulate(Schedule(5, 2.0), [7.0, 0.1], frames=5)
    assert [clip.stop for clip in clips] == [5, 75]
    assert dropped == 3 * 5  # clips that end with frames 24, 44 and 64 were due


def test_a_new_stretch_restarts_the_interval() -> None:
    schedule = Schedule(2, 10.0)
    schedule.take(Place(0, 0, 0.0, 0), Place(1, 1, 0.1, 0))
    assert not schedule.is_due(Place(2, 2, 0.2, 0))
    assert schedule.is_due(Place(3, 3, 0.0, 1))
    assert schedule.take(Place(50, 99, 0.0, 1), Place(51, 100, 0.1, 1)) == 0


def test_reading_that_is_too_slow_is_noticed_and_clock_drift_is_not() -> None:
    lag = Lag(most=1.0)
    drift = [lag.skips(i, i * 1.0005, key=False) for i in range(10_000)]  # 5 s in the end
    assert not any(drift)
    lag = Lag(most=1.0)
    source = [lag.skips(i * 0.04, i * 0.05, key=False, waited=0.04) for i in range(1000)]  # a slow source
    assert not any(source)
    lag, now, behind, skipped = Lag(most=1.0), 0.0, [], []
    for i in range(3000):
        now = max(now, i * 0.04)
        behind.append(now - i * 0.04)
        skipped.append(lag.skips(i * 0.04, now, key=i % 10 == 0))
        now += 0.0 if skipped[-1] else 0.05  # decoding needs longer than a frame is shown
    assert max(behind) < 1.5
    assert 0.1 < np.mean(skipped) < 0.5
    resumed = [i for i in range(1, 3000) if skipped[i - 1] and not skipped[i]]
    assert resumed
    assert all(i % 10 == 0 for i in resumed)


# --- the ring --------------------------------------------------------------------------------------------


def test_the_ring_keeps_the_newest_frames_and_no_clip_spans_a_break() -> None:
    ring = FrameRing.create(7, 2)
    other = FrameRing.attach(ring.plan)
    try:
        assert ring.newest(3) is None
        for number in range(20):
            image = np.full((2, 2, 3), number, np.uint8)
            other.write(image, frame=number * 2, epoch=number // 12, time=number / 10, arrived=number + 0.5)
            samples = ring.newest(3)
            if number < 2 or number in (12, 13):
                assert samples is None
                continue
            assert samples is not None
            assert samples.images[:, 0, 0, 0].tolist() == [number - 2, number - 1, number]
            assert samples.last == Place(number, number * 2, number / 10, number // 12)
            assert samples.arrived == number + 0.5
        other.add("skipped", 3)
        assert ring.count("skipped") == 3
    finally:
        other.close()
        ring.close()


def test_a_clip_that_was_overwritten_while_it_was_copied_is_not_returned() -> None:
    ring = FrameRing.create(4, 1)
    try:
        for number in range(4):
            ring.write(np.zeros((1, 1, 3), np.uint8), frame=number, epoch=0, time=number, arrived=0)
        assert ring.newest(4) is not None
        ring._counters[0] = 5  # the writer is writing number 4 over number 0
        assert ring.newest(4) is None
        assert ring.newest(3) is not None
    finally:
        ring.close()
