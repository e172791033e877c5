"""Resize, crop, flip and color frames, uint8 RGB.

The results are torchvision's to the bit, which the tests check. torchvision itself is not imported here: it
loads all of its models and torch's compiler, which takes longer than importing torch. Reading frames needs
neither.

Legend: N frames, C channels, H height, W width.
"""

from __future__ import annotations

import platform

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue, rounded as in PIL


def resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Resize frames with an antialiased bilinear filter.

    Args:
        frames: uint8 [N, C, H, W].
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        uint8 [N, C, height, width]; the frames themselves if they have this size.

    Example:
        >>> resize(torch.zeros(8, 3, 240, 320, dtype=torch.uint8), 120, 160).shape
        torch.Size([8, 3, 120, 160])
    """
    if tuple(frames.shape[-2:]) == (height, width):
        return frames
    if _resizes_bytes(frames.device):
        return _interpolate(frames, height, width)
    return _interpolate(frames.float(), height, width).round_().to(torch.uint8)


def resize_images(images: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize NumPy images with torch, as `resize` does.

    Args:
        images: uint8 [N, H, W, C], contiguous.
        height: New height in pixels.
        width: New width in pixels.

    Returns:
        uint8 [N, height, width, C]; the images themselves if they have this size.
    """
    return resize(torch.from_numpy(images).permute(0, 3, 1, 2), height, width).permute(0, 2, 3, 1).numpy()


def resize_short_side(frames: Tensor, size: int) -> Tensor:
    """Resize frames so that their shorter side has `size` pixels; the longer side is rounded down.

    Args:
        frames: uint8 [N, C, H, W].
        size: New length of the shorter side in pixels.

    Example:
        >>> resize_short_side(torch.zeros(8, 3, 240, 321, dtype=torch.uint8), 64).shape
        torch.Size([8, 3, 64, 85])
    """
    height, width = frames.shape[-2:]
    if height <= width:
        return resize(frames, size, int(size * width / height))
    return resize(frames, int(size * height / width), size)


def center_crop(frames: Tensor, size: int) -> Tensor:
    """Return the center square of frames, as a view of their memory.

    Args:
        frames: [N, C, H, W], both sides at least `size`.
        size: Side of the square in pixels.

    Example:
        >>> center_crop(torch.arange(5).expand(1, 3, 1, 5), 1).flatten().tolist()
        [2, 2, 2]
    """
    top, left = (round((side - size) / 2) for side in frames.shape[-2:])
    return frames[..., top : top + size, left : left + size]


def flip(frames: Tensor) -> Tensor:
    """Return frames mirrored left to right.

    Example:
        >>> flip(torch.tensor([[1, 2, 3]])).tolist()
        [[3, 2, 1]]
    """
    return frames.flip(-1)


def adjust_brightness(frames: Tensor, factor: float) -> Tensor:
    """Multiply pixels by a factor: 0 gives black frames, 1 the same frames.

    Args:
        frames: uint8 [N, 3, H, W].
        factor: At least 0.

    Example:
        >>> adjust_brightness(torch.full((1, 3, 1, 1), 100, dtype=torch.uint8), 1.5).flatten().tolist()
        [150, 150, 150]
    """
    return frames.mul(factor).clamp_(0, 255).to(torch.uint8)


def adjust_contrast(frames: Tensor, factor: float) -> Tensor:
    """Blend each frame with its mean brightness: 0 gives gray frames, 1 the same frames.

    Args:
        frames: uint8 [N, 3, H, W].
        factor: At least 0.

    Example:
        >>> row = torch.tensor([0, 100], dtype=torch.uint8).expand(1, 3, 1, 2)
        >>> adjust_contrast(row, 0.5)[0, 0].tolist()
        [[24, 74]]
    """
    return _blend(frames, _brightness(frames).mean((-3, -2, -1), keepdim=True), factor)


def adjust_saturation(frames: Tensor, factor: float) -> Tensor:
    """Blend each pixel with its brightness: 0 gives gray frames, 1 the same frames.

    Args:
        frames: uint8 [N, 3, H, W].
        factor: At least 0.

    Example:
        >>> red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
        >>> adjust_saturation(red, 0.0).flatten().tolist()
        [59, 59, 59]
    """
    return _blend(frames, _brightness(frames), factor)


def _interpolate(frames: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(frames, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _resizes_bytes(device: torch.device) -> bool:
    """Return whether torch has a fast kernel that resizes bytes; elsewhere floats are faster."""
    if device.type != "cpu":
        return False
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return vectors or platform.machine() in ("aarch64", "arm64")


def _brightness(frames: Tensor) -> Tensor:
    """Return whole numbers, float32 [N, 1, H, W]."""
    red, green, blue = frames.unbind(-3)
    luma = red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])
    return luma.floor_().unsqueeze(-3)


def _blend(frames: Tensor, other: Tensor, factor: float) -> Tensor:
    """Return `factor` parts of the frames and `1 - factor` parts of the other, uint8 [N, 3, H, W]."""
    return frames.mul(factor).add_(other, alpha=1 - factor).clamp_(0, 255).to(torch.uint8)
