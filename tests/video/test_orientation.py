from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from t3d.video.orientation import Image, Orientation

EVERY = [Orientation(rotation, mirrored) for rotation in (0, 90, 180, 270) for mirrored in (False, True)]
IMAGE = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
# x and y change places or not, and either may change its sign.
MATRICES = [
    (sx, 0, 0, sy) if upright else (0, sx, sy, 0)
    for upright, sx, sy in itertools.product((True, False), (1, -1), (1, -1))
]


def clockwise(image: Image) -> Image:
    """A quarter turn, pixel by pixel: the first row becomes the last column."""
    height, width = image.shape[:2]
    out = np.zeros((width, height, 3), np.uint8)
    for y, x in np.ndindex(height, width):
        out[x, height - 1 - y] = image[y, x]
    return out


def mirrored(image: Image) -> Image:
    out = np.zeros_like(image)
    for y, x in np.ndindex(*image.shape[:2]):
        out[y, image.shape[1] - 1 - x] = image[y, x]
    return out


def shown(image: Image, a: int, b: int, c: int, d: int) -> Image:
    """Put each stored point (x, y) at (a x + c y, b x + d y)."""
    points = {
        (a * x + c * y, b * x + d * y): image[y, x] for y, x in np.ndindex(image.shape[0], image.shape[1])
    }
    left, top = min(x for x, _ in points), min(y for _, y in points)
    right, bottom = max(x for x, _ in points), max(y for _, y in points)
    out = np.zeros((bottom - top + 1, right - left + 1, 3), np.uint8)
    for (x, y), pixel in points.items():
        out[y - top, x - left] = pixel
    return out


@pytest.mark.parametrize("orientation", EVERY, ids=str)
def test_mirrored_first_then_turned_clockwise(orientation: Orientation) -> None:
    expected = mirrored(IMAGE) if orientation.mirrored else IMAGE
    for _ in range(orientation.rotation // 90):
        expected = clockwise(expected)
    turned = orientation.apply(IMAGE)
    assert np.array_equal(turned, expected)
    assert np.shares_memory(turned, IMAGE)
    assert orientation.size((2, 4)) == expected.shape[:2]
    assert orientation.size(orientation.size((2, 4))) == (2, 4)


@pytest.mark.parametrize("matrix", MATRICES, ids=str)
@pytest.mark.parametrize("scale", [1, 1 << 16])
def test_a_matrix_shows_points_where_it_says(matrix: tuple[int, int, int, int], scale: int) -> None:
    scaled = [scale * value for value in matrix]
    assert np.array_equal(Orientation.of_matrix(*scaled).apply(IMAGE), shown(IMAGE, *matrix))


def test_the_eight_matrices_are_the_eight_orientations() -> None:
    assert {Orientation.of_matrix(*matrix) for matrix in MATRICES} == set(EVERY)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("off", [-44, -20, 3, 44])
def test_other_angles_go_to_the_nearest_quarter_turn(turn: int, off: int, mirror: bool) -> None:
    angle = math.radians(turn + off)
    cosine, sine = round(65536 * math.cos(angle)), round(65536 * math.sin(angle))
    a, b = (-cosine, -sine) if mirror else (cosine, sine)
    assert Orientation.of_matrix(a, b, -sine, cosine) == Orientation(turn, mirror)


def test_a_matrix_of_zeros_leaves_frames_as_they_are() -> None:
    assert Orientation.of_matrix(0, 0, 0, 0) == Orientation()


@pytest.mark.parametrize("rotation", [45, -90, 360])
def test_only_quarter_turns_are_allowed(rotation: int) -> None:
    with pytest.raises(ValueError, match=rf"rotation is {rotation}; it must be 0, 90, 180 or 270"):
        Orientation(rotation)
