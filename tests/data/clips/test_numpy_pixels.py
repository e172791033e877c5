"""Pixels that NumPy computes for exported models are those of the torch functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t3d.clip import ClipSpec, Modality
from t3d.data.clips import numpy_pixels, pixels, transforms

RNG = np.random.default_rng(0)
BYTES = pixels._resizes_bytes(torch.device("cpu"))


@pytest.mark.parametrize("number", range(40))
def test_frames_are_resized_as_torch_resizes_them(number: int) -> None:
    rng = np.random.default_rng(number)
    old_height, old_width = (int(side) for side in rng.integers(1, 200, 2))
    height, width = (int(side) for side in rng.integers(1, 120, 2))
    if number % 4 == 0:
        height = old_height
    images = rng.integers(0, 256, (2, old_height, old_width, 3), dtype=np.uint8)
    if number % 2:
        images = np.where(images > 127, 255, 0).astype(np.uint8)
    got = numpy_pixels.resize(images, height, width)
    wanted = pixels.resize_images(images, height, width)
    assert got.shape == (2, height, width, 3)
    assert got.dtype == np.uint8
    if BYTES and max(old_height / height, old_width / width) <= 4:
        np.testing.assert_array_equal(got, wanted)
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_white_stays_white_however_the_weights_are_rounded() -> None:
    for old, new in ((1000, 1), (999, 7), (50, 49), (3, 100)):
        white = np.full((1, 1, old, 3), 255, np.uint8)
        assert (numpy_pixels.resize(white, 1, new) == 255).all()


@pytest.mark.parametrize("shape", [(40, 30), (30, 41), (30, 30)])
def test_the_center_is_where_torch_crops(shape: tuple[int, int]) -> None:
    spec = ClipSpec(size=23, resize=30)
    images = RNG.integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    wanted = transforms.center_view(torch.from_numpy(images).permute(0, 3, 1, 2), spec)
    np.testing.assert_array_equal(numpy_pixels.center_crop(images, spec), wanted.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("modality", ["rgb", "diff", "gray"])
def test_clips_are_normalized_as_torch_normalizes_them(modality: Modality) -> None:
    spec = ClipSpec(modality=modality, mean=(0.1, 0.5, 0.7), std=(0.2, 0.3, 0.9))
    clips = RNG.integers(0, 256, (2, 5, 9, 7, 3), dtype=np.uint8)
    wanted = transforms.normalize(torch.from_numpy(clips).permute(0, 1, 4, 2, 3), spec)
    got = numpy_pixels.normalize(list(clips), spec)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted.numpy(), atol=2e-6)
