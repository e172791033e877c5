"""Occlusion over time, compared with a slow computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from t3d.explanation.occlusion import importance_of, windows_of, without_window


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 15, 16, 32, 50])
def test_windows_cover_every_frame_and_leave_some(frames: int) -> None:
    windows = windows_of(frames)
    covered = {number for low, high in windows for number in range(low, high)}
    assert covered == (set(range(frames)) if frames > 1 else set())
    assert len({high - low for low, high in windows}) <= 1
    for window in windows:
        shown = without_window(frames, window)
        assert len(shown) == frames
        assert not set(shown.tolist()) & set(range(*window))
        kept = [number for number in range(frames) if not window[0] <= number < window[1]]
        assert shown[kept].tolist() == kept
        for number in range(*window):
            assert abs(int(shown[number]) - number) == min(abs(each - number) for each in kept)


def brightness(clips: Tensor) -> Tensor:
    """A score that is known: the brightest frame."""
    return clips.float().mean(dim=(2, 3, 4)).amax(1)


@pytest.mark.parametrize("segments", [1, 2])
def test_importance_equals_a_slow_computation(segments: int) -> None:
    frames = torch.zeros(16, 3, 4, 4, dtype=torch.uint8)
    frames[5] = 80
    frames[12] = 60
    length = 16 // segments
    falls: list[list[float]] = [[] for _ in range(16)]
    whole = float(brightness(frames[None]))
    for segment in range(segments):
        part = range(segment * length, (segment + 1) * length)
        width = length // 4
        for start in range(0, length - width + 1, max(width // 2, 1)):
            gone = range(part.start + start, part.start + start + width)
            left = [number for number in part if number not in gone]
            clip = frames.clone()
            for number in gone:
                clip[number] = frames[min(left, key=lambda each: (abs(each - number), each))]
            for number in gone:
                falls[number].append(whole - float(brightness(clip[None])))
    expected = [float(np.mean(each)) for each in falls]
    assert importance_of(brightness, frames, segments=segments) == pytest.approx(expected, abs=1e-6)
    assert int(np.argmax(expected)) in range(4, 8)
    assert min(expected) == 0


def test_a_clip_that_stands_still_has_no_frame_that_matters() -> None:
    frames = torch.full((8, 3, 4, 4), 90, dtype=torch.uint8)
    assert importance_of(brightness, frames).tolist() == [0.0] * 8
    assert importance_of(brightness, frames[:1]).tolist() == [0.0]
