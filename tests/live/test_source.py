"""The reading process, in the process of the test: files, a web server on loopback, cameras that fail."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from t3d.clip import ClipSpec
from t3d.data.clips.frames import DecodedFrames
from t3d.data.clips.numpy_pixels import center_crop, resize
from t3d.data.clips.sampling import clips_of
from t3d.data.clips.timeline import Timeline
from t3d.live.address import Address, parse_address
from t3d.live.problems import Problem
from t3d.live.ring import FrameRing
from t3d.live.source import Ended, Event, Opened, ReadTask, Resized, SourceReader, open_source
from t3d.video.video import Video

SPEC = ClipSpec(num_frames=4, stride=2, size=24, resize=32)
PLACES = 200  # all chosen frames
Segments = dict[str, bytes]
Write = Callable[..., Path]


class Clock:
    """A clock that advances by some seconds with every look."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 100.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)


@contextmanager
def reading(
    source: str | Address, spec: ClipSpec = SPEC, *, timeout: float = 5.0, **options: Any
) -> Iterator[tuple[list[Event], FrameRing]]:
    """Read a source to its end."""
    address = parse_address(source) if isinstance(source, str) else source
    megapixels = options.pop("max_megapixels", 40.0)
    worked = options.pop("worked", False)
    ring = FrameRing.create(PLACES, spec.size)
    clock = options.pop("clock", Clock())
    events: list[Event] = []
    try:
        task = ReadTask(address, spec, ring.plan, timeout, megapixels, worked)
        SourceReader(task, ring, events.append, clock=clock, sleep=clock.sleep, **options).read()
        yield events, ring
    finally:
        ring.close()


def written(ring: FrameRing) -> tuple[np.ndarray, list[int], list[float], list[int]]:
    """Return images, numbers, times and epochs of all frames in the ring."""
    count = ring.count("written")
    rows = ring._places[:count]
    return (
        ring._images[:count].copy(),
        rows["frame"].tolist(),
        rows["time"].tolist(),
        rows["epoch"].tolist(),
    )


def reason(events: list[Event]) -> str:
    assert isinstance(events[-1], Problem)
    return events[-1].reason


@pytest.fixture(scope="module")
def film(
    tmp_path_factory: pytest.TempPathFactory,
    numbered_frames: Callable[..., torch.Tensor],
    write_stream: Write,
) -> Path:
    return write_stream(tmp_path_factory.mktemp("film") / "film.mp4", numbered_frames(50))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, resize_mode="square"),
        ClipSpec(num_frames=4, fps=7.5, size=32, resize=32),
        ClipSpec(num_frames=4, fps=25, size=32, resize=32),
    ],
)
def test_frames_of_a_file_have_the_pixels_of_a_prediction(film: Path, spec: ClipSpec) -> None:
    with reading(str(film), spec) as (events, ring):
        images, numbers, times, epochs = written(ring)
        assert ring.count("frames") == 50
    assert events == [Opened(80, 48, 10.0, "h264", finite=True), Ended()]
    assert set(epochs) == {0}
    with Video(film) as video:
        expected = DecodedFrames(video, spec, resize=resize).images(np.array(numbers))
        np.testing.assert_array_equal(images, center_crop(expected, spec))
        if spec.fps is None:
            assert numbers == list(range(0, 50, 2))
        else:
            length = spec.num_frames / spec.fps
            clip = clips_of(Timeline(video.times, times[3], times[3] + length), spec)[0]
            assert clip.tolist() == numbers[3:7]


def test_a_file_is_read_at_its_own_speed(film: Path) -> None:
    clock = Clock()
    with reading(str(film), clock=clock) as (_, ring):
        assert clock.now - 100 == pytest.approx(4.9, abs=0.01)
        arrived = ring._places["arrived"][: ring.count("written")].copy()
        np.testing.assert_allclose(np.diff(arrived), 0.2, atol=1e-3)


def test_a_source_that_is_read_too_slowly_is_skipped_to_key_frames(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, clock, take = Address("pipe", "standard input", ""), Clock(), SourceReader._take

    def slow(reader: SourceReader, *arguments: Any, **options: Any) -> None:
        clock.now += 0.15  # a frame is shown for 0.1 s
        take(reader, *arguments, **options)

    monkeypatch.setattr(SourceReader, "_take", slow)
    with reading(live, clock=clock, opener=lambda _: av.open(str(film))) as (events, ring):
        _, numbers, times, epochs = written(ring)
        skipped = ring.count("skipped")
        assert skipped + ring.count("frames") == 50
    assert isinstance(events[-1], Ended)
    assert skipped > 5
    assert len(set(epochs)) > 1
    for at in np.flatnonzero(np.diff(epochs)) + 1:  # decoding starts at a key frame again
        assert times[at] % 1 == pytest.approx(0)
    assert numbers == sorted(numbers)


def test_frames_change_their_size_midway(
    tmp_path: Path, numbered_frames: Callable[..., torch.Tensor], write_stream: Write
) -> None:
    small = write_stream(tmp_path / "a.ts", numbered_frames(10))
    large = write_stream(tmp_path / "b.ts", numbered_frames(10, height=96, width=96), begin=10)
    (tmp_path / "c.ts").write_bytes(small.read_bytes() + large.read_bytes())
    with reading(str(tmp_path / "c.ts")) as (events, ring):
        images, numbers, _, _ = written(ring)
    assert events[1:] == [Resized(96, 96), Ended()]
    assert images.shape == (10, 24, 24, 3)
    assert numbers == list(range(0, 20, 2))
    later = write_stream(tmp_path / "b.ts", numbered_frames(10), begin=1000)
    (tmp_path / "d.ts").write_bytes(small.read_bytes() + later.read_bytes())
    with reading(str(tmp_path / "d.ts")) as (_, ring):  # times jump, and continue by the clock
        _, _, times, epochs = written(ring)
    assert epochs == [0] * 5 + [1] * 5
    assert times == sorted(times)
    assert times[-1] < 2
    with reading(str(tmp_path / "c.ts"), max_megapixels=0.005) as (events, _):
        assert "frames are 96 × 96, 0.00922 megapixels, more than `max_megapixels`" in reason(events)
        assert not events[-1].retry


def test_without_a_key_frame_the_connection_fails(
    tmp_path: Path, numbered_frames: Callable[..., torch.Tensor], write_stream: Write
) -> None:
    file = write_stream(tmp_path / "a.ts", numbered_frames(30), fps=60, keep=lambda p: not p.is_keyframe)
    with reading(str(file), timeout=1, clock=Clock(step=0.2)) as (events, ring):
        assert "the source sends no key frame, or its frames are damaged" in reason(events)
        assert ring.count("written") == 0


# --- cameras ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EACCES, errno.ENOENT])
def test_a_camera_that_cannot_be_opened(number: int) -> None:
    """There is no camera here: the error is that of the system call."""

    def opener(_: ReadTask) -> Any:
        raise OSError(number, os.strerror(number))

    with reading("0", opener=opener) as (events, _):
        assert len(events) == 1
        assert not events[0].retry
    with reading("0", opener=opener, worked=True) as (events, _):
        assert events[0].retry == (number != errno.EACCES)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="only POSIX has devices in /dev")
def test_what_is_not_a_camera() -> None:
    with reading("/dev/null") as (events, _):
        assert "is not a camera that records video" in reason(events)
    with reading("/dev/video97") as (events, _):
        assert "there is no such camera" in reason(events)


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with reading(str(tmp_path / "a.mp4")) as (events, _):
        assert reason(events) == "is not a video"
    with reading(str(tmp_path / "b.mp4")) as (events, _):
        assert reason(events).startswith("no such file")


@pytest.mark.parametrize("kind", ["file", "pipe", "url"])
def test_only_a_live_source_that_breaks_is_opened_again(
    film: Path, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(SourceReader, "_read_packets", breaks)
    with reading(Address(kind, "film", str(film))) as (events, _):
        assert reason(events).endswith(": Input/output error")
        assert events[-1].retry == (kind == "url")


# --- a web server ----------------------------------------------------------------------------------------


def live_playlist(first: int, stop: int, *, end: bool = False) -> bytes:
    """Return a playlist of the segments from `first` to before `stop`."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", f"#EXT-X-MEDIA-SEQUENCE:{first}"]
    for number in range(first, stop):
        lines += ["#EXTINF:1.0,", f"{number}.ts"]
    return "\n".join([*lines, *(["#EXT-X-ENDLIST"] if end else []), ""]).encode()


def put(site: Any, segments: Segments) -> None:
    for name, content in segments.items():
        site.put(f"/{name}", content)


def test_a_complete_playlist_has_an_end(site: Any, segments: Segments) -> None:
    put(site, segments)
    with reading(site.url("/all.m3u8")) as (events, ring):
        assert ring.count("frames") == 60
    assert events == [Opened(80, 48, 10.0, "h264", finite=True), Ended()]


def test_a_live_playlist_begins_with_its_newest_segment(site: Any, segments: Segments) -> None:
    put(site, segments)
    page = site.put("/live.m3u8", live_playlist(0, 4))
    clock = Clock()
    asked: list[int] = []

    def sleep(seconds: float) -> None:
        clock.now += seconds
        asked.append(1)
        if len(asked) == 5:  # the server goes away
            page.refusals = [404] * 100

    clock.sleep = sleep  # type: ignore[method-assign]
    with reading(site.url("/live.m3u8"), timeout=0.5, clock=clock) as (events, ring):
        assert ring.count("frames") == 10
    assert isinstance(events[0], Opened)
    assert not events[0].finite
    assert isinstance(events[-1], Problem)
    assert events[-1].retry


@pytest.mark.parametrize(
    ("status", "text", "retry"),
    [(401, "(401)", False), (403, "(403)", False), (404, "(404)", True), (503, "", True)],
)
def test_a_server_that_refuses(site: Any, segments: Segments, status: int, text: str, retry: bool) -> None:
    put(site, segments)
    site.pages["/all.m3u8"].refusals = [status] * 3
    url = site.url("/all.m3u8").replace("http://", "http://me:secret@")
    with reading(url) as (events, _):
        assert text in reason(events)
        assert "secret" not in reason(events)
        assert events[-1].retry == retry


def test_a_web_page_is_not_a_stream(site: Any) -> None:
    site.put("/index", b"<!DOCTYPE html><html><body>camera</body></html>" * 50)
    with reading(site.url("/index")) as (events, _):
        assert reason(events).startswith("this is a web page, not a stream")
        assert not events[-1].retry
    with reading(site.url("/index").replace("http://", "http://me:secret@")) as (events, _):
        assert reason(events).startswith("this is a web page, not a stream")
        assert "secret" not in reason(events)


def test_a_server_that_stalls_or_resets(site: Any, segments: Segments) -> None:
    site.put("/a.ts", segments["0.ts"] + segments["1.ts"], length=-1, hold=len(segments["0.ts"]))
    with reading(site.url("/a.ts"), timeout=0.2) as (events, _):
        assert reason(events) == "no data for 0.6 s"
        assert events[-1].retry
    whole = segments["0.ts"] + segments["1.ts"] + segments["2.ts"]
    site.put("/b.ts", whole, cuts=[len(whole) * 2 // 3] * 9)
    with reading(site.url("/b.ts")) as (events, _):
        assert reason(events).startswith("the connection broke")
        assert events[-1].retry
    with reading("http://127.0.0.1:9/a.ts", timeout=0.5) as (events, _):
        assert reason(events).startswith("cannot be reached: Connection refused")
        assert events[-1].retry


def test_a_playlist_cannot_read_files_of_this_machine(site: Any, film: Path) -> None:
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:5", "#EXTINF:5,", f"file://{film}", "#EXT-X-ENDLIST", ""]
    site.put("/evil.m3u8", "\n".join(lines).encode())
    with reading(site.url("/evil.m3u8")) as (events, ring):
        assert isinstance(events[-1], Problem)
        assert ring.count("frames") == 0


def test_mjpeg_over_http_has_the_times_of_its_arrival(site: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (80, 48)).save(file, "JPEG")
    jpeg = file.getvalue()
    part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)
    site.put("/cam", part * 30, length=-1, headers={"Content-Type": "multipart/x-mixed-replace;boundary=x"})
    address = parse_address(site.url("/cam"))
    task = ReadTask(address, SPEC, None, 5, 40)  # type: ignore[arg-type]
    with open_source(task) as container:
        assert container.format.name == "mpjpeg"
        stamps = [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.size]
    assert len(stamps) == 30
    assert min(stamps) > 1e9  # seconds since 1970; FFmpeg would number frames at 25 per second
