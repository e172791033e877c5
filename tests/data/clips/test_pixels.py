"""Pixels against torchvision's transforms, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as twin

from t3d.data.clips import pixels

SHAPES = [(90, 120), (120, 90), (64, 64), (41, 57), (65, 64), (64, 1000)]
LAYOUTS = ["packed", "planes", "cut out"]


def noise(count: int, height: int, width: int, layout: str = "packed") -> Tensor:
    """Random frames, uint8 [N, 3, H, W], in the memory layouts that frames come in."""
    generator = torch.Generator().manual_seed(height * width + count)
    margin = 3 if layout == "cut out" else 0
    shape = (count, 3, height + margin, width + margin)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    if layout != "planes":
        frames = frames.contiguous(memory_format=torch.channels_last)
    return frames[..., margin:, margin:]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_resizing_is_torchvisions(shape: tuple[int, int], count: int, layout: str) -> None:
    frames = noise(count, *shape, layout)
    for height, width in [(64, 64), (30, 41), (130, 151)]:
        want = twin.resize(frames, [height, width], InterpolationMode.BILINEAR, antialias=True)
        assert torch.equal(pixels.resize(frames, height, width), want)
    want = twin.resize(frames, [64], InterpolationMode.BILINEAR, antialias=True)
    assert torch.equal(pixels.resize_short_side(frames, 64), want)


def test_processors_without_a_kernel_for_bytes_resize_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(2, 90, 120)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    got = pixels.resize(frames, 45, 60)
    assert got.dtype == torch.uint8
    assert torch.equal(got, twin.resize(frames, [45, 60], InterpolationMode.BILINEAR, antialias=True))


def test_frames_of_the_right_size_are_not_copied() -> None:
    frames = noise(2, 64, 90)
    assert pixels.resize(frames, 64, 90) is frames
    assert pixels.resize_short_side(frames, 64) is frames


@pytest.mark.parametrize("shape", SHAPES)
def test_the_center_is_torchvisions(shape: tuple[int, int]) -> None:
    frames = noise(2, *shape)
    assert torch.equal(pixels.center_crop(frames, 40), twin.center_crop(frames, [40, 40]))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.6123, 1.0, 1.0789, 1.4, 2.5])
@pytest.mark.parametrize("name", ["adjust_brightness", "adjust_contrast", "adjust_saturation"])
def test_colors_are_torchvisions(name: str, factor: float, layout: str) -> None:
    frames = noise(3, 41, 57, layout)
    assert torch.equal(getattr(pixels, name)(frames, factor), getattr(twin, name)(frames, factor))


def test_flipping_is_torchvisions() -> None:
    frames = noise(2, 41, 57)
    assert torch.equal(pixels.flip(frames), twin.horizontal_flip(frames))
