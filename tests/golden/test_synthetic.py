"""Synthetic videos: what is drawn before it is encoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from t3d.data.synthetic.scene import MOTIONS, SyntheticSpec, appearance_of, draw_video, motion_track

SPEC = SyntheticSpec(train=8, val=8, test=8, frames=24, size=48)
Make = Callable[..., Any]


def test_appearances() -> None:
    # fmt: off
    assert [appearance_of(SPEC, "train", "left", n) for n in range(10)] == [
        "slanted", "dots", "checks", "rings", "zigzag", "level", "upright", "rays", "dots", "upright"
    ]
    assert [appearance_of(SPEC, "test", "left", n) for n in range(8)] == [
        "zigzag", "slanted", "rings", "level", "rays", "upright", "dots", "checks"
    ]
    assert [appearance_of(SyntheticSpec(seed=4), "train", "clockwise", n) for n in range(8)] == [
        "level", "rays", "dots", "zigzag", "checks", "rings", "upright", "slanted"
    ]
    # fmt: on
    for split in ("train", "val", "test"):
        shown = {appearance_of(SPEC, split, motion, 5) for motion in MOTIONS}
        assert len(shown) == 8


def test_tracks() -> None:
    """Return the position of the object in the first, a middle and the last frame."""
    tracks = [motion_track(SPEC, "train", motion, 2)[[0, 11, 23]].ravel() for motion in MOTIONS]
    # fmt: off
    assert [round(float(place), 6) for track in tracks for place in track] == pytest.approx([
        39.783983, 37.634211, 18.861816, 37.305277, 1.583088, 43.219166, 8.461023, 43.792043, 31.533263,
        0.621806, 4.339343, 45.79973, 24.106246, 8.781146, 26.495445, 9.548576, 27.168551, 1.486991, 26.16982,
        9.040302, 26.845614, 13.776004, 22.429463, 16.783398, 28.639663, 39.047071, 29.859689, 34.980965,
        25.232988, 43.402439, 11.225433, 44.593852, 12.475228, 33.450569, 8.575474, 42.822508, 21.585507,
        18.071356, 9.683975, 24.718646, 25.698248, 17.38103, 15.333812, 26.056306, 29.762452, 23.097933,
        21.594264, 21.326496
    ], abs=2e-6)
    # fmt: on
    other = motion_track(SyntheticSpec(frames=24, size=48, seed=1), "val", "left", 0)[[0, 23]].ravel()
    assert [round(float(place), 6) for place in other] == pytest.approx(
        [15.929875, 29.371007, 31.187579, 26.668339], abs=2e-6
    )


VIDEOS = [("train", motion, number) for number, motion in enumerate(MOTIONS)] + [("test", "left", 0)]


def test_pixels() -> None:
    """Two pixels of the first and the last frame of each video; rounding may differ by one elsewhere."""
    drawn = [draw_video(SPEC, *place) for place in VIDEOS]
    assert all(frames.shape == (24, 3, 48, 48) for frames in drawn)
    pixels = [frames[::23, :, 10::25, 24].astype(int).ravel().tolist() for frames in drawn]
    # fmt: off
    assert [value for video in pixels for value in video] == pytest.approx([
        46, 136, 193, 139, 255, 146, 138, 182, 139, 185, 144, 181, 127, 123, 127, 125, 132, 129, 115, 124, 11,
        126, 92, 130, 124, 147, 57, 143, 30, 138, 124, 187, 57, 189, 30, 183, 164, 101, 163, 115, 171, 100,
        101, 129, 115, 134, 100, 133, 5, 105, 43, 108, 112, 101, 28, 105, 255, 107, 171, 100, 100, 150, 101,
        148, 108, 146, 100, 152, 101, 143, 108, 143, 145, 29, 146, 116, 147, 30, 150, 29, 151, 116, 151, 30,
        216, 149, 42, 144, 92, 150, 112, 120, 105, 112, 113, 119, 138, 139, 128, 128, 133, 133, 144, 136, 138,
        125, 142, 130
    ], abs=1)
    # fmt: on


def test_pixels_to_the_bit(digest: Make) -> None:
    assert digest(*(draw_video(SPEC, *place) for place in VIDEOS)) == "69fcbd61b1095c16"
