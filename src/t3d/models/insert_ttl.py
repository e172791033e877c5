"""Temporal Transition Layers behind the stages of any network.

The paper's conclusion says that the TTL serves other 3D architectures too, and leaves open how. Here it
stands where T3D has it, behind a stage and in front of the layer that halves the map, and looks at the same
map with the same branches. Two things differ, so that weights trained without it stay usable: the net's own
halving stays in the place of the TTL's pool, and BN → ReLU → 1×1×1 convolution brings the joined branches
back to the stage's width, so that no layer behind it changes its shape. Added to the map (`shortcut`), with
that convolution zero at first, the TTL leaves a trained net exactly as it was until it learns.

Legend: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from t3d.errors import ConfigError, did_you_mean
from t3d.models.grad_checkpointing import Recomputing
from t3d.models.net import NetOptions, VideoNet
from t3d.models.ttl import TemporalBranch, TemporalTransition, TimePadding


@dataclass(frozen=True)
class InsertedTTLOptions(NetOptions):
    """Base of the options of nets that may have TTLs behind their stages, and be made narrow.

    Args:
        width: All numbers of filters and of linear features times this.
        time_padding: How convolutions pad time, `zeros` or `replicate`.
        drop_rate: Dropout in training, in front of the classifier or where the net has it.
        in_channels: Channels of a clip.
        ttl_after: The stages that a TTL stands behind; none by default.
        ttl_depths: Temporal depths of the branches of each TTL, one entry for each stage in `ttl_after`.
        ttl_channels: Filters of each branch of a TTL.
        ttl_shortcut: Add the TTL's map to the stage's; False puts it in the stage's place, as in T3D.

    Raises:
        ConfigError: A value that cannot work.
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
        if self.in_channels < 1:
            raise ConfigError(f"in_channels is {self.in_channels}; it must be 1 or more")
        if not 0 <= self.drop_rate < 1:
            raise ConfigError(f"drop_rate is {self.drop_rate}; it must be in [0, 1)")
        if self.filters(self.narrowest) < 1:
            layer = f"the narrowest layer's {self.narrowest}"
            raise ConfigError(f"width is {self.width}; it must leave 1 filter or more of {layer}")

    def filters(self, count: int) -> int:
        """A number of filters or features of the published network, at this width."""
        return int(count * self.width)


class InsertedTTL(Recomputing):
    """A TTL that keeps the size and the width of a map.

    Args:
        channels: Channels that come in and go out.
        depths: Temporal depth of each branch.
        branch_channels: Filters of each branch.
        shortcut: Add what the TTL gives to what came in, and begin at zero.
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
        """Look at the map over several temporal depths.

        Args:
            x: Map, B C T H W.

        Returns:
            Map, B C T H W.
        """
        out = self.recomputed(self._look, x)  # B C T H W
        return x + out if self.shortcut else out

    def _look(self, x: Tensor) -> Tensor:
        return self.projection(self.transition(x))


def insert_ttl_of(model: VideoNet, options: InsertedTTLOptions) -> None:
    """Put the TTLs that a network's options ask for behind its stages, see `insert_ttl`."""
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
    """Put a Temporal Transition Layer behind stages of a network.

    The network's own tensors keep names, shapes and values, so that weights made without TTLs can be loaded
    before or after. A weights file knows a network by its options: the card of one with TTLs has the options
    `ttl_after` and `ttl_depths`, which build it as well.

    Args:
        model: The network; changed in place.
        after: The stages, names out of `model.stages()`.
        depths: Temporal depths of the branches, for each of these stages.
        branch_channels: Filters of each branch.
        shortcut: Add each TTL's map to its stage's and begin at zero, so that the network computes at first
            what it computed before; False puts it in the stage's place, for training from scratch.
        time_padding: How branches pad time, see `TemporalConv3d`.

    Raises:
        ConfigError: A stage that does not exist, gives no map or has a TTL; not one entry of depths a stage;
            a depth below 1.

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
    """Channels of the map behind each stage that gives one, seen on the smallest clip."""
    frames, side = model.min_input_size()
    weight = next(model.parameters())
    x = torch.zeros(1, model.in_channels, frames, side, side, device=weight.device, dtype=weight.dtype)
    was_training = model.training
    model.eval()  # the clip must not change the statistics of a BatchNorm
    widths = {}
    try:
        for stage, modules in model.layers().items():  # TTLs that are there keep the width
            for module in modules:
                x = module(x)
            if x.ndim == 5:
                widths[stage] = x.shape[1]
    finally:
        model.train(was_training)
    return widths
