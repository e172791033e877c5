"""DenseNet3D and T3D as a textbook writes them: plain modules, one line per layer.

These networks are the independent reference of the benchmarks, without checks or fast paths.
Their tensors have the names of `t3d.models.densenet3d`, so that weights can be copied.

Legend: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.models.densenet3d import DenseNet3D, DenseNet3DOptions


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1×1 convolution, BN, ReLU, 3×3×3 convolution; the result is appended to the input."""

    def __init__(self, channels: int, growth: int, width: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = nn.Conv3d(channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(width)
        self.conv2 = nn.Conv3d(width, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W → B C+growth T H W."""
        new = self.conv1(F.relu(self.norm1(x)))
        new = self.conv2(F.relu(self.norm2(new)))
        return torch.cat([x, new], dim=1)


class Transition(nn.Module):
    """BN, ReLU, 1×1×1 convolution that halves the channels, 2×2×2 average pool."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(channels)
        self.conv = nn.Conv3d(channels, channels // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W → B C/2 T/2 H/2 W/2."""
        return _halved(self.conv(F.relu(self.norm(x))))


class Branch(nn.Module):
    """One branch of a Temporal Transition Layer: BN, ReLU, convolution that sees `depth` time steps."""

    def __init__(self, channels: int, filters: int, depth: int) -> None:
        super().__init__()
        side = 1 if depth == 1 else 3
        self.norm = nn.BatchNorm3d(channels)
        self.conv = nn.Conv3d(
            channels, filters, (depth, side, side), padding=(0, side // 2, side // 2), bias=False
        )
        self.before, self.after = (depth - 1) // 2, depth // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W → B filters T H W."""
        x = F.relu(self.norm(x))
        return self.conv(F.pad(x, (0, 0, 0, 0, self.before, self.after)))


class TemporalTransition(nn.Module):
    """Branches of several temporal depths, concatenated; 2×2×2 average pool."""

    def __init__(self, channels: int, filters: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Branch(channels, filters, depth) for depth in depths)

    def forward(self, x: Tensor) -> Tensor:
        """Map B C T H W → B filters·branches T/2 H/2 W/2."""
        return _halved(torch.cat([branch(x) for branch in self.branches], dim=1))


class TextbookNet(nn.Module):
    """DenseNet3D, or T3D with temporal depths.

    Args:
        options: Options of the network; see `has_textbook`.
        num_classes: Number of classes, K.
    """

    def __init__(self, options: DenseNet3DOptions, num_classes: int) -> None:
        super().__init__()
        channels, growth = options.stem_channels, options.growth_rate
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv3d(
            options.in_channels, channels, (3, 7, 7), stride=2, padding=(1, 3, 3), bias=False
        )
        self.features.norm0 = nn.BatchNorm3d(channels)
        self.features.relu0 = nn.ReLU()
        self.features.pool0 = nn.MaxPool3d(3, stride=(1, 2, 2), padding=1)
        last = len(options.block_config)
        for number, layers in enumerate(options.block_config, 1):
            block = nn.Sequential()
            for layer in range(1, layers + 1):
                block.add_module(
                    f"denselayer{layer}", DenseLayer(channels, growth, options.bottleneck * growth)
                )
                channels += growth
            self.features.add_module(f"denseblock{number}", block)
            if number == last:
                break
            transition: nn.Module
            if options.ttl_depths is None:
                transition, channels = Transition(channels), channels // 2
            else:
                depths = options.ttl_depths[number - 1]
                transition = TemporalTransition(channels, options.ttl_channels, depths)
                channels = options.ttl_channels * len(depths)
            self.features.add_module(f"transition{number}", transition)
        self.features.norm5 = nn.BatchNorm3d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Score clips, B C T H W → B K."""
        x = F.relu(self.features(x))
        return self.classifier(x.mean(dim=(2, 3, 4)))


def has_textbook(net: nn.Module) -> bool:
    """Return whether there is a textbook version of a network: DenseNet3D or T3D with the paper's layers."""
    return (
        isinstance(net, DenseNet3D)
        and not net.inserted
        and net.num_classes > 0
        and not net.options.ttl_projection
        and net.options.stem_pool_time_stride == 1
        and net.options.time_padding == "zeros"
    )


def textbook(net: DenseNet3D) -> TextbookNet:
    """Return the textbook version of a network, with a copy of its weights, in its mode.

    Args:
        net: A network for which `has_textbook` is true.

    Example:
        >>> from t3d.models import create_model
        >>> net = create_model("t3d_tiny", num_classes=3).eval()
        >>> clips = torch.rand(1, 3, 8, 32, 32)
        >>> torch.allclose(textbook(net)(clips), net(clips), atol=1e-5)
        True
    """
    plain = TextbookNet(net.options, net.num_classes)
    plain.load_state_dict(net.state_dict())
    weight = next(net.parameters())
    return plain.to(device=weight.device, dtype=weight.dtype).train(net.training)


def _halved(x: Tensor) -> Tensor:
    """Average-pool a map 2×2×2; a single time step is kept."""
    return F.avg_pool3d(x, (min(x.shape[2], 2), 2, 2))
