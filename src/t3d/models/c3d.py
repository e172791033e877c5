"""C3D: eight 3×3×3 convolutions, five pools and two wide linear layers.

Tran et al. (2015), "Learning spatiotemporal features with 3D convolutional networks"; the T3D paper
compares with it (Tables 9 and 10). **Interpretation:** as published, without BatchNorm, with 4096 features
after each linear layer and a dropout of 0.5 after both. The published network accepts only 16 × 112 × 112,
where its last map is 1 × 4 × 4. For other clips, the last map is averaged to that size. Pool windows may
extend past the end of a map, as in Caffe. Ports that pad the last pool on both sides shift its map by one
pixel.

Legend: B batch, C channels, T time, H height, W width. Sizes at line ends are T × H × W for 16 × 112 × 112.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from t3d.models.grad_checkpointing import Recomputing
from t3d.models.net import VideoNet
from t3d.models.registry import register_model
from t3d.models.ttl import Kernel, TemporalConv3d
from t3d.models.ttl_insertion import InsertedTTLOptions, insert_ttl_of

_GRID = (1, 4, 4)
_FLAT_NAME = re.compile(r"^conv([1-5])([ab]?)\.(weight|bias)$")


@dataclass(frozen=True)
class C3DOptions(InsertedTTLOptions):
    """Options of C3D.

    Args:
        drop_rate: Dropout after each of the two linear layers, in training.

    Raises:
        ConfigError: An invalid value.
    """

    drop_rate: float = 0.5


class ConvStage(Recomputing):
    """A pool (none in the first stage), then one or two convolutions with ReLU."""

    def __init__(
        self, in_channels: int, widths: tuple[int, ...], pool: nn.Module, options: C3DOptions
    ) -> None:
        super().__init__()
        self.pool = pool
        for letter, width in zip("ab", widths, strict=False):
            conv = TemporalConv3d(
                in_channels, width, kernel_size=(3, 3, 3), time_padding=options.time_padding, bias=True
            )
            self.add_module(letter, conv)
            in_channels = width

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C' T' H' W'."""
        return self.recomputed(self._convolve, x)

    def _convolve(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        for name, module in self.named_children():
            if name != "pool":
                x = F.relu(module(x), inplace=True)
        return x


class ToGrid(nn.Module):
    """Average a map to 1 × 4 × 4, unless it already has that size, and flatten it: B C T H W → B 16·C."""

    def forward(self, x: Tensor) -> Tensor:
        """Flatten."""
        if tuple(x.shape[2:]) != _GRID:
            x = F.adaptive_avg_pool3d(x, _GRID)
        return x.flatten(1)


class C3D(VideoNet):
    """C3D.

    Its feature map is the last linear layer's output, B num_features 1 1 1.

    Args:
        options: Options of the model.
        num_classes: Number of classes, K. 0 omits the classifier.

    Example:
        >>> import torch
        >>> net = C3D(C3DOptions(width=0.125), num_classes=10)
        >>> net(torch.zeros(1, 3, 8, 64, 64)).shape
        torch.Size([1, 10])
    """

    classifier_name = "fc8"

    def __init__(self, options: C3DOptions, *, num_classes: int = 400) -> None:
        features = options.filters(4096)
        super().__init__(
            options, in_channels=options.in_channels, num_features=features, num_classes=num_classes
        )
        self.options: C3DOptions = options
        n = options.filters
        self.conv1 = ConvStage(options.in_channels, (n(64),), nn.Identity(), options)  # 16 × 112 × 112
        self.conv2 = ConvStage(n(64), (n(128),), _pool(depth=1), options)  # 16 × 56 × 56
        self.conv3 = ConvStage(n(128), (n(256), n(256)), _pool(), options)  # 8 × 28 × 28
        self.conv4 = ConvStage(n(256), (n(512), n(512)), _pool(), options)  # 4 × 14 × 14
        self.conv5 = ConvStage(n(512), (n(512), n(512)), _pool(), options)  # 2 × 7 × 7
        self.pool5 = _pool()  # 1 × 4 × 4
        self.grid = ToGrid()
        self.fc6 = nn.Linear(n(512) * 16, features)
        self.relu6 = nn.ReLU(inplace=True)
        self.drop6 = nn.Dropout(options.drop_rate)
        self.fc7 = nn.Linear(features, features)
        self.relu7 = nn.ReLU(inplace=True)
        self.drop7 = nn.Dropout(options.drop_rate)
        self.to_map = nn.Unflatten(1, (features, 1, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)
        self.fc8 = self._new_classifier()
        insert_ttl_of(self, options)

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into the features after the last linear layer, see `VideoNet.forward_features`.

        Args:
            x: Clips, B C T H W.

        Returns:
            Map with a single position, B num_features 1 1 1.
        """
        self.check_input(x)
        return self.run_stages(x)

    def layers(self) -> dict[str, list[nn.Module]]:
        """`conv1` … `conv5`, `fc6` and `fc7`, see `VideoNet.layers`."""
        return {
            "conv1": [self.conv1],
            "conv2": [self.conv2],
            "conv3": [self.conv3],
            "conv4": [self.conv4],
            "conv5": [self.conv5],
            "fc6": [self.pool5, self.grid, self.fc6, self.relu6, self.drop6],
            "fc7": [self.fc7, self.relu7, self.drop7, self.to_map],
        }

    def min_input_size(self) -> tuple[int, int]:
        """Return the minimum (frames, side): 1 and 1, since pool windows may extend past the end of a map."""
        return 1, 1

    def own_name(self, foreign: str) -> str:
        """Translate names of the common PyTorch ports (`conv3a.weight`), see `VideoNet.own_name`."""
        parts = _FLAT_NAME.match(foreign)
        return f"conv{parts[1]}.{parts[2] or 'a'}.{parts[3]}" if parts else foreign


class CeilMaxPool3d(nn.Module):
    """Max pool whose windows may extend past the end of a map.

    A window is never larger than the map, which changes no value, because OpenVINO refuses larger ones.

    Args:
        window: Size and stride as T × H × W.
    """

    def __init__(self, window: Kernel) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C T' H' W'."""
        window = [min(size, length) for size, length in zip(self.window, x.shape[2:], strict=True)]
        return F.max_pool3d(x, window, self.window, ceil_mode=True)


def _pool(*, depth: int = 2) -> CeilMaxPool3d:
    return CeilMaxPool3d((depth, 2, 2))


_C3D = C3DOptions()


@register_model
def c3d(options: C3DOptions = _C3D, *, num_classes: int = 400) -> C3D:
    """C3D (Table 9)."""
    return C3D(options, num_classes=num_classes)
