"""Frames in another order: what a test with shuffled, reversed or static frames shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import FrameOrder, VideoClips, reorder

Make = Callable[..., Any]


def test_one_clip() -> None:
    clip = np.arange(3, 19, 2)
    assert [reorder(clip, "shuffled", np.random.default_rng((seed, 4, 1))).tolist() for seed in range(3)] == [
        [7, 3, 5, 15, 13, 9, 17, 11],
        [9, 17, 5, 11, 3, 15, 7, 13],
        [13, 9, 3, 7, 15, 5, 11, 17],
    ]
    assert reorder(clip, "reversed", np.random.default_rng(0)).tolist() == [17, 15, 13, 11, 9, 7, 5, 3]
    assert reorder(clip, "static", np.random.default_rng(0)).tolist() == [11] * 8
    assert reorder(clip, "normal", np.random.default_rng(0)).tolist() == clip.tolist()


def test_every_clip_of_a_list(manifest: Make, fake_store: Make) -> None:
    def asked(order: FrameOrder, seed: int, segments: int = 1) -> list[list[int]]:
        spec = ClipSpec(num_frames=5, stride=2, size=16, resize=40, segments=segments)
        store = fake_store(spec, 22)
        table = manifest([("0", 0, "s0"), ("1", 0, "s1")], "a")
        list(VideoClips(table, spec, store=store, order=order, seed=seed))
        return list(store.asked)

    assert asked("shuffled", 0) == [
        [4, 8, 6, 0, 2],
        [12, 16, 18, 14, 10],
        [2, 8, 6, 0, 4],
        [10, 18, 16, 12, 14],
    ]
    assert asked("shuffled", 1) == [
        [8, 0, 2, 4, 6],
        [14, 18, 10, 12, 16],
        [2, 8, 0, 6, 4],
        [16, 12, 18, 14, 10],
    ]
    assert asked("shuffled", 0, segments=2) == [
        [5, 9, 7, 1, 3, 20, 14, 16, 12, 18],
        [3, 9, 7, 1, 5, 14, 18, 20, 16, 12],
    ]
    normal = asked("normal", 0)
    assert normal == [[0, 2, 4, 6, 8], [10, 12, 14, 16, 18]] * 2
    assert [sorted(clip) for clip in asked("shuffled", 3)] == normal
    assert asked("reversed", 0) == [clip[::-1] for clip in normal]
    assert asked("static", 0) == [[4] * 5, [14] * 5] * 2
