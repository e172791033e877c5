"""From decoded frames to what a net sees: resize, crop, flip, color on uint8; then floats, on the device.

Legend: B batch, T frames, C channels, H height, W width. Frames are uint8 RGB until `normalize`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch

from t3d.clip import ClipSpec
from t3d.data.clips import pixels
from t3d.data.clips.shapes import SQUARE_PIXELS, five_crops, resized_shape, three_crops
from t3d.data.clips.views import Crops
from t3d.data.config import AugmentConfig

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def resize_frames(
    frames: torch.Tensor, spec: ClipSpec, *, pixel_aspect: Fraction = SQUARE_PIXELS
) -> torch.Tensor:
    """Resize frames as the clip spec asks, antialiased.

    Args:
        frames: uint8 [T, C, H, W].
        spec: `resize`, `resize_mode` and `pixel_aspect` are used.
        pixel_aspect: Width of a pixel divided by its height.

    Returns:
        uint8 [T, C, H', W'], the shorter side (or both) `spec.resize` long.
    """
    height, width = resized_shape(frames.shape[-2], frames.shape[-1], spec, pixel_aspect=pixel_aspect)
    return pixels.resize(frames, height, width)


def center_view(frames: torch.Tensor, spec: ClipSpec) -> torch.Tensor:
    """The view of a clip that testing, unless told otherwise, and prediction use: the center crop.

    Args:
        frames: Resized frames, uint8 [T, C, H, W].
        spec: `size` is used.

    Returns:
        uint8 [T, C, size, size], packed `channels_last`.
    """
    top, left = five_crops(frames.shape[-2], frames.shape[-1], spec.size)[4]
    return _packed(frames[..., top : top + spec.size, left : left + spec.size])


def crop_views(frames: torch.Tensor, spec: ClipSpec, *, crops: Crops) -> Iterator[torch.Tensor]:
    """Views of a clip for testing by several, one after another; see `t3d.data.clips.views`.

    Args:
        frames: Resized frames, uint8 [T, C, H, W].
        spec: `size` is used.
        crops: Number of crops.

            - 1: the center.
            - 3: left, center and right; top, center and bottom if frames are higher than wide.
            - 5: the four corners and the center.
            - 10: these five, then their mirror images.

    Yields:
        uint8 [T, C, size, size], packed `channels_last`.

    Example:
        >>> frames = torch.arange(6, dtype=torch.uint8).expand(1, 3, 2, 6)
        >>> [v[0, 0, 0].tolist() for v in crop_views(frames, ClipSpec(size=2, resize=2), crops=3)]
        [[0, 1], [2, 3], [4, 5]]
    """
    height, width = frames.shape[-2:]
    five = five_crops(height, width, spec.size)
    corners = {1: five[4:], 3: three_crops(height, width, spec.size), 5: five, 10: five}[crops]
    for mirrored in (False, True) if crops == 10 else (False,):
        for top, left in corners:
            view = frames[..., top : top + spec.size, left : left + spec.size]
            yield _packed(pixels.flip(view) if mirrored else view)


def random_view(
    frames: torch.Tensor, spec: ClipSpec, *, augment: AugmentConfig, rng: np.random.Generator
) -> torch.Tensor:
    """A random view of a clip, for training; all frames of the clip change alike.

    Args:
        frames: Resized frames, uint8 [T, C, H, W].
        spec: `size` is used.
        augment: What may vary.
        rng: Where the draws come from; the same generator state gives the same view.

    Returns:
        uint8 [T, C, size, size], packed `channels_last`.
    """
    height, width = frames.shape[-2:]
    if augment.crop == "five":
        top, left = five_crops(height, width, spec.size)[rng.integers(5)]
        view = frames[..., top : top + spec.size, left : left + spec.size]
    else:
        top, left, crop_height, crop_width = _random_box(height, width, augment.min_area, rng)
        view = frames[..., top : top + crop_height, left : left + crop_width]
        view = pixels.resize(view, spec.size, spec.size)
    if rng.random() < augment.flip:
        view = pixels.flip(view)
    if augment.color > 0:
        brightness, contrast, saturation = 1 + augment.color * rng.uniform(-1, 1, size=3)
        view = pixels.adjust_brightness(view, brightness)
        view = pixels.adjust_contrast(view, contrast)
        view = pixels.adjust_saturation(view, saturation)
    return _packed(view)


def normalize(clips: torch.Tensor, spec: ClipSpec) -> torch.Tensor:
    """Turn uint8 clips into what a net takes, on the device the clips are on.

    Args:
        clips: uint8 [B, T, C, H, W], T frames in the order they are seen in.
        spec: `mean`, `std` and `modality` are used.

    Returns:
        float32 [B, C, T, H, W], channels last in memory.
    """
    mean = torch.tensor(spec.mean, device=clips.device).view(1, 3, 1, 1, 1)
    std = torch.tensor(spec.std, device=clips.device).view(1, 3, 1, 1, 1)
    x = clips.transpose(1, 2).to(torch.float32, memory_format=torch.channels_last_3d)  # B C T H W
    x.div_(255)
    if spec.modality == "diff":  # a difference has no mean to subtract
        x[:, :, 1:] = x.diff(dim=2)
        x[:, :, 0] = 0
        return x.div_(std)
    if spec.modality == "gray":
        x.copy_(x.mul(x.new_tensor(_LUMA).view(1, 3, 1, 1, 1)).sum(1, keepdim=True).expand_as(x))
    return x.sub_(mean).div_(std)


def stack(clips: list[torch.Tensor]) -> torch.Tensor:
    """Join clips uint8 [T, C, H, W] into [B, T, C, H, W], the colors of a pixel side by side in memory.

    So decoders give them and `channels_last_3d` nets take them: nothing is turned round on the way.
    """
    return torch.stack([clip.permute(0, 2, 3, 1) for clip in clips]).permute(0, 1, 4, 2, 3)


def _packed(view: torch.Tensor) -> torch.Tensor:
    """Copy a view of [T, C, H, W], so that the frames that it was cut from can be freed."""
    return view.contiguous(memory_format=torch.channels_last)


def _random_box(
    height: int, width: int, min_area: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a box with a random share of the area and a shape from 3:4 to 4:3."""
    area = height * width
    for _ in range(10):
        wanted = area * rng.uniform(min_area, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    side = min(height, width)  # very long frames hold no such box: the largest square does
    return (height - side) // 2, (width - side) // 2, side, side
