"""Fixtures for transfer tests: smooth frames, and a reference implementation of teacher preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from t3d.transfer.teachers.base import Teacher


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture
def frames() -> Tensor:
    """Three smooth frames of 90 × 120 pixels, uint8 [3, 3, 90, 120]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 9, 12, generator=generator) * 255
    return F.interpolate(coarse, (90, 120), mode="bilinear").byte()


def _reference(frames: Tensor, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    recipe = v2.Compose(
        [
            v2.Resize(size, antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
    return torch.stack([recipe(frame) for frame in frames])


@pytest.fixture(scope="session")
def reference() -> Callable[[Tensor, int, Sequence[float], Sequence[float]], Tensor]:
    """Preparer of frames, one by one, by torchvision's classes: called with frames, size, mean, std."""
    return _reference


@pytest.fixture(scope="session")
def seen_by() -> Callable[[Teacher, Tensor], Tensor]:
    """The same at the size and with the normalization of a teacher."""
    return lambda teacher, frames: _reference(frames, teacher.size, teacher.mean, teacher.std)
