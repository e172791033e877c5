from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from t3d.errors import ConfigError
from t3d.video.encode import write_video
from t3d.video.writer import FORMATS, VideoWriter

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 100, 50)]


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def color_frames(side: int = 32) -> torch.Tensor:
    return torch.tensor(COLORS, dtype=torch.uint8)[:, :, None, None].repeat(1, 1, side, side)


def test_frames_come_back_in_order_and_evenly(tmp_path, numbered_frames, read_numbers):
    path = write_video(tmp_path / "a.mp4", numbered_frames(50), fps=30)
    frames = decoded(path)
    images = np.stack([frame.to_ndarray(format="rgb24") for frame in frames]).transpose(0, 3, 1, 2)
    assert read_numbers(torch.from_numpy(images)) == list(range(50))
    assert [frame.time for frame in frames] == pytest.approx([i / 30 for i in range(50)])


@pytest.mark.parametrize("form", ["tensor", "numpy", "strided"])
def test_frames_may_be_a_tensor_or_numpy_of_any_strides(tmp_path, numbered_frames, read_numbers, form):
    frames = numbered_frames(10)
    given = {
        "tensor": frames,
        "numpy": frames.numpy(),
        "strided": frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    }[form]
    images = np.stack([f.to_ndarray(format="rgb24") for f in decoded(write_video(tmp_path / "a.mp4", given))])
    assert read_numbers(torch.from_numpy(images.transpose(0, 3, 1, 2))) == list(range(10))


@pytest.mark.parametrize("fps", [25, 29.97, Fraction(30000, 1001), 12.5])
def test_frame_rate_is_exact(tmp_path, numbered_frames, fps):
    with av.open(str(write_video(tmp_path / "a.mp4", numbered_frames(9), fps=fps))) as container:
        assert container.streams.video[0].average_rate == Fraction(fps).limit_denominator(100_000)


def test_frame_times_make_a_variable_rate(tmp_path, numbered_frames):
    times = [2.0, 2.04, 2.3, 2.31, 3.5]
    frames = decoded(write_video(tmp_path / "a.mp4", numbered_frames(5), frame_times=times))
    assert [frame.time - frames[0].time for frame in frames] == pytest.approx(
        [t - 2 for t in times], abs=1e-5
    )


@pytest.mark.parametrize("interval", [1, 7, 16])
def test_key_frames_have_a_maximum_distance(tmp_path, numbered_frames, interval):
    frames = decoded(write_video(tmp_path / "a.mp4", numbered_frames(40), keyframe_interval=interval))
    keys = [i for i, frame in enumerate(frames) if frame.key_frame]
    assert keys[0] == 0
    assert max(np.diff([*keys, 40])) <= interval


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({}, 4),
        ({"pixel_format": "yuv444p"}, 4),
        ({"pixel_format": "yuvj420p"}, 5),
        ({"pixel_format": "yuv420p10le"}, 4),
        ({"codec": "libx264rgb", "pixel_format": "rgb24", "crf": 0}, 0),
        ({"codec": "libvpx-vp9"}, 4),
    ],
)
def test_colors_survive(tmp_path, options, tolerance):
    frames = decoded(write_video(tmp_path / "a.mp4", color_frames(), **options))
    for frame, color in zip(frames, COLORS, strict=True):
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - color).max() <= tolerance


@pytest.mark.parametrize("suffix", sorted(set(FORMATS) - {".webm"}))
def test_every_container_can_be_read(tmp_path, numbered_frames, suffix):
    assert len(decoded(write_video(tmp_path / f"a{suffix}", numbered_frames(20)))) == 20


def test_index_is_in_front(tmp_path, numbered_frames):
    data = write_video(tmp_path / "a.mp4", numbered_frames(5)).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_odd_sides_need_full_chroma(tmp_path):
    odd = torch.zeros(3, 3, 33, 35, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"width 35 and height 33.*yuv444p"):
        write_video(tmp_path / "a.mp4", odd)
    with pytest.raises(ConfigError, match="width 35;"):
        write_video(tmp_path / "a.mp4", odd, pixel_format="yuv422p")
    frames = decoded(write_video(tmp_path / "a.mp4", odd, pixel_format="yuv444p"))
    assert {(frame.height, frame.width) for frame in frames} == {(33, 35)}


GOOD = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "frames", "options", "message"),
    [
        ("a.mp4", GOOD.float(), {}, "uint8"),
        ("a.mp4", GOOD.permute(0, 2, 3, 1), {}, "T C H W"),
        ("a.mp4", GOOD[0], {}, "T C H W"),
        ("a.mp4", GOOD[:0], {}, "at least one frame"),
        ("a.mp5", GOOD, {}, "did you mean '.mp4'"),
        ("a.webm", GOOD, {}, "webm"),
        ("a.mp4", GOOD, {"codec": "x264"}, "did you mean 'libx264'"),
        ("a.mp4", GOOD, {"pixel_format": "yuv420"}, "did you mean 'yuv420p'"),
        ("a.mp4", GOOD, {"fps": 0}, "fps"),
        ("a.mp4", GOOD, {"fps": float("nan")}, "fps"),
        ("a.mp4", GOOD, {"crf": -1}, "crf"),
        ("a.mp4", GOOD, {"keyframe_interval": 0}, "keyframe_interval"),
        ("a.mp4", GOOD, {"frame_times": [0, 1]}, "2 times for 4 frames"),
        ("a.mp4", GOOD, {"frame_times": [0, 1, 1, 2]}, "frame 1 is at 1.0 s"),
        ("a.mp4", GOOD, {"frame_times": [0, 1, float("nan"), 2]}, "not finite"),
    ],
)
def test_invalid_input_is_an_error_and_leaves_no_file(tmp_path, name, frames, options, message):
    with pytest.raises(ConfigError, match=message):
        write_video(tmp_path / name, frames, **options)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_video(tmp_path / "nowhere" / "a.mp4", GOOD)


def test_an_error_on_the_way_keeps_the_old_file(tmp_path, numbered_frames, monkeypatch):
    path = write_video(tmp_path / "a.mp4", numbered_frames(5))
    before = path.read_bytes()

    def broken(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VideoWriter, "add", broken)
    with pytest.raises(KeyboardInterrupt):
        write_video(path, numbered_frames(5))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
