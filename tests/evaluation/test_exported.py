"""Exported models score videos without torch as they do with it."""

from __future__ import annotations

import itertools
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.clips import numpy_pixels
from t3d.data.clips.dataset import ClipItem, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import ConfigError, DivergedError, Failed, VideoError
from t3d.evaluation.collect import collect
from t3d.evaluation.exported import ClipImages, clips_of, scored_videos
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import ClipTimes, Scores
from t3d.evaluation.scoring import score_videos
from t3d.progress import Bar
from t3d.runtime.exported import ExportedModel
from t3d.runtime.stamp import Stamp
from t3d.video.encode import write_video
from t3d.video.video import Video

SPEC = ClipSpec(num_frames=4, stride=1, size=24, resize=24)
CLASSES = ("a", "b", "c")


class Linear(ExportedModel):
    """Scores that every pixel contributes to; no runtime is needed."""

    runtime = "onnx"

    def __init__(self, spec: ClipSpec, **card: Any) -> None:
        stamp = Stamp("fp32", "", "")
        super().__init__(
            Path("x.onnx"), ModelCard("t3d_tiny", {}, CLASSES, spec, **card), stamp, precision="fp32"
        )
        pixels = 3 * spec.segments * spec.num_frames * spec.size**2
        self.weights = np.random.default_rng(0).normal(0, 3 / pixels**0.5, (pixels, 3)).astype(np.float32)
        self.batches: list[int] = []

    def _run(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.batches.append(len(clips))
        return np.concatenate([clip.reshape(1, -1) @ self.weights for clip in clips])


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Videos of 2 to 30 frames, also upright, and two that cannot be read."""
    root = tmp_path_factory.mktemp("films")
    for number, (length, height, width) in enumerate(
        [(9, 36, 50), (30, 50, 36), (2, 24, 24), (13, 90, 64), (5, 30, 44)]
    ):
        generator = torch.Generator().manual_seed(number)
        frames = torch.randint(0, 256, (length, 3, height, width), generator=generator, dtype=torch.uint8)
        write_video(root / f"{number}.mp4", frames, fps=10 + 5 * number)
    (root / "1b.mp4").write_text("no video")
    (root / "5.mp4").touch()
    return Manifest.from_files([root]).with_classes(CLASSES)


def store_of(spec: ClipSpec) -> FrameStore:
    return FrameStore(spec, resize=numpy_pixels.resize)


def scored(
    model: Linear, films: Manifest, *, workers: int = 2, batch_size: int = 3
) -> tuple[Scores, ClipTimes]:
    """Return the scores of all parts as those of one."""
    rows, bad, times, first = [], [], {}, 0
    bar = Bar("Scoring", len(films))
    compute = Compute(workers=workers, batch_size=batch_size)
    store = store_of(model.card.clip)
    for scored_part in scored_videos(model, films, store=store, compute=compute, bar=bar):
        part, spans = scored_part.scores, scored_part.times
        keys = sorted(spans)
        assert [video for video, _ in keys] == part.clip_video.tolist()
        rows += [
            (first + video, clip, probs) for (video, clip), probs in zip(keys, part.clip_probs, strict=True)
        ]
        bad += [replace(failed, row=first + failed.row) for failed in part.bad]
        times |= {(first + video, clip): span for (video, clip), span in spans.items()}
        first += len(part.paths)
    assert first == len(films)
    assert bar.done == pytest.approx(len(films))
    return collect(films, rows, bad, targets=model.card.targets), times


SPECS = {
    "plain": SPEC,
    "crop": replace(SPEC, size=20, tail="shift"),
    "pad": replace(SPEC, tail="pad", short="repeat_last"),
    "square": replace(SPEC, resize=30, resize_mode="square"),
    "aspect": replace(SPEC, pixel_aspect="square"),
    "tonemap": replace(SPEC, tonemap=True),
    "fps": replace(SPEC, stride=None, fps=7.5, tail="pad"),
    "segments": replace(SPEC, segments=3),
    "fps and segments": replace(SPEC, stride=None, fps=12.0, segments=2),
    "diff": replace(SPEC, modality="diff"),
    "gray": replace(SPEC, modality="gray", mean=(0.1, 0.2, 0.3)),
    "error": replace(SPEC, short="error"),
}


@pytest.mark.parametrize("name", SPECS)
def test_probabilities_and_times_are_those_with_torch(films: Manifest, name: str) -> None:
    model = Linear(SPECS[name])
    expected_times: ClipTimes = {}
    expected = score_videos(model, films, Protocol(SPECS[name]), times=expected_times)
    got, times = scored(model, films)
    np.testing.assert_allclose(got.clip_probs, expected.clip_probs, atol=1e-4)
    np.testing.assert_allclose(got.video_probs, expected.video_probs, atol=1e-4)
    np.testing.assert_array_equal(got.clip_video, expected.clip_video)
    assert np.ptp(got.clip_probs, axis=0).max() > 0.1
    assert got.bad == expected.bad
    assert len(got.bad) == (3 if name == "error" else 2)
    for row in {failed.row for failed in got.bad}:
        expected_times = {key: span for key, span in expected_times.items() if key[0] != row}
    assert times == expected_times


def test_several_labels_have_independent_probabilities(films: Manifest) -> None:
    model = Linear(SPEC, targets="multi")
    expected = score_videos(model, films, Protocol(SPEC, "multi"))
    got, _ = scored(model, films)
    np.testing.assert_allclose(got.video_probs, expected.video_probs, atol=1e-4)
    assert not np.allclose(np.nansum(got.video_probs, 1), 1)


def test_threads_and_batches_are_full_and_change_nothing(films: Manifest) -> None:
    model = Linear(SPEC)
    first, _ = scored(model, films, workers=0, batch_size=4)
    clips = len(first.clip_probs)
    assert model.batches == [4] * (clips // 4) + [clips % 4] * bool(clips % 4)
    for workers in (1, 3):
        again, _ = scored(model, films, workers=workers, batch_size=4)
        np.testing.assert_array_equal(again.clip_probs, first.clip_probs)


def test_a_video_that_breaks_in_the_middle_counts_nowhere(
    films: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = Video.images_at

    def breaks(self: Video, indices: Any, **options: Any) -> np.ndarray:
        if max(indices) > 15:
            raise VideoError(self.path, "damaged at frame 16")
        return true(self, indices, **options)

    monkeypatch.setattr(Video, "images_at", breaks)
    for batch_size in (1, 3, 8):
        got, times = scored(Linear(SPEC), films, batch_size=batch_size)
        assert [failed.reason for failed in got.bad if "damaged" in failed.reason] == ["damaged at frame 16"]
        (row,) = [failed.row for failed in got.bad if "damaged" in failed.reason]
        assert row not in got.clip_video
        assert row not in {video for video, _ in times}
        assert np.isnan(got.video_probs[row]).all()


def test_scores_come_as_videos_are_read_and_threads_end_with_the_caller(films: Manifest) -> None:
    many = films.select([0] * 200)
    model = Linear(SPEC)
    compute = Compute(workers=2, batch_size=2)
    parts = scored_videos(model, many, store=store_of(SPEC), compute=compute, bar=Bar("Scoring", 200))
    with closing(parts):
        part = next(parts).scores
    assert len(part.paths) < 10
    assert sum(model.batches) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("t3d reader")]


def test_a_signal_ends_the_threads_too(films: Manifest) -> None:
    class Stopped(Linear):
        def _run(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:  # noqa: ARG002
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored(Stopped(SPEC), films.select([0, 1] * 50))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("t3d reader")]


def test_scores_that_are_not_finite_are_refused(films: Manifest) -> None:
    model = Linear(SPEC)
    model.weights[:] = np.nan
    with pytest.raises(DivergedError, match="not finite"):
        scored(model, films)


def test_arrays_of_another_shape_or_type_are_refused() -> None:
    model = Linear(SPEC)
    clips = np.zeros((2, 3, 4, 24, 24))
    np.testing.assert_array_equal(model.scores(clips), np.zeros((2, 3)))
    np.testing.assert_array_equal(model(torch.zeros(2, 3, 4, 24, 24)).numpy(), np.zeros((2, 3)))
    with pytest.raises(ConfigError, match=r"2 × 3 × 4 × 24 × 23; .* B × 3 × 4 × 24 × 24"):
        model.scores(clips[..., 1:])
    with pytest.raises(ConfigError, match=r"uint8; .*divide 8-bit pixels by 255"):
        model.scores(clips.astype(np.uint8))


@pytest.mark.real
@pytest.mark.long
@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, tail="pad", size=64, resize=72),
        pytest.param(
            replace(SPEC, stride=None, fps=5, segments=2, resize=40, pixel_aspect="square", tonemap=True),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pixels_of_odd_videos_are_those_with_torch(real_data: Path, spec: ClipSpec) -> None:
    folders = [folder for name in ("odd_videos", "reported") if (folder := real_data / name).is_dir()]
    manifest = Manifest.from_files(folders)
    torch_clips = VideoClips(manifest, spec, store=FrameStore(spec))
    store = store_of(spec)
    read = 0
    for row in range(len(manifest)):
        # Three clips of each: the videos are long, and decoding is the same.
        expected = list(itertools.islice(torch_clips.of(row), 3))
        got = list(itertools.islice(clips_of(row, manifest, store), 3))
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            if isinstance(one, Failed):
                assert one == other
                continue
            assert isinstance(one, ClipImages)
            assert isinstance(other, ClipItem)
            assert (one.video, one.number, *one.times) == (other.video, other.clip, other.start, other.end)
            wanted = other.frames.permute(0, 2, 3, 1).numpy().astype(int)
            assert np.abs(one.images - wanted).max() <= 1
            read += 1
    assert read > 50
