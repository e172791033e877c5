"""Sizes of resized frames, and places of crops."""

from __future__ import annotations

from fractions import Fraction

from t3d.clip import ClipSpec

SQUARE_PIXELS = Fraction(1)


def resized_shape(
    height: int, width: int, spec: ClipSpec, *, pixel_aspect: Fraction = SQUARE_PIXELS
) -> tuple[int, int]:
    """Return height and width of resized frames.

    Example:
        >>> resized_shape(240, 320, ClipSpec(resize=120, size=112))
        (120, 160)
        >>> wide = ClipSpec(resize=120, size=112, pixel_aspect="square")
        >>> resized_shape(576, 720, wide, pixel_aspect=Fraction(64, 45))
        (120, 213)
    """
    if spec.resize_mode == "square":
        return spec.resize, spec.resize
    shown = width * pixel_aspect if spec.pixel_aspect == "square" else width
    short = min(height, shown)
    return (round(height * spec.resize / short), round(shown * spec.resize / short))


def five_crops(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Return the top-left corners of the four corner crops and, last, of the center crop."""
    bottom, right = height - size, width - size
    return [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]


def three_crops(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """Return the top-left corners of crops at the beginning, the middle and the end of the longer side."""
    top, left = five_crops(height, width, size)[4]
    if height > width:
        return [(0, left), (top, left), (height - size, left)]
    return [(top, 0), (top, left), (top, width - size)]
