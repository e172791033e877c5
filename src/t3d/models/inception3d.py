"""Inception3D and I3D: Inception-v1 with every 2D layer made 3D.

Inception3D is a baseline of the T3D paper (Tables 4, 9 and 10), which does not describe it further. I3D is
the RGB network of Carreira and Zisserman (2017), "Quo vadis, action recognition?", a baseline in Table 9.
**Interpretation:** Inception-v1 (Szegedy et al., 2014) with BatchNorm and without auxiliary classifiers.
3×3 replaces 5×5, as in I3D and in torchvision's GoogLeNet, and k×k becomes k×k×k. The two differ only in
pooling. Inception3D keeps T in its first pool and halves it in the others, so its maps have the sizes of
the paper's Table 1. I3D keeps T in the first two pools, whose temporal kernel is 1.

Weights carry torchvision's GoogLeNet names.

Legend: B batch, C channels, T time, H height, W width. Sizes at line ends are T × H × W for 32 × 224 × 224.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError, between
from t3d.models.grad_checkpointing import Recomputing
from t3d.models.net import MAX_DEPTH, VideoNet
from t3d.models.registry import register_model
from t3d.models.ttl import PAPER_DEPTHS, Kernel, TemporalConv3d, TimePadding
from t3d.models.ttl_insertion import InsertedTTLOptions, insert_ttl_of

# Filters of each module's branches: 1×1; 1×1 → 3×3; 1×1 → 3×3; pool → 1×1.
_MODULES = {
    "inception3a": (64, (96, 128), (16, 32), 32),
    "inception3b": (128, (128, 192), (32, 96), 64),
    "inception4a": (192, (96, 208), (16, 48), 64),
    "inception4b": (160, (112, 224), (24, 64), 64),
    "inception4c": (128, (128, 256), (24, 64), 64),
    "inception4d": (112, (144, 288), (32, 64), 64),
    "inception4e": (256, (160, 320), (32, 128), 128),
    "inception5a": (256, (160, 320), (32, 128), 128),
    "inception5b": (384, (192, 384), (48, 128), 128),
}


@dataclass(frozen=True)
class Inception3DOptions(InsertedTTLOptions):
    """Options of Inception3D and I3D. The defaults are Inception3D's.

    Args:
        pool_depths: Temporal kernel of each of the four max pools.
        pool_time_strides: Temporal stride of each of the four max pools, 1 or 2.
        drop_rate: Dropout before the classifier, in training.

    Raises:
        ConfigError: An invalid value.
    """

    narrowest: ClassVar[int] = 16  # of a branch

    pool_depths: tuple[int, int, int, int] = (3, 3, 3, 2)
    pool_time_strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    drop_rate: float = 0.0

    def __post_init__(self) -> None:
        for depth in self.pool_depths:
            between("a depth in pool_depths", depth, 1, MAX_DEPTH)
        if not {1, 2}.issuperset(self.pool_time_strides):
            raise ConfigError(f"pool_time_strides is {self.pool_time_strides}; allowed: 1, 2")
        for depth, stride in zip(self.pool_depths, self.pool_time_strides, strict=True):
            if stride == 1 and depth % 2 == 0:
                raise ConfigError(
                    f"pool_depths is {self.pool_depths} with pool_time_strides {self.pool_time_strides}; "
                    "a pool that keeps T needs an odd depth"
                )
        super().__post_init__()


class BasicConv(nn.Module):
    """Convolution → BN → ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Kernel,
        stride: Kernel = (1, 1, 1),
        time_padding: TimePadding,
    ) -> None:
        super().__init__()
        self.conv = TemporalConv3d(
            in_channels, out_channels, kernel_size=kernel_size, stride=stride, time_padding=time_padding
        )
        self.bn = nn.BatchNorm3d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C' T' H' W'."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class HangingMaxPool(nn.Module):
    """Max pool of stride 2 in space whose last windows may extend past the end of the map.

    Args:
        depth: Temporal kernel. If T is shorter and is to be halved, the kernel is T.
        side: Kernel in space.
        time_stride: 1 keeps T, 2 halves it.

    Example:
        >>> HangingMaxPool(3, 3, time_stride=2)(torch.zeros(1, 8, 4, 6, 6)).shape
        torch.Size([1, 8, 2, 3, 3])
    """

    def __init__(self, depth: int, side: int, *, time_stride: int) -> None:
        super().__init__()
        self.depth = depth
        self.side = side
        self.time_stride = time_stride

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C T' H' W': H' and W' about half of H and W, T' the same as T or about half."""
        keeps_time = self.time_stride == 1
        depth = self.depth if keeps_time else min(self.depth, x.shape[2])
        return F.max_pool3d(
            x,
            kernel_size=(depth, self.side, self.side),
            stride=(self.time_stride, 2, 2),
            padding=(depth // 2 if keeps_time else 0, 0, 0),
            ceil_mode=True,
        )

    def extra_repr(self) -> str:
        """Return the options that print(model) shows."""
        return f"{self.depth}×{self.side}×{self.side}, time_stride={self.time_stride}"


class InceptionModule(Recomputing):
    """Four parallel branches: 1×1×1; 1×1×1 → 3×3×3, twice; 3×3×3 max pool → 1×1×1."""

    def __init__(self, in_channels: int, name: str, options: Inception3DOptions) -> None:
        super().__init__()
        one, (reduce2, three2), (reduce3, three3), pooled = _MODULES[name]

        def conv(channels_in: int, filters: int, k: int) -> BasicConv:
            return BasicConv(
                channels_in,
                options.filters(filters),
                kernel_size=(k, k, k),
                time_padding=options.time_padding,
            )

        self.branch1 = conv(in_channels, one, 1)
        self.branch2 = nn.Sequential(conv(in_channels, reduce2, 1), conv(options.filters(reduce2), three2, 3))
        self.branch3 = nn.Sequential(conv(in_channels, reduce3, 1), conv(options.filters(reduce3), three3, 3))
        self.branch4 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), conv(in_channels, pooled, 1))
        self.out_channels = sum(map(options.filters, (one, three2, three3, pooled)))

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B out_channels T H W."""
        return self.recomputed(self._join, x)

    def _join(self, x: Tensor) -> Tensor:
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return torch.cat([branch(x) for branch in branches], dim=1)


class Inception3D(VideoNet):
    """Inception3D, or I3D, depending on the pooling options.

    Args:
        options: Options of the model family.
        num_classes: Number of classes, K. 0 omits the classifier.

    Example:
        >>> net = Inception3D(Inception3DOptions(width=0.25), num_classes=10)
        >>> net(torch.zeros(1, 3, 8, 64, 64)).shape
        torch.Size([1, 10])
    """

    classifier_name = "fc"

    def __init__(self, options: Inception3DOptions, *, num_classes: int = 400) -> None:
        first, second = options.filters(64), options.filters(192)
        last = sum(options.filters(count) for count in (384, 384, 128, 128))
        super().__init__(
            options,
            in_channels=options.in_channels,
            num_features=last,
            num_classes=num_classes,
            head_drop_rate=options.drop_rate,
        )
        self.options: Inception3DOptions = options
        padding = options.time_padding
        self.conv1 = BasicConv(
            options.in_channels, first, kernel_size=(7, 7, 7), stride=(2, 2, 2), time_padding=padding
        )  # 16 × 112 × 112
        self.maxpool1 = _pool(0, 3, options)  # 16 × 56 × 56
        self.conv2 = BasicConv(first, first, kernel_size=(1, 1, 1), time_padding=padding)
        self.conv3 = BasicConv(first, second, kernel_size=(3, 3, 3), time_padding=padding)
        self.maxpool2 = _pool(1, 3, options)  # 8 × 28 × 28; I3D: 16 × 28 × 28
        self.maxpool3 = _pool(2, 3, options)  # 4 × 14 × 14; I3D: 8 × 14 × 14
        self.maxpool4 = _pool(3, 2, options)  # 2 × 7 × 7; I3D: 4 × 7 × 7
        channels = second
        for name in _MODULES:
            block = InceptionModule(channels, name, options)
            self.add_module(name, block)
            channels = block.out_channels
        self.fc = self._new_classifier()
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight)
        insert_ttl_of(self, options)

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into the map after the last module, see `VideoNet.forward_features`."""
        self.check_input(x)
        return self.run_stages(x)

    def layers(self) -> dict[str, list[nn.Module]]:
        """`stem`, `inception3`, `inception4` and `inception5`, see `VideoNet.layers`."""

        def modules(number: int) -> list[nn.Module]:
            return [self.get_submodule(name) for name in _MODULES if name.startswith(f"inception{number}")]

        return {
            "stem": [self.conv1, self.maxpool1, self.conv2, self.conv3, self.maxpool2],
            "inception3": modules(3),
            "inception4": [self.maxpool3, *modules(4)],
            "inception5": [self.maxpool4, *modules(5)],
        }

    def min_input_size(self) -> tuple[int, int]:
        """Return the minimum (frames, side): 1 and 15, which gives the third pool a map of 2 × 2."""
        return 1, 15


def _pool(index: int, side: int, options: Inception3DOptions) -> HangingMaxPool:
    return HangingMaxPool(options.pool_depths[index], side, time_stride=options.pool_time_strides[index])


_INCEPTION = Inception3DOptions()
_I3D = Inception3DOptions(pool_depths=(1, 1, 3, 2), pool_time_strides=(1, 1, 2, 2))
# The maps of inception3 and inception4 have the sizes that T3D's second and third TTLs see.
_INCEPTION_TTL = Inception3DOptions(ttl_after=("inception3", "inception4"), ttl_depths=PAPER_DEPTHS[1:])


@register_model
def inception3d(options: Inception3DOptions = _INCEPTION, *, num_classes: int = 400) -> Inception3D:
    """Inception3D (Table 4)."""
    return Inception3D(options, num_classes=num_classes)


@register_model
def inception3d_ttl(options: Inception3DOptions = _INCEPTION_TTL, *, num_classes: int = 400) -> Inception3D:
    """Inception3D with TTLs before its last two pools (the paper's conclusion)."""
    return Inception3D(options, num_classes=num_classes)


@register_model
def i3d(options: Inception3DOptions = _I3D, *, num_classes: int = 400) -> Inception3D:
    """The RGB network of I3D (Table 9)."""
    return Inception3D(options, num_classes=num_classes)
