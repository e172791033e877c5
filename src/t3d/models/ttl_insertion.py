"""Insert Temporal Transition Layers (TTLs) after the stages of any network.

The paper's conclusion suggests the TTL for other 3D architectures, but does not specify how. Here it is
placed as in T3D: after a stage, before the layer that halves the map, with the same branches on the same map.
Two things differ, so that weights trained without TTLs stay usable:

- The network's own downsampling replaces the TTL's pool.
- BN → ReLU → 1×1×1 convolution brings the concatenated branches back to the stage's width, so no later layer
  changes its shape.

With `shortcut`, the result is added to the map and that convolution starts at zero. So a trained network's
outputs do not change until the TTL learns.

Legend: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from t3d.errors import ConfigError, between, did_you_mean
from t3d.models.net import MAX_CHANNELS, NetOptions, VideoNet, check_depths
from t3d.models.ttl import TemporalBranch, TemporalTransition, TimePadding


@dataclass(frozen=True)
class InsertedTTLOptions(NetOptions):
    """Base class of the options of models with a width factor and optional TTLs after their stages.

    Args:
        width: Factor for all numbers of filters and linear features.
        time_padding: How convolutions pad time, `zeros` or `replicate`.
        drop_rate: Dropout in training, before the classifier or where the model has it.
        in_channels: Channels of a clip.
        ttl_after: Stages that a TTL follows. Default: none.
        ttl_depths: Temporal depths of the branches of each TTL, one entry per stage in `ttl_after`.
        ttl_channels: Filters of each branch of a TTL.
        ttl_shortcut: Add the TTL's map to the stage's. False replaces the stage's map, as in T3D.

    Raises:
        ConfigError: An invalid value.
    """

    narrowest: ClassVar[int] = 64  # filters of the published network's narrowest layer

    width: float = 1.0
    time_padding: TimePadding = "zeros"
    drop_rate: float = 0.0
    in_channels: int = 3
    ttl_after: tuple[str, ...] = ()
    ttl_depths: tuple[tuple[int, ...], ...] = ()
    ttl_channels: int = 128
    ttl_shortcut: bool = True

    def __post_init__(self) -> None:
        between("in_channels", self.in_channels, 1, MAX_CHANNELS)
        between("ttl_channels", self.ttl_channels, 1, MAX_CHANNELS)
        between("width", self.width, 0, 16)
        check_depths(self.ttl_depths)
        if not 0 <= self.drop_rate < 1:
            raise ConfigError(f"drop_rate is {self.drop_rate}; it must be in [0, 1)")
        if self.filters(self.narrowest) < 1:
            layer = f"the narrowest layer's {self.narrowest}"
            raise ConfigError(f"width is {self.width}; it must leave at least 1 filter of {layer}")

    def filters(self, count: int) -> int:
        """Scale a published number of filters or features by `width`."""
        return int(count * self.width)


class InsertedTTL(nn.Module):
    """TTL that keeps the size and the number of channels of a map.

    Args:
        channels: Input and output channels.
        depths: Temporal depth of each branch.
        branch_channels: Filters of each branch.
        shortcut: Add the TTL's output, zero at first, to its input.
        time_padding: How branches pad time, see `TemporalConv3d`.

    Example:
        >>> x = torch.rand(2, 16, 8, 10, 10)
        >>> torch.equal(InsertedTTL(16, (1, 3, 6), branch_channels=8)(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        depths: Sequence[int],
        *,
        branch_channels: int = 128,
        shortcut: bool = True,
        time_padding: TimePadding = "zeros",
    ) -> None:
        super().__init__()
        self.transition = TemporalTransition(
            channels, depths, branch_channels=branch_channels, time_padding=time_padding, pool=False
        )
        self.projection = TemporalBranch(self.transition.out_channels, channels, kernel_size=(1, 1, 1))
        self.shortcut = shortcut
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
        if shortcut:
            nn.init.zeros_(self.projection.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the map over several temporal depths.

        Args:
            x: Map, B C T H W.

        Returns:
            Map, B C T H W.
        """
        out = self.projection(self.transition(x))  # B C T H W
        return x + out if self.shortcut else out


def insert_ttl_of(model: VideoNet, options: InsertedTTLOptions) -> None:
    """Insert the TTLs that a model's options request, see `insert_ttl`."""
    insert_ttl(
        model,
        after=options.ttl_after,
        depths=options.ttl_depths,
        branch_channels=options.ttl_channels,
        shortcut=options.ttl_shortcut,
        time_padding=options.time_padding,
    )


def insert_ttl(
    model: VideoNet,
    *,
    after: Sequence[str],
    depths: Sequence[Sequence[int]],
    branch_channels: int = 128,
    shortcut: bool = True,
    time_padding: TimePadding = "zeros",
) -> None:
    """Insert a Temporal Transition Layer after stages of a network.

    The network's own tensors keep names, shapes and values, so that weights made without TTLs can be loaded
    before or after. A weights file describes a model by its options. The card of a model with TTLs needs the
    options `ttl_after` and `ttl_depths`, which build the same model.

    Args:
        model: The network; changed in place.
        after: Names of stages, from `model.stages()`.
        depths: Temporal depths of the branches, one entry per stage.
        branch_channels: Filters of each branch.
        shortcut: Add each TTL's map, zero at first, to its stage's, so that the network's outputs do not
            change before training. False replaces the stage's map, for training from scratch.
        time_padding: How branches pad time, see `TemporalConv3d`.

    Raises:
        ConfigError: A stage does not exist, does not produce a map or already has a TTL; `depths` does not
            have one entry per stage; or a depth is below 1.

    Example:
        >>> from t3d.models import create_model
        >>> net = create_model("resnet3d18", num_classes=5)
        >>> insert_ttl(net, after=["layer1", "layer2"], depths=[(1, 3, 6), (1, 3, 4)])
        >>> list(net.inserted)
        ['layer1', 'layer2']
    """
    if len(after) != len(depths):
        raise ConfigError(
            f"ttl_after names {len(after)} stages and ttl_depths has {len(depths)} entries; "
            "there must be one for each"
        )
    if branch_channels < 1:
        raise ConfigError(f"ttl_channels is {branch_channels}; it must be 1 or more")
    widths = _widths(model) if after else {}
    new: dict[str, InsertedTTL] = {}
    for stage, branches in zip(after, depths, strict=True):
        if stage not in widths:
            raise ConfigError(f"a TTL cannot follow {stage!r}; {did_you_mean(stage, widths)}")
        if stage in model.inserted or stage in new:
            raise ConfigError(f"{stage!r} already has a TTL; a stage can have one")
        new[stage] = InsertedTTL(
            widths[stage],
            branches,
            branch_channels=branch_channels,
            shortcut=shortcut,
            time_padding=time_padding,
        )
    weight = next(model.parameters())
    for stage, ttl in new.items():
        model.inserted[stage] = ttl.to(device=weight.device, dtype=weight.dtype).train(model.training)


@torch.no_grad()
def _widths(model: VideoNet) -> dict[str, int]:
    """Return the channels of each stage that produces a map, measured on the smallest clip."""
    frames, side = model.min_input_size()
    weight = next(model.parameters())
    x = torch.zeros(1, model.in_channels, frames, side, side, device=weight.device, dtype=weight.dtype)
    was_training = model.training
    model.eval()  # the clip must not change the statistics of a BatchNorm
    widths = {}
    try:
        for stage, modules in model.layers().items():  # existing TTLs keep the width
            for module in modules:
                x = module(x)
            if x.ndim == 5:
                widths[stage] = x.shape[1]
    finally:
        model.train(was_training)
    return widths
