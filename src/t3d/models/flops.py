"""Size of a network: parameters, and multiply-accumulates per clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.skeleton import no_weights


@dataclass(frozen=True)
class ModelSize:
    """Size of a network.

    Attributes:
        parameters: Learned numbers.
        macs: Multiply-accumulates of convolutions and linear layers for one clip.
        num_frames: Frames of that clip.
        size: Side of that clip in pixels.
    """

    parameters: int
    macs: int
    num_frames: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.2f} M parameters, {self.macs / 1e9:.1f} GMAC "
            f"at {self.num_frames} × {self.size} × {self.size}"
        )


def model_size(
    name: str,
    *,
    num_classes: int = 400,
    options: Mapping[str, object] | None = None,
    num_frames: int = 32,
    size: int = 224,
) -> ModelSize:
    """Measure a model by name, without allocating memory for its weights.

    Args:
        name: Name of a model, one of `list_models()`.
        num_classes: Number of classes.
        options: Options that differ from the model's own.
        num_frames: Frames of the clip.
        size: Side of the clip in pixels.

    Returns:
        Parameters and multiply-accumulates.

    Raises:
        ConfigError: An unknown model or option, or a clip that is too small.

    Example:
        >>> print(model_size("t3d121"))
        29.88 M parameters, 244.1 GMAC at 32 × 224 × 224
    """
    with no_weights():
        model = create_model(name, num_classes=num_classes, options=options)
    parameters = count_parameters(model)
    drop_norms(model)
    return ModelSize(parameters, count_macs(model, num_frames=num_frames, size=size), num_frames, size)


def drop_norms(model: nn.Module) -> None:
    """Replace BatchNorm by identities. It adds no counted operations and is slow on the meta device."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, nn.Identity())


def count_parameters(model: nn.Module) -> int:
    """Number of learned numbers in a module."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: VideoNet, *, num_frames: int = 32, size: int = 224) -> int:
    """Count the multiply-accumulates of convolutions and linear layers for one clip.

    For a network on the meta device, nothing is computed.

    Args:
        model: The network; its mode is kept.
        num_frames: Frames of the clip.
        size: Side of the clip in pixels.

    Returns:
        Multiply-accumulates, half of the floating-point operations.

    Raises:
        ConfigError: The clip is too small for the network.
    """
    weight = next(model.parameters())
    clip = torch.zeros(1, model.in_channels, num_frames, size, size, device=weight.device, dtype=weight.dtype)
    was_training = model.training
    model.eval()  # one clip is too little for BatchNorm's statistics, and must not change them
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(clip)
    finally:
        model.train(was_training)
    return counter.get_total_flops() // 2
