"""Resize, crop and normalize frames with NumPy alone, for exported models, which run without torch.

This repeats `t3d.data.clips.pixels` and `t3d.data.clips.transforms`; the tests compare both. Resized pixels
are those of torch's kernel for bytes, which rounds the weights of its filter to 16 bits and the pixels after
each of two passes. Where frames shrink more than fourfold, the sums here round as well: one pixel in 100,000
may differ by one level of 255.

Legend: B batch, T frames, H height, W width, C channels (RGB).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from t3d.clip import ClipSpec
from t3d.data.clips.shapes import five_crops
from t3d.video.video import Images

Floats = npt.NDArray[np.float32]

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_LEVELS = np.arange(256, dtype=np.float32) / np.float32(255)
_PIXEL = np.dtype("V3")  # whole pixels are moved faster than single colors


def resize(images: Images, height: int, width: int) -> Images:
    """Resize frames with an antialiased bilinear filter.

    Args:
        images: uint8 [T, H, W, C].
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        uint8 [T, height, width, C]; the frames themselves if they have this size.

    Example:
        >>> resize(np.zeros((8, 240, 320, 3), np.uint8), 120, 160).shape
        (8, 120, 160, 3)
    """
    count, old_height, old_width, _ = images.shape
    if old_width != width:
        columns = _moved(images, (2, 0, 1)).reshape(old_width, -1)  # W T·H·C
        images = _moved(_resized(columns, width).reshape(width, count, old_height, 3), (1, 2, 0))
    if old_height != height:
        rows = images.transpose(1, 0, 2, 3).reshape(old_height, -1)  # H T·W·C
        images = _resized(rows, height).reshape(height, count, width, 3).transpose(1, 0, 2, 3)
    return np.ascontiguousarray(images)


def _moved(images: Images, axes: tuple[int, int, int]) -> Images:
    """Return a contiguous array with the first three axes in another order, of uint8 [., ., ., 3]."""
    pixels = np.ascontiguousarray(images).view(_PIXEL)[..., 0].transpose(axes)
    return np.ascontiguousarray(pixels)[..., None].view(np.uint8)


def _resized(lines: Images, size: int) -> Images:
    """Resize along the first axis: each new line is a weighted mean of neighboring lines.

    Args:
        lines: uint8 [N, M].
        size: New number of lines.

    Returns:
        uint8 [size, M].
    """
    values = lines.astype(np.float32)
    means = np.empty((size, values.shape[1]), np.float32)
    for mean, (first, weights) in zip(means, _filter(len(lines), size), strict=True):
        # Unlike a matrix product, this starts no threads: those that read videos share the cores already.
        np.einsum("k,km->m", weights, values[first : first + len(weights)], out=mean)
    means += np.float32(0.5)
    return means.astype(np.uint8)  # the weights may sum to a little more than 1, but not to 256 / 255


@lru_cache(maxsize=64)
def _filter(old: int, new: int) -> tuple[tuple[int, Floats], ...]:
    """Return the weights of an antialiased bilinear filter.

    Args:
        old: Number of lines.
        new: Number of lines after resizing.

    Returns:
        Per new line, the first line that it depends on and the weights of the next K lines, float32 [K].
    """
    scale = old / new
    reach = max(scale, 1.0)
    most = math.ceil(reach) * 2 + 1
    exact: list[tuple[int, npt.NDArray[np.float64]]] = []
    for number in range(new):
        center = scale * (number + 0.5)
        first = max(int(center - reach + 0.5), 0)
        stop = min(int(center + reach + 0.5), old, first + most)
        distances = np.abs(np.arange(first, stop) + 0.5 - center) * (1 / reach)
        weights = np.maximum(1 - distances, 0)
        exact.append((first, weights / weights.sum()))
    largest = max(float(weights.max()) for _, weights in exact)
    bits = 0
    while bits < 22 and int(largest * 2 ** (bits + 1) + 0.5) < 2**15:
        bits += 1
    unit = 2.0**bits
    return tuple(
        (first, (np.floor(weights * unit + 0.5) / unit).astype(np.float32)) for first, weights in exact
    )


def center_crop(images: Images, spec: ClipSpec) -> Images:
    """Return a copy of the center of frames, as `t3d.data.clips.transforms.center_view` does.

    Args:
        images: Resized frames, uint8 [T, H, W, C].
        spec: `size` is used.

    Returns:
        uint8 [T, size, size, C].
    """
    top, left = five_crops(images.shape[1], images.shape[2], spec.size)[4]
    return np.ascontiguousarray(images[:, top : top + spec.size, left : left + spec.size])


def normalize(clips: Sequence[Images], spec: ClipSpec) -> Floats:
    """Turn clips into the input of a model, as `t3d.data.clips.transforms.normalize` does.

    Args:
        clips: B clips, each uint8 [T, H, W, C].
        spec: `mean`, `std` and `modality` are used.

    Returns:
        float32 [B, C, T, H, W].

    Example:
        >>> black = np.zeros((4, 8, 8, 3), np.uint8)
        >>> spec = ClipSpec(size=8, resize=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> normalize([black], spec)[0, 0, 0, 0, 0].item()
        -1.0
    """
    frames, height, width, _ = clips[0].shape
    x = np.empty((len(clips), 3, frames, height, width), np.float32)
    for clip, target in zip(clips, x, strict=True):
        for channel, table in enumerate(_tables(spec)):
            # Every index is a byte, and every table has 256 entries: `clip` only skips a slow check.
            np.take(table, clip[..., channel], out=target[channel], mode="clip")
    std = np.array(spec.std, np.float32).reshape(1, 3, 1, 1, 1)
    if spec.modality == "diff":
        x[:, :, 1:] = x[:, :, 1:] - x[:, :, :-1]
        x[:, :, 0] = 0
        x /= std
    elif spec.modality == "gray":
        mean = np.array(spec.mean, np.float32).reshape(1, 3, 1, 1, 1)
        x[:] = (x.sum(axis=1, keepdims=True) - mean) / std
    return x


def _tables(spec: ClipSpec) -> list[Floats]:
    """Return what each of the 256 levels of a channel becomes; with `gray`, its part of the brightness."""
    if spec.modality == "diff":
        return [_LEVELS] * 3
    if spec.modality == "gray":
        return [_LEVELS * np.float32(share) for share in _LUMA]
    return [
        (_LEVELS - np.float32(mean)) / np.float32(std) for mean, std in zip(spec.mean, spec.std, strict=True)
    ]
