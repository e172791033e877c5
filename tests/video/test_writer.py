from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from t3d.errors import ConfigError, VideoError
from t3d.video.video import Video
from t3d.video.writer import Encoding, video_writer

FORM = {"height": 48, "width": 80, "time_base": Fraction(1, 1000), "rate": Fraction(25)}


def test_frames_have_the_requested_times_and_durations(tmp_path, numbered_frames, read_numbers):
    ticks, last = [0, 1, 2, 40, 41, 900, 901, 2500], 77
    with video_writer(tmp_path / "a.mp4", **FORM) as writer:
        for image, tick, following in zip(
            numbered_frames(8).permute(0, 2, 3, 1).numpy(), ticks, [*ticks[1:], ticks[-1] + last], strict=True
        ):
            writer.add(image, tick, duration=following - tick)
    with Video(tmp_path / "a.mp4") as video:
        assert read_numbers(video.frames_at(range(8))) == list(range(8))
        assert video.times.tolist() == [tick / 1000 for tick in ticks]
        assert video.duration == pytest.approx(2.577)


def test_a_file_that_fails_its_check_does_not_take_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def refuse(part: Path) -> None:
        with Video(part) as video:
            raise VideoError(part, f"has {len(video)} frames")

    with (
        pytest.raises(VideoError, match="has 1 frames"),
        video_writer(path, **FORM, check=refuse) as writer,
    ):
        writer.add(np.zeros((48, 80, 3), np.uint8), 0)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_of_the_caller_are_raised_unchanged(tmp_path):
    with pytest.raises(ValueError, match="mine"), video_writer(tmp_path / "a.mp4", **FORM):
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_encoder_have_the_final_name(tmp_path):
    image = np.zeros((48, 80, 3), np.uint8)
    with (
        pytest.raises(ConfigError, match=r"a\.mp4: libx264 could not write frames of 80 × 48 as yuv420p: "),
        video_writer(tmp_path / "a.mp4", **FORM, encoding=Encoding(extra={"preset": "no such"})) as writer,
    ):
        writer.add(image, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_long_video_is_not_kept_in_memory():
    code = """
import resource, tempfile
from fractions import Fraction
from pathlib import Path
import numpy as np
from t3d.prepare.rewrite import TranscodeSpec, rewrite
from t3d.video.writer import video_writer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def write(frames):
    clock = {"time_base": Fraction(1, 25), "rate": Fraction(25)}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "a.mp4"
        with video_writer(source, height=240, width=320, **clock) as writer:
            for tick in range(frames):
                writer.add(np.full((240, 320, 3), tick % 256, np.uint8), tick)
        rewrite(source, Path(folder) / "b.mp4", TranscodeSpec())

write(100)
before = peak()
write(800)  # 184 MB of pixels
print((peak() - before) * 1024 / (800 * 240 * 320 * 3))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.2
