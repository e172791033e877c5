"""ResNet3D and R(2+1)D: residual networks with every 2D layer made 3D.

ResNet3D-50 and -38 are baselines of the T3D paper (Tables 4, 8, 9 and 10), which does not describe them
further. **Interpretation:** ResNet (He et al., 2015) with its stride in the 3×3 convolution and the stem of
the paper's Table 1. 3×3×3 replaces 3×3, 1×1×1 replaces 1×1, and time is halved wherever space is. So the maps
have the sizes of Table 1 at every stage. The other stem, `torchvision`, and R(2+1)D are those of Tran et al.
(2018), "A closer look at spatiotemporal convolutions". R(2+1)D splits each 3×3×3 into 1×3×3 and 3×1×1.

Weights have the names of torchvision's 2D ResNets. `t3d convert` also knows those of its video ResNets.

Legend: B batch, C channels, T time, H height, W width. Sizes at line ends are T × H × W for 32 × 224 × 224.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError
from t3d.models.grad_checkpointing import Recomputing
from t3d.models.net import VideoNet, check_blocks
from t3d.models.registry import register_model
from t3d.models.ttl import PAPER_DEPTHS, Kernel, TemporalConv3d, TimePadding
from t3d.models.ttl_insertion import InsertedTTLOptions, insert_ttl_of

Convolution = Literal["3d", "2plus1d"]


@dataclass(frozen=True)
class ResNet3DOptions(InsertedTTLOptions):
    """Options of ResNet3D and R(2+1)D. The defaults are ResNet3D-18's.

    Args:
        block: `basic` has two 3×3×3 convolutions; `bottleneck` 1×1×1, 3×3×3 and, to four times the width,
            1×1×1.
        block_config: Residual blocks in each of the four stages.
        convolution: `3d`, or `2plus1d` for a convolution in space followed by one in time.
        stem: `paper` (Table 1: 3×7×7 of stride 2, then a 3×3×3 max pool) or `torchvision` (3×7×7 that keeps
            T, no pool).
        stem_pool_time_stride: 1 keeps T in the paper stem's pool (Table 1), 2 halves it.
        drop_rate: Dropout before the classifier, in training.

    Raises:
        ConfigError: An invalid value.
    """

    block: Literal["basic", "bottleneck"] = "basic"
    block_config: tuple[int, int, int, int] = (2, 2, 2, 2)
    convolution: Convolution = "3d"
    stem: Literal["paper", "torchvision"] = "paper"
    stem_pool_time_stride: int = 1
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        check_blocks(self.block_config)
        if self.stem_pool_time_stride not in (1, 2):
            raise ConfigError(f"stem_pool_time_stride is {self.stem_pool_time_stride}; allowed: 1, 2")
        super().__post_init__()


class Conv2Plus1D(nn.Sequential):
    """A T × H × W convolution split in two: 1 × H × W → BN → ReLU → T × 1 × 1."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        between: int,
        kernel_size: Kernel = (3, 3, 3),
        stride: Kernel = (1, 1, 1),
        time_padding: TimePadding = "zeros",
    ) -> None:
        super().__init__()
        depth, height, width = kernel_size
        self.spatial = TemporalConv3d(
            in_channels, between, kernel_size=(1, height, width), stride=(1, *stride[1:])
        )
        self.norm = nn.BatchNorm3d(between)
        self.relu = nn.ReLU(inplace=True)
        self.temporal = TemporalConv3d(
            between,
            out_channels,
            kernel_size=(depth, 1, 1),
            stride=(stride[0], 1, 1),
            time_padding=time_padding,
        )


class ResidualBlock(Recomputing, ABC):
    """Residual block: the input, projected if its shape changes, plus the residual branch → ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                TemporalConv3d(in_channels, out_channels, kernel_size=(1, 1, 1), stride=(stride,) * 3),
                nn.BatchNorm3d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C' T/stride H/stride W/stride."""
        return self.recomputed(self._add, x)

    def _add(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.residual(x) + shortcut, inplace=True)

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Compute the residual branch."""


class BasicBlock(ResidualBlock):
    """Two 3×3×3 convolutions."""

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int, options: ResNet3DOptions) -> None:
        super().__init__(in_channels, width, stride)
        between = _between(in_channels, width)
        self.conv1 = _conv3x3x3(in_channels, width, stride, between, options)
        self.bn1 = nn.BatchNorm3d(width)
        # R(2+1)D's published weights have the same number of intermediate filters here as in conv1.
        self.conv2 = _conv3x3x3(width, width, 1, between, options)
        self.bn2 = nn.BatchNorm3d(width)

    def residual(self, x: Tensor) -> Tensor:
        """Compute the residual branch."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class Bottleneck(ResidualBlock):
    """1×1×1 convolution, 3×3×3, and 1×1×1 to four times the width."""

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int, options: ResNet3DOptions) -> None:
        super().__init__(in_channels, width * self.expansion, stride)
        self.conv1 = TemporalConv3d(in_channels, width, kernel_size=(1, 1, 1))
        self.bn1 = nn.BatchNorm3d(width)
        self.conv2 = _conv3x3x3(width, width, stride, _between(width, width), options)
        self.bn2 = nn.BatchNorm3d(width)
        self.conv3 = TemporalConv3d(width, width * self.expansion, kernel_size=(1, 1, 1))
        self.bn3 = nn.BatchNorm3d(width * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        """Compute the residual branch."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.bn3(self.conv3(x))


class ResNet3D(VideoNet):
    """ResNet3D, or R(2+1)D if `options.convolution` is `2plus1d`.

    Args:
        options: Options of the model family.
        num_classes: Number of classes, K. 0 omits the classifier.

    Example:
        >>> import torch
        >>> net = ResNet3D(ResNet3DOptions(width=0.25), num_classes=10)
        >>> net(torch.zeros(1, 3, 8, 64, 64)).shape
        torch.Size([1, 10])
    """

    classifier_name = "fc"

    def __init__(self, options: ResNet3DOptions, *, num_classes: int = 400) -> None:
        block = BasicBlock if options.block == "basic" else Bottleneck
        channels = options.filters(64)
        super().__init__(
            options,
            in_channels=options.in_channels,
            num_features=options.filters(512) * block.expansion,
            num_classes=num_classes,
            head_drop_rate=options.drop_rate,
        )
        self.options: ResNet3DOptions = options
        self.conv1 = _stem(channels, options)  # 16 × 112 × 112
        self.bn1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.Identity()
        if options.stem == "paper":
            stride = (options.stem_pool_time_stride, 2, 2)
            self.maxpool = nn.MaxPool3d(3, stride=stride, padding=1)  # 16 × 56 × 56
        stages = []
        for i, num_blocks in enumerate(options.block_config):
            width = options.filters(64 * 2**i)
            blocks: list[nn.Module] = []
            for j in range(num_blocks):
                blocks.append(block(channels, width, 2 if i > 0 and j == 0 else 1, options))
                channels = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        # 16 × 56 × 56, 8 × 28 × 28, 4 × 14 × 14, 2 × 7 × 7
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = self._new_classifier()
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        insert_ttl_of(self, options)

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into the map after the last block, see `VideoNet.forward_features`."""
        self.check_input(x)
        return self.run_stages(x)

    def layers(self) -> dict[str, list[nn.Module]]:
        """`stem` and `layer1` … `layer4`, see `VideoNet.layers`."""
        return {
            "stem": [self.conv1, self.bn1, self.relu, self.maxpool],
            "layer1": [self.layer1],
            "layer2": [self.layer2],
            "layer3": [self.layer3],
            "layer4": [self.layer4],
        }

    def min_input_size(self) -> tuple[int, int]:
        """Return the minimum (frames, side): 1 and 1, since every layer that halves a map pads it."""
        return 1, 1

    def own_name(self, foreign: str) -> str:
        """Translate names of torchvision's video ResNets if the stem is theirs; see `VideoNet.own_name`."""
        # The paper stem has tensors of the same shapes: it would load these weights and compute nonsense.
        if self.options.stem != "torchvision":
            return foreign
        for pattern, name in _TORCHVISION[self.options.convolution]:
            foreign = pattern.sub(name, foreign)
        return foreign


_TORCHVISION = {
    "3d": [
        (re.compile(r"^stem\.0\."), "conv1."),
        (re.compile(r"^stem\.1\."), "bn1."),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.0\."), r"\1.conv\2."),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.1\."), r"\1.bn\2."),
    ],
    "2plus1d": [
        (re.compile(r"^stem\.0\."), "conv1.spatial."),
        (re.compile(r"^stem\.1\."), "conv1.norm."),
        (re.compile(r"^stem\.3\."), "conv1.temporal."),
        (re.compile(r"^stem\.4\."), "bn1."),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.0\.0\."), r"\1.conv\2.spatial."),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.0\.1\."), r"\1.conv\2.norm."),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.0\.3\."), r"\1.conv\2.temporal."),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.0\.(weight)"), r"\1.conv\2.\3"),
        (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.1\."), r"\1.bn\2."),
    ],
}


def _stem(out_channels: int, options: ResNet3DOptions) -> nn.Module:
    stride = (2, 2, 2) if options.stem == "paper" else (1, 2, 2)
    if options.convolution == "3d":
        return TemporalConv3d(
            options.in_channels,
            out_channels,
            kernel_size=(3, 7, 7),
            stride=stride,
            time_padding=options.time_padding,
        )
    return Conv2Plus1D(
        options.in_channels,
        out_channels,
        between=options.filters(45),  # as in Tran et al.'s published weights; they do not derive it
        kernel_size=(3, 7, 7),
        stride=stride,
        time_padding=options.time_padding,
    )


def _conv3x3x3(
    in_channels: int, out_channels: int, stride: int, between: int, options: ResNet3DOptions
) -> nn.Module:
    strides = (stride, stride, stride)
    if options.convolution == "3d":
        return TemporalConv3d(
            in_channels,
            out_channels,
            kernel_size=(3, 3, 3),
            stride=strides,
            time_padding=options.time_padding,
        )
    return Conv2Plus1D(
        in_channels, out_channels, between=between, stride=strides, time_padding=options.time_padding
    )


def _between(in_channels: int, out_channels: int) -> int:
    """Return the intermediate filters that give a split convolution as many parameters as a 3×3×3."""
    return in_channels * out_channels * 27 // (in_channels * 9 + out_channels * 3)


_RESNET18 = ResNet3DOptions()
_RESNET34 = ResNet3DOptions(block_config=(3, 4, 6, 3))
# The paper lists ResNet3D-38 (Table 9) but does not describe it. 12 bottlenecks have 36 convolutions; the
# stem and the classifier make 38 layers. The blocks are spread evenly, as is common for a ResNet-26's 8.
_RESNET38 = ResNet3DOptions(block="bottleneck", block_config=(3, 3, 3, 3))
_RESNET50 = ResNet3DOptions(block="bottleneck", block_config=(3, 4, 6, 3))
_RESNET101 = ResNet3DOptions(block="bottleneck", block_config=(3, 4, 23, 3))
_RESNET50_TTL = ResNet3DOptions(
    block="bottleneck",
    block_config=(3, 4, 6, 3),
    ttl_after=("layer1", "layer2", "layer3"),
    ttl_depths=PAPER_DEPTHS,
)
_R2PLUS1D18 = ResNet3DOptions(convolution="2plus1d", stem="torchvision")


@register_model
def resnet3d18(options: ResNet3DOptions = _RESNET18, *, num_classes: int = 400) -> ResNet3D:
    """ResNet3D-18; with `stem: torchvision` it is torchvision's r3d_18."""
    return ResNet3D(options, num_classes=num_classes)


@register_model
def resnet3d34(options: ResNet3DOptions = _RESNET34, *, num_classes: int = 400) -> ResNet3D:
    """ResNet3D-34 (not in the paper)."""
    return ResNet3D(options, num_classes=num_classes)


@register_model
def resnet3d38(options: ResNet3DOptions = _RESNET38, *, num_classes: int = 400) -> ResNet3D:
    """ResNet3D-38 (Table 9)."""
    return ResNet3D(options, num_classes=num_classes)


@register_model
def resnet3d50(options: ResNet3DOptions = _RESNET50, *, num_classes: int = 400) -> ResNet3D:
    """ResNet3D-50 (Table 4)."""
    return ResNet3D(options, num_classes=num_classes)


@register_model
def resnet3d101(options: ResNet3DOptions = _RESNET101, *, num_classes: int = 400) -> ResNet3D:
    """ResNet3D-101 (not in the paper)."""
    return ResNet3D(options, num_classes=num_classes)


@register_model
def resnet3d50_ttl(options: ResNet3DOptions = _RESNET50_TTL, *, num_classes: int = 400) -> ResNet3D:
    """ResNet3D-50 with T3D's TTLs after its first three stages (the paper's conclusion)."""
    return ResNet3D(options, num_classes=num_classes)


@register_model
def r2plus1d18(options: ResNet3DOptions = _R2PLUS1D18, *, num_classes: int = 400) -> ResNet3D:
    """R(2+1)D-18, torchvision's r2plus1d_18 (not in the paper)."""
    return ResNet3D(options, num_classes=num_classes)
