"""Clip positions: random ones for training, fixed ones for testing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import TrainClips
from t3d.data.clips.sampler import SampleKey
from t3d.data.clips.sampling import clips_of, random_clip, spread_clips
from t3d.data.clips.transforms import center_view, crop_views
from t3d.data.config import AugmentConfig
from t3d.data.manifest.manifest import Manifest

Make = Callable[..., Any]


def starts(total: int, spec: ClipSpec, seeds: range = range(12)) -> list[int]:
    clips = [random_clip(total, spec, np.random.default_rng(seed)) for seed in seeds]
    for clip in clips:
        assert clip.tolist() == (clip[0] + spec.stride * np.arange(spec.num_frames)).tolist()
        assert clip[-1] < total
    return [int(clip[0]) for clip in clips]


def test_random_starts() -> None:
    assert starts(100, ClipSpec(num_frames=16, stride=2)) == [59, 33, 58, 56, 50, 46, 31, 66, 50, 29, 54, 9]
    # fmt: off
    assert starts(300, ClipSpec(num_frames=32, stride=1)) == [
        228, 127, 225, 218, 195, 180, 119, 254, 193, 113, 208, 35
    ]
    # fmt: on
    assert starts(31, ClipSpec(num_frames=16, stride=2)) == [0] * 12


def test_random_starts_in_segments() -> None:
    spec = ClipSpec(num_frames=2, stride=3, segments=3)
    assert [random_clip(60, spec, np.random.default_rng(seed)).tolist() for seed in range(4)] == [
        [14, 17, 30, 33, 48, 51],
        [8, 11, 28, 31, 52, 55],
        [14, 17, 24, 27, 41, 44],
        [13, 16, 21, 24, 43, 46],
    ]


def test_keys_of_training(manifest: Make, fake_store: Make) -> None:
    spec = ClipSpec(num_frames=4, stride=2, size=16, resize=40)
    table = manifest([(str(n), n % 2, f"s{n}") for n in range(4)], "a b")

    def first(seed: int, *keys: tuple[int, ...]) -> list[int]:
        store = fake_store(spec, 500)
        clips = TrainClips(table, spec, store=store, augment=AugmentConfig(), seed=seed)
        for key in keys:
            clips[SampleKey(*key)]
        return [indices[0] for indices in store.asked]

    assert first(0, (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (7, 3)) == [420, 439, 109, 257, 333, 191]
    assert first(3, (0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (7, 3)) == [400, 137, 487, 483, 196, 489]
    assert first(0, (0, 1, 1), (0, 1, 2), (5, 2, 1)) == [478, 481, 461]
    assert first(2**40, (0, 1), (3, 2, 1)) == [457, 323]
    assert first(0, (2, 1, 0)) == first(0, (2, 1))


def test_a_time_span_of_a_video(fake_store: Make) -> None:
    spec = ClipSpec(num_frames=4, stride=2, size=16, resize=40)
    columns = {
        "path": ["3", "4"],
        "label": [0, 0],
        "start": [2.0, 10.0],
        "end": [6.0, 11.0],
        "source": ["s", "t"],
    }
    store = fake_store(spec, 500)
    clips = TrainClips(
        Manifest(("a",), pa.table(columns)), spec, store=store, augment=AugmentConfig(), seed=1
    )
    for epoch in range(4):
        clips[SampleKey(epoch, 0)]
        clips[SampleKey(epoch, 1)]
    assert all(first >= 50 and last < 150 for first, *_, last in store.asked[::2])
    assert all(first >= 250 and last < 275 for first, *_, last in store.asked[1::2])
    assert [indices[0] for indices in store.asked] == [94, 268, 98, 256, 110, 261, 91, 253]


def test_positions_of_a_test() -> None:
    spec = ClipSpec(num_frames=4, stride=3)
    assert [clip[0] for clip in clips_of(40, spec)] == [0, 12, 24]
    shift, pad = (ClipSpec(num_frames=4, stride=3, tail=tail) for tail in ("shift", "pad"))
    assert [clip[0] for clip in clips_of(40, shift)] == [0, 12, 24, 30]
    assert clips_of(40, pad)[3].tolist() == [36, 39, 38, 37]
    held = ClipSpec(num_frames=4, stride=3, tail="pad", short="repeat_last")
    assert clips_of(40, held)[3].tolist() == [36, 39, 39, 39]
    assert [clip.tolist() for clip in clips_of(5, spec)] == [[0, 3, 1, 4]]
    assert [clip.tolist() for clip in clips_of(40, ClipSpec(num_frames=2, stride=3, segments=3))] == [
        [4, 7, 17, 20, 31, 34]
    ]
    assert [clip[0] for clip in spread_clips(40, spec, count=4)] == [0, 10, 20, 30]
    assert [clip[0] for clip in spread_clips(40, spec, count=1)] == [15]
    assert [clip[0] for clip in spread_clips(12, spec, count=5)] == [0, 0, 1, 1, 2]


def test_crops_of_a_test(coded: Make) -> None:
    """Green tells the column of a pixel, 5 a column; blue the row, 1 in 5 rows."""
    frames = torch.from_numpy(coded(1))
    spec = ClipSpec(num_frames=1, size=20, resize=40)

    def places(views: Any) -> list[tuple[int, int, int]]:
        return [(int(v[0, 1, 0, 0]) // 5, int(v[0, 1, 0, -1]) // 5, int(v[0, 2, 0, 0])) for v in views]

    assert places([center_view(frames, spec)]) == places(crop_views(frames, spec, crops=1)) == [(14, 33, 2)]
    assert places(crop_views(frames, spec, crops=3)) == [(0, 19, 2), (14, 33, 2), (28, 47, 2)]
    five = [(0, 19, 0), (28, 47, 0), (0, 19, 4), (28, 47, 4), (14, 33, 2)]
    assert places(crop_views(frames, spec, crops=5)) == five
    mirrored = [(right, left, top) for left, right, top in five]
    assert places(crop_views(frames, spec, crops=10)) == five + mirrored
