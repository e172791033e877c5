from __future__ import annotations

import numpy as np
import pytest
import torch

from t3d.video.batch import FrameBatch

DATA = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
TIMES, DURATIONS = np.array([1.0, 1.5]), np.array([0.5, 0.25])


def test_frames_come_with_their_times() -> None:
    batch = FrameBatch(DATA, TIMES, DURATIONS)
    assert len(batch) == 2
    for number, (frame, time, duration) in enumerate(batch):
        assert torch.equal(frame, DATA[number])
        assert (time, duration) == (TIMES[number], DURATIONS[number])


def test_a_batch_prints_its_shapes_and_span() -> None:
    assert repr(FrameBatch(DATA, TIMES, DURATIONS)) == (
        "FrameBatch(data: uint8 [2, 3, 4, 5], times: float64 [2], durations: float64 [2], 1.000 … 1.750 s)"
    )
    assert repr(FrameBatch(DATA[:0], TIMES[:0], DURATIONS[:0])) == (
        "FrameBatch(data: uint8 [0, 3, 4, 5], times: float64 [0], durations: float64 [0])"
    )


@pytest.mark.parametrize(
    ("data", "times", "durations", "message"),
    [
        (DATA.float(), TIMES, DURATIONS, r"data must be uint8 T C H W .*, got float32 \[2, 3, 4, 5\]"),
        (DATA[0], TIMES, DURATIONS, r"data must be .*, got uint8 \[3, 4, 5\]"),
        (DATA[:, :2], TIMES, DURATIONS, r"data must be .*, got uint8 \[2, 2, 4, 5\]"),
        (DATA, TIMES[:1], DURATIONS, r"times must be float64 \[2\], one number per frame, got float64 \[1\]"),
        (DATA, TIMES, DURATIONS.astype(np.float32), r"durations must be float64 \[2\], .* got float32 \[2\]"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(data, times, durations, message) -> None:
    with pytest.raises(ValueError, match=message):
        FrameBatch(data, times, durations)
