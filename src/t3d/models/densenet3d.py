"""DenseNet3D and T3D (the paper's Table 1): one network with two kinds of transition.

DenseNet3D is DenseNet-BC with every 2D layer made 3D. T3D replaces each plain transition by a Temporal
Transition Layer. Weights have torchvision's DenseNet names.

Legend: B batch, C channels, T time, H height, W width. Sizes at line ends are T × H × W for 32 × 224 × 224.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError, between
from t3d.models.grad_checkpointing import Recomputing
from t3d.models.net import MAX_CHANNELS, NetOptions, VideoNet, check_blocks, check_depths
from t3d.models.registry import register_model
from t3d.models.ttl import PAPER_DEPTHS, TemporalConv3d, TemporalTransition, TimePadding, TransitionPool


@dataclass(frozen=True)
class DenseNet3DOptions(NetOptions):
    """Options of DenseNet3D and T3D. The defaults are DenseNet3D-121's.

    Args:
        growth_rate: Channels that each dense layer adds.
        block_config: Dense layers in each block.
        stem_channels: Filters of the first convolution.
        bottleneck: Width of a dense layer's 1×1×1 convolution, as a multiple of the growth rate.
        ttl_depths: Temporal depths of each transition's branches; None means plain transitions.
        ttl_channels: Filters of each branch of a TTL.
        ttl_projection: Add a 1×1×1 transition after each TTL, as in the authors' code (not in Table 1).
        stem_pool_time_stride: 1 keeps T in the stem's pool (Table 1), 2 halves it (the authors' code).
        adapt_pool: Accept clips so short that a transition's map has one time step. False rejects them.
        time_padding: How convolutions pad time, `zeros` or `replicate`.
        drop_rate: Dropout after each dense layer, in training.
        in_channels: Channels of a clip.

    Raises:
        ConfigError: An invalid value.
    """

    growth_rate: int = 32
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    stem_channels: int = 64
    bottleneck: int = 4
    ttl_depths: tuple[tuple[int, ...], ...] | None = None
    ttl_channels: int = 128
    ttl_projection: bool = False
    stem_pool_time_stride: int = 1
    adapt_pool: bool = True
    time_padding: TimePadding = "zeros"
    drop_rate: float = 0.0
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("growth_rate", "stem_channels", "bottleneck", "ttl_channels", "in_channels"):
            between(name, getattr(self, name), 1, MAX_CHANNELS)
        check_blocks(self.block_config)
        check_depths(self.ttl_depths or ())
        if self.ttl_depths is not None and len(self.ttl_depths) != len(self.block_config) - 1:
            raise ConfigError(
                f"ttl_depths has {len(self.ttl_depths)} entries for {len(self.block_config)} blocks; "
                f"there must be one for each of the {len(self.block_config) - 1} transitions between them"
            )
        if self.stem_pool_time_stride not in (1, 2):
            raise ConfigError(f"stem_pool_time_stride is {self.stem_pool_time_stride}; allowed: 1, 2")
        if not 0 <= self.drop_rate < 1:
            raise ConfigError(f"drop_rate is {self.drop_rate}; it must be in [0, 1)")


class DenseLayer(Recomputing):
    """BN → ReLU → 1×1×1 → BN → ReLU → 3×3×3 on the concatenated outputs of all earlier layers."""

    def __init__(self, in_channels: int, options: DenseNet3DOptions) -> None:
        super().__init__()
        width = options.bottleneck * options.growth_rate
        self.norm1 = nn.BatchNorm3d(in_channels)
        self.conv1 = nn.Conv3d(in_channels, width, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm3d(width)
        self.conv2 = TemporalConv3d(
            width, options.growth_rate, kernel_size=(3, 3, 3), time_padding=options.time_padding
        )
        self.drop_rate = options.drop_rate

    def forward(self, features: list[Tensor]) -> Tensor:
        """Add growth_rate channels.

        Args:
            features: The block's input and the outputs of its earlier layers, each B · T H W.

        Returns:
            New channels, B growth_rate T H W.
        """
        narrow = self.recomputed(self._squeeze, *features)
        new = self.recomputed(self._expand, narrow)
        return F.dropout(new, self.drop_rate, training=self.training) if self.drop_rate > 0 else new

    def _squeeze(self, *features: Tensor) -> Tensor:
        return self.conv1(F.relu(self.norm1(torch.cat(features, dim=1)), inplace=True))

    def _expand(self, narrow: Tensor) -> Tensor:
        return self.conv2(F.relu(self.norm2(narrow), inplace=True))


class DenseBlock(nn.ModuleDict):
    """Dense layers, each of which sees the block's input and all layers before it."""

    def __init__(self, in_channels: int, num_layers: int, options: DenseNet3DOptions) -> None:
        super().__init__()
        for i in range(num_layers):
            self[f"denselayer{i + 1}"] = DenseLayer(in_channels + i * options.growth_rate, options)
        self.out_channels = in_channels + num_layers * options.growth_rate

    def forward(self, x: Tensor) -> Tensor:
        """Append the channels of all layers to the input's, B C T H W → B out_channels T H W."""
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, dim=1)


class PlainTransition(Recomputing):
    """DenseNet's transition: BN → ReLU → 1×1×1 that halves the channels → 2×2×2 average pool."""

    def __init__(self, in_channels: int, options: DenseNet3DOptions) -> None:
        super().__init__()
        self.out_channels = in_channels // 2
        self.norm = nn.BatchNorm3d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv3d(in_channels, self.out_channels, kernel_size=1, bias=False)
        self.pool = TransitionPool(adapt=options.adapt_pool)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C/2 T//2 H//2 W//2."""
        return self.pool(self.recomputed(self._narrow, x))

    def _narrow(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(self.norm(x)))


class DenseNet3D(VideoNet):
    """DenseNet3D, or T3D where `options.ttl_depths` is given (Table 1).

    Args:
        options: Options of the model family.
        num_classes: Number of classes, K. 0 omits the classifier.

    Example:
        >>> net = DenseNet3D(DenseNet3DOptions(ttl_depths=PAPER_DEPTHS), num_classes=10)
        >>> net(torch.zeros(1, 3, 8, 64, 64)).shape
        torch.Size([1, 10])
    """

    def __init__(self, options: DenseNet3DOptions, *, num_classes: int = 400) -> None:
        stem = options.stem_channels
        stages: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=TemporalConv3d(
                options.in_channels,
                stem,
                kernel_size=(3, 7, 7),
                stride=(2, 2, 2),
                time_padding=options.time_padding,
            ),  # 16 × 112 × 112
            norm0=nn.BatchNorm3d(stem),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool3d(3, stride=(options.stem_pool_time_stride, 2, 2), padding=1),  # 16 × 56 × 56
        )
        channels = stem
        for i, num_layers in enumerate(options.block_config):
            block = DenseBlock(channels, num_layers, options)
            stages[f"denseblock{i + 1}"] = block
            channels = block.out_channels
            if i < len(options.block_config) - 1:
                transition = _transition(channels, i, options)
                stages[f"transition{i + 1}"] = transition  # 8 × 28 × 28, 4 × 14 × 14, 2 × 7 × 7
                channels = transition.out_channels
        stages["norm5"] = nn.BatchNorm3d(channels)
        super().__init__(
            options, in_channels=options.in_channels, num_features=channels, num_classes=num_classes
        )
        self.options: DenseNet3DOptions = options
        self.features = nn.Sequential(stages)
        self.classifier = self._new_classifier()
        for module in self.features.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into the map after the last BN → ReLU, see `VideoNet.forward_features`."""
        self.check_input(x)
        return F.relu(self.run_stages(x))

    def layers(self) -> dict[str, list[nn.Module]]:
        """`stem`, and each `denseblock` with the transition or BN that follows it, see `VideoNet.layers`."""
        groups: dict[str, list[nn.Module]] = {"stem": []}
        for name, module in self.features.named_children():
            if name.startswith("denseblock"):
                groups[name] = []
            list(groups.values())[-1].append(module)
        return groups

    def min_input_size(self) -> tuple[int, int]:
        """Return the minimum (frames, side) that leaves one time step and one pixel for the last block."""
        behind_stem = 2 ** (len(self.options.block_config) - 1)
        side = _before_halving(_before_halving(behind_stem))
        if self.options.adapt_pool:
            return 1, side
        frames = _before_halving(behind_stem)
        return _before_halving(frames) if self.options.stem_pool_time_stride == 2 else frames, side


def _transition(
    channels: int, index: int, options: DenseNet3DOptions
) -> PlainTransition | TemporalTransition:
    if options.ttl_depths is None:
        return PlainTransition(channels, options)
    return TemporalTransition(
        channels,
        options.ttl_depths[index],
        branch_channels=options.ttl_channels,
        projection=options.ttl_projection,
        time_padding=options.time_padding,
        adapt_pool=options.adapt_pool,
        warn=options.ttl_depths != PAPER_DEPTHS,  # the paper's depths exceed the last map of 16 frames
    )


def _before_halving(size: int) -> int:
    """Return the smallest size that a stride of 2 with an odd, centered kernel turns into `size`."""
    return 2 * size - 1


_DENSE121 = DenseNet3DOptions()
_DENSE161 = DenseNet3DOptions(growth_rate=48, block_config=(6, 12, 36, 24), stem_channels=96)
_DENSE169 = DenseNet3DOptions(block_config=(6, 12, 32, 32))
_DENSE201 = DenseNet3DOptions(block_config=(6, 12, 48, 32))
_T3D121 = DenseNet3DOptions(ttl_depths=PAPER_DEPTHS)
_T3D169 = DenseNet3DOptions(block_config=(6, 12, 32, 32), ttl_depths=PAPER_DEPTHS)
_DENSE_TINY = DenseNet3DOptions(
    growth_rate=16, block_config=(2, 4, 8, 6), stem_channels=32, bottleneck=2, ttl_channels=32
)
_T3D_TINY = replace(_DENSE_TINY, ttl_depths=PAPER_DEPTHS)


@register_model
def densenet3d121(options: DenseNet3DOptions = _DENSE121, *, num_classes: int = 400) -> DenseNet3D:
    """DenseNet3D-121 (Table 1)."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def densenet3d161(options: DenseNet3DOptions = _DENSE161, *, num_classes: int = 400) -> DenseNet3D:
    """DenseNet3D-161: growth rate 48 and 96 stem filters (not in the paper)."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def densenet3d169(options: DenseNet3DOptions = _DENSE169, *, num_classes: int = 400) -> DenseNet3D:
    """DenseNet3D-169: T3D-169's blocks with plain transitions."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def densenet3d201(options: DenseNet3DOptions = _DENSE201, *, num_classes: int = 400) -> DenseNet3D:
    """DenseNet3D-201 (not in the paper)."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def t3d121(options: DenseNet3DOptions = _T3D121, *, num_classes: int = 400) -> DenseNet3D:
    """T3D-121 (Table 1)."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def t3d169(options: DenseNet3DOptions = _T3D169, *, num_classes: int = 400) -> DenseNet3D:
    """T3D-169 (Table 1)."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def densenet3d_tiny(options: DenseNet3DOptions = _DENSE_TINY, *, num_classes: int = 400) -> DenseNet3D:
    """A DenseNet3D for training on a laptop's CPU: t3d_tiny with plain transitions."""
    return DenseNet3D(options, num_classes=num_classes)


@register_model
def t3d_tiny(options: DenseNet3DOptions = _T3D_TINY, *, num_classes: int = 400) -> DenseNet3D:
    """A T3D for training on a laptop's CPU."""
    return DenseNet3D(options, num_classes=num_classes)
