"""Frames in memory are treated as the same frames in a file."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.arrays import frames_first, load_clips, open_one
from t3d.data.clips.frames import FrameStore
from t3d.errors import ConfigError, VideoError
from t3d.video.encode import write_video
from t3d.video.video import Video

SPEC = ClipSpec(num_frames=4, stride=2, size=24, resize=28, tail="shift")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = torch.randint(0, 256, (21, 3, 40, 56), generator=torch.Generator().manual_seed(0))
    return write_video(tmp_path_factory.mktemp("film") / "a.mp4", frames.to(torch.uint8))


def test_a_file_and_its_frames_give_the_same_clips(film: Path) -> None:
    want = load_clips(film, SPEC)
    assert want.shape == (3, 3, 4, 24, 24)
    assert want.dtype == torch.float32
    frames = Video(film)[:]
    for same in (frames, frames.numpy(), frames.permute(0, 2, 3, 1), frames.permute(0, 2, 3, 1).numpy()):
        assert torch.equal(load_clips(same, SPEC), want)
    assert torch.equal(load_clips(str(film), SPEC), want)
    assert torch.equal(load_clips(Video(film), SPEC), want)


def test_a_short_array_wraps_as_a_short_file_does() -> None:
    frames = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1) * np.ones((1, 28, 28, 3), np.uint8)
    clip = load_clips(frames, SPEC)[0, 0, :, 0, 0]
    numbers = (clip * SPEC.std[0] + SPEC.mean[0]) * 255
    assert numbers.round().int().tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((8, 20, 30, 3), np.float32),
        np.zeros((20, 30, 3), np.uint8),
        np.zeros((8, 20, 30), np.uint8),
        np.zeros((8, 20, 30, 4), np.uint8),
        np.zeros((0, 20, 30, 3), np.uint8),
        np.zeros((8, 20, 30, 3), np.uint16),
        np.zeros((8, 20, 30, 3), object),  # torch has no such type
        np.array(["a.mp4"]),
    ],
)
def test_other_arrays_are_refused_with_what_is_allowed(frames: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=r"got frames \S+ \[.*uint8 \[T, H, W, 3\] or"):
        load_clips(frames, SPEC)


def test_views_that_run_backward_and_arrays_that_cannot_be_written_to_are_copied() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    want = frames_first(frames[..., ::-1].copy())  # BGR, as OpenCV reads frames, turned into RGB
    assert torch.equal(frames_first(frames[..., ::-1]), want)
    frames.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(frames_first(frames), frames_first(frames.copy()))


def test_frames_that_could_be_either_are_refused() -> None:
    with pytest.raises(ConfigError, match="resize them first"):
        frames_first(np.zeros((8, 3, 30, 3), np.uint8))


def test_a_bad_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        load_clips(tmp_path / "bad.mp4", SPEC)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        load_clips(tmp_path / "gone.mp4", SPEC)


@pytest.mark.parametrize("video", [None, ["a.mp4"], ("a.mp4", "b.mp4"), 3, b"a.mp4", [np.zeros((4, 5, 3))]])
def test_other_types_are_refused_with_what_is_allowed(video: object) -> None:
    with pytest.raises(ConfigError, match=r"type \w+; give the path of a file, a t3d.Video, or RGB") as error:
        open_one(video, FrameStore(SPEC))  # type: ignore[arg-type]
    assert ("`Predictor.many` takes several paths" in str(error.value)) is isinstance(video, list | tuple)


def test_a_folder_is_not_one_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder; give one video file"):
        load_clips(tmp_path, SPEC)
