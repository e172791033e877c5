"""Augmentation: crop, flip and color of a training clip."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import TrainClips
from t3d.data.clips.sampler import SampleKey
from t3d.data.clips.transforms import random_view
from t3d.data.config import AugmentConfig

Make = Callable[..., Any]
SPEC = ClipSpec(num_frames=4, stride=2, size=24, resize=40)


def corners(view: torch.Tensor) -> tuple[int, int, int, int]:
    """Column code at the left and the right end, row code at the top and the bottom."""
    return int(view[0, 1, 0, 0]), int(view[0, 1, 0, -1]), int(view[0, 2, 0, 0]), int(view[0, 2, -1, 0])


def test_five_crops_and_flip(coded: Make, digest: Make) -> None:
    frames = torch.from_numpy(coded(3))
    views = [
        random_view(frames, SPEC, augment=AugmentConfig(), rng=np.random.default_rng(seed))
        for seed in range(16)
    ]
    places = []
    for view in views:
        left, right, top, _ = corners(view)
        flipped = left > right
        first = min(left, right) // 5
        assert {int(value) for value in view[:, 0].unique()} == {0, 10, 20}  # all frames, in their order
        places.append((first, top, flipped))
    # fmt: off
    assert places == [
        (12, 1, True), (0, 3, False), (12, 1, True), (12, 1, True), (24, 3, False), (24, 3, False),
        (0, 3, True), (12, 1, False), (24, 3, False), (0, 3, True), (24, 3, True), (0, 0, True),
        (24, 3, False), (12, 1, False), (0, 0, True), (12, 1, False)
    ]
    # fmt: on
    assert digest(*views) == "21fd99bacec7fcc5"


def resized(coded: Make) -> list[torch.Tensor]:
    frames = torch.from_numpy(coded(3))
    augment = AugmentConfig("random_resized", min_area=0.2, flip=0.3)
    return [random_view(frames, SPEC, augment=augment, rng=np.random.default_rng(seed)) for seed in range(12)]


def test_random_resized_crop(coded: Make) -> None:
    # fmt: off
    assert [value for view in resized(coded) for value in corners(view)] == pytest.approx([
        168, 2, 0, 7, 7, 193, 0, 5, 214, 91, 0, 6, 110, 210, 0, 5, 223, 57, 0, 7, 222, 13, 0, 7, 27, 183, 0,
        7, 228, 32, 0, 7, 22, 183, 0, 5, 37, 223, 1, 7, 61, 209, 0, 7, 190, 75, 2, 6
    ], abs=1)
    # fmt: on


@pytest.mark.usefixtures("exact_pixels")
def test_random_resized_crop_to_the_bit(coded: Make, digest: Make) -> None:
    assert digest(*resized(coded)) == "41327d337ba8559b"


def test_the_numbers_drawn_for_a_crop(coded: Make) -> None:
    """In this order: area, shape, until a box fits; place; flip; brightness, contrast, saturation."""
    frames = torch.from_numpy(coded(1))
    augment = AugmentConfig("random_resized", min_area=0.5, flip=0.5, color=0.4)
    rng = Recorder(7)
    random_view(frames, SPEC, augment=augment, rng=rng)  # type: ignore[arg-type]
    # fmt: off
    assert rng.drawn == [
        ("uniform", 0.8125477333023334), ("uniform", 0.2285425789387534), ("integers", 3), ("integers", 3),
        ("random", 0.22520718999059186), ("uniform",
        [-0.39966743017754913, 0.7471068907925238, -0.9894693908688506])
    ]
    # fmt: on


class Recorder:
    """A generator that notes what it gave."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.drawn: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def draw(*args: Any, **options: Any) -> Any:
            value = getattr(self.rng, name)(*args, **options)
            self.drawn.append((name, np.asarray(value).tolist()))
            return value

        return draw


COLOR = AugmentConfig(flip=0.0, color=0.4)


def test_color() -> None:
    flat = torch.tensor([100, 140, 60], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 24, 24)
    views = [random_view(flat, SPEC, augment=COLOR, rng=np.random.default_rng(seed)) for seed in range(8)]
    assert all((view == view[:1, :, :1, :1]).all() for view in views)  # all frames and pixels change alike
    # fmt: off
    assert [value for view in views for value in view[0, :, 0, 0].tolist()] == pytest.approx([
        65, 84, 45, 68, 101, 34, 130, 167, 93, 129, 164, 94, 144, 183, 104, 109, 130, 87, 84, 130, 39, 128,
        160, 96
    ], abs=1)
    # fmt: on


@pytest.mark.usefixtures("exact_pixels")
def test_color_to_the_bit(coded: Make, digest: Make) -> None:
    frames = torch.from_numpy(coded(3))
    views = [random_view(frames, SPEC, augment=COLOR, rng=np.random.default_rng(seed)) for seed in range(4)]
    assert digest(*views) == "0876ddea0415022f"


def views_of_keys(manifest: Make, fake_store: Make) -> list[torch.Tensor]:
    table = manifest([(str(n), n % 2, f"s{n}") for n in range(4)], "a b")
    augment = AugmentConfig("random_resized", min_area=0.3, color=0.2)
    clips = TrainClips(table, SPEC, store=fake_store(SPEC), augment=augment, seed=11)

    views = []
    for key in [(0, 0), (0, 3), (5, 1), (5, 1, 2)]:
        item = clips[SampleKey(*key)]
        assert (item.frames.shape, item.label) == ((4, 3, 24, 24), key[1] % 2)
        views.append(item.frames)
    return views


def test_the_view_of_a_key(manifest: Make, fake_store: Make) -> None:
    views = views_of_keys(manifest, fake_store)
    assert [value for view in views for value in (int(view[0, 0, 0, 0]), *corners(view))] == pytest.approx(
        [51, 214, 59, 35, 40, 135, 228, 95, 9, 16, 38, 197, 29, 1, 8, 12, 35, 185, 19, 26], abs=1
    )


@pytest.mark.usefixtures("exact_pixels")
def test_the_view_of_a_key_to_the_bit(manifest: Make, fake_store: Make, digest: Make) -> None:
    assert [digest(view) for view in views_of_keys(manifest, fake_store)] == [
        "ac92fc9c0da1a15e",
        "e98d986a54e6ec2c",
        "038d9628708ca662",
        "a578c43ab86bc772",
    ]
