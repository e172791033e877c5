"""No file fills the memory or stops a run: limits of frame size, clip size and time."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.errors import ConfigError, VideoError
from t3d.prepare.examine import examine
from t3d.prepare.rewrite import TranscodeSpec, rewrite
from t3d.video import limits as limits_module
from t3d.video.encode import write_video
from t3d.video.facts import VideoFacts
from t3d.video.limits import ReadLimits, TimeLimit
from t3d.video.video import Video


def gif(path: Path, *, height: int, width: int, frames: int) -> Path:
    """Write a GIF whose frames have one pixel each: a few bytes, whatever the size of the frames."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes((10, 20, 30, 200, 210, 220))
    frame = b"\x21\xf9\x04\x04\x04\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0)
    path.write_bytes(b"GIF89a" + screen + (frame + b"\x02\x02\x4c\x01\x00") * frames + b"\x3b")
    return path


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """940 bytes, 2.56 billion pixels."""
    return gif(tmp_path / "bomb.gif", height=8000, width=8000, frames=40)


@pytest.mark.situation(
    "Video files",
    "A tiny file with huge frames fills the memory",
    "Refused before decoding, with the option that allows it",
    ffmpeg="decodes it",
)
def test_a_frame_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, bomb):
    message = (
        r"bomb.gif: frames are 8000 × 8000, 64 megapixels, more than `max_megapixels` = 40 allows; raise"
    )
    with pytest.raises(VideoError, match=message):
        Video(bomb)
    with pytest.raises(VideoError, match=message):
        FrameStore(ClipSpec()).open(bomb)
    assert "frames are 8000 × 8000" in examine(str(bomb), max_megapixels=40)["error"]
    with pytest.raises(VideoError, match=message):
        rewrite(bomb, tmp_path / "new.mp4", TranscodeSpec(), max_megapixels=40)


def test_the_limit_of_pixels_can_be_raised(tmp_path):
    path = gif(tmp_path / "small.gif", height=100, width=200, frames=3)
    with pytest.raises(VideoError, match=r"200 × 100, 0.02 megapixels, more than `max_megapixels` = 0.0199"):
        Video(path, limits=ReadLimits(max_megapixels=0.0199))
    with Video(path, limits=ReadLimits(max_megapixels=0.02)) as video:
        assert video[0].shape == (3, 100, 200)


@pytest.mark.parametrize("indexed", [False, True])
def test_a_common_file_is_checked_as_well(tmp_path, numbered_frames, indexed):
    path = write_video(tmp_path / "a.mp4", numbered_frames(4))
    facts = VideoFacts.of_row(examine(str(path))) if indexed else None
    with pytest.raises(VideoError, match=r"frames are 80 × 48"):
        Video(path, facts=facts, limits=ReadLimits(max_megapixels=0.0038))


def test_a_clip_that_takes_too_much_memory_is_refused(tmp_path):
    path = gif(tmp_path / "wide.gif", height=8, width=8000, frames=20)  # 256 high, it is 256,000 wide
    message = r"20 frames resized to 256000 × 256 take 3.93 GB, more than `max_clip_gb` = 2 allows"
    with pytest.raises(VideoError, match=message):
        FrameStore(ClipSpec()).open(path)
    FrameStore(ClipSpec(resize_mode="square")).open(path)
    FrameStore(ClipSpec(), limits=ReadLimits(max_clip_gb=4)).open(path)


def test_a_frame_store_asks_for_resized_frames(tmp_path, numbered_frames, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered_frames(12))
    shapes = []
    plain = Video.images_at

    def watched(self, indices, **options):
        frames = plain(self, indices, **options)
        shapes.append(frames.shape[1:3])
        return frames

    monkeypatch.setattr(Video, "images_at", watched)
    spec = ClipSpec(num_frames=4, size=24, resize=24)
    store = FrameStore(spec, cache=str(tmp_path / "cache"))
    FrameStore(spec).open(path).get(np.arange(4))
    assert store.prepare(path)
    assert set(shapes) == {(24, 40)}


@pytest.mark.situation(
    "Video files",
    "A file takes forever",
    "Reported after a time limit",
    ffmpeg="no limit",
)
def test_reading_stops_at_the_time_limit(tmp_path, numbered_frames, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered_frames(30))
    facts = VideoFacts.of_row(examine(str(path)))
    clock = iter(range(1000))
    monkeypatch.setattr(limits_module.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(VideoError, match=r"a.mp4: timeout: not read within 10 s; raise `timeout`, or make"):
        Video(path, limits=ReadLimits(timeout=10))
    with Video(path, facts=facts, limits=ReadLimits(timeout=10)) as video:
        assert video.frames_at([0]).shape == (1, 3, 48, 80)
        for _ in range(2):
            with pytest.raises(VideoError, match="timeout: not read within 10 s"):
                video.frames_at(range(30))


def test_time_between_two_calls_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(limits_module.time, "monotonic", lambda: now[0])
    limit = TimeLimit("a.mp4", 10)
    for _ in range(3):
        now[0] += 100  # the model computes
        with limit:
            now[0] += 3
            limit.check()
    with limit:
        now[0] += 2
        with pytest.raises(VideoError, match="timeout"):
            limit.check()


@pytest.mark.parametrize("name", ["timeout", "max_megapixels", "max_clip_gb"])
def test_limits_are_above_zero(name):
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        ReadLimits(**{name: 0})
    ReadLimits(**{name: math.inf})
