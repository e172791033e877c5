"""2D image model on each frame, with pooling over time.

The probe's classifier on frozen teacher features is such a network. It cannot see motion, but is a strong
baseline for classes that a single frame shows.

Legend: B batch, C channels, T time, H height, W width, D features of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t3d.clip import TimePooling
from t3d.models.grad_checkpointing import Recomputing
from t3d.models.image_models import ImageModel, build_image_model, find_image_model
from t3d.models.net import NetOptions, VideoNet
from t3d.models.registry import register_model

_SMALLEST_SIDE = 32  # common image models halve the size five times
_LEAST_VARIANCE = 1e-12  # the gradient of a standard deviation of 0 would be infinite


@dataclass(frozen=True)
class FrameNetOptions(NetOptions):
    """Options of a 2D image model on each frame.

    Args:
        backbone: Image model: `timm:NAME`, `torchvision:NAME`, or `NAME` (timm is searched first).
        pooling: Features of a clip: the `mean` over its frames, or the mean followed by the standard
            deviation over its frames (`mean_std`).
        image_size: Side in pixels that a transformer is built for. None is the backbone's own.
            Convolutional models take any size.
        drop_rate: Dropout before the classifier, in training.
    """

    backbone: str = "timm:tf_efficientnet_lite0"
    pooling: TimePooling = "mean_std"
    image_size: int | None = None
    drop_rate: float = 0.0


class EachFrame(Recomputing):
    """Apply an image model to each frame: B C T H W → B D T 1 1.

    Args:
        net: Maps images [N, C, H, W] to features [N, D], or to a map [N, D, h, w], which is averaged.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B D T 1 1."""
        frames = x.transpose(1, 2).flatten(0, 1)  # B·T C H W
        features = self.recomputed(self._features, frames)  # B·T D
        return features.view(x.shape[0], x.shape[2], -1).transpose(1, 2)[..., None, None]

    def _features(self, frames: Tensor) -> Tensor:
        features: Tensor = self.net(frames)
        return features.mean((2, 3)) if features.ndim == 4 else features


class PoolTime(nn.Module):
    """Pool features over time: B D T 1 1 → B D 1 1 1, or B 2·D 1 1 1 with the standard deviation.

    Args:
        pooling: `mean` or `mean_std`.
    """

    def __init__(self, pooling: TimePooling) -> None:
        super().__init__()
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """Pool over time."""
        return pool_time(x, self.pooling, dim=2, keepdim=True, into=1)


def pool_time(x: Tensor, pooling: TimePooling, *, dim: int, keepdim: bool = False, into: int = -1) -> Tensor:
    """Pool features over time.

    Args:
        x: Features of frames.
        pooling: `mean`, or `mean_std` for the mean followed by the standard deviation (of the population).
        dim: Axis of time.
        keepdim: Keep that axis, with length 1.
        into: Axis of the features, along which mean and standard deviation are joined.

    Example:
        >>> pool_time(torch.tensor([[[1.0], [3.0]]]), "mean_std", dim=1)
        tensor([[2., 1.]])
    """
    mean = x.mean(dim, keepdim=keepdim)
    if pooling == "mean":
        return mean
    variance = x.var(dim, correction=0, keepdim=keepdim)
    return torch.cat((mean, variance.clamp_min(_LEAST_VARIANCE).sqrt()), dim=into)


class FrameNet(VideoNet):
    """2D image model on each frame of a clip, with pooling over time.

    Args:
        options: Options of the model.
        num_classes: Number of classes, K. 0 omits the classifier.

    Raises:
        ConfigError: An unknown backbone, or one that returns no feature per image.

    Example:
        >>> net = FrameNet(FrameNetOptions("timm:resnet10t"), num_classes=4).eval()
        >>> net(torch.zeros(1, 3, 5, 64, 64)).shape
        torch.Size([1, 4])
    """

    def __init__(self, options: FrameNetOptions, *, num_classes: int = 400) -> None:
        library, name = find_image_model(options.backbone)
        model = build_image_model(library, name, size=options.image_size)
        width = _num_features(model)
        super().__init__(
            options,
            in_channels=3,
            num_features=width * (2 if options.pooling == "mean_std" else 1),
            num_classes=num_classes,
            head_drop_rate=options.drop_rate,
        )
        self.options: FrameNetOptions = options
        self.frames = EachFrame(model.net)
        self.pool = PoolTime(options.pooling)
        self.classifier = self._new_classifier()

    def layers(self) -> dict[str, list[nn.Module]]:
        """`frames` and `pool`, see `VideoNet.layers`."""
        return {"frames": [self.frames], "pool": [self.pool]}

    def forward_features(self, x: Tensor) -> Tensor:
        """Turn clips into pooled features, see `VideoNet.forward_features`.

        Args:
            x: Clips, B C T H W.

        Returns:
            Map with a single position, B num_features 1 1 1.
        """
        self.check_input(x)
        return self.run_stages(x)

    def min_input_size(self) -> tuple[int, int]:
        """Return the minimum (frames, side)."""
        return 1, _SMALLEST_SIDE


def _num_features(model: ImageModel) -> int:
    """Return the length of the model's feature, found without changing its BatchNorm statistics."""
    net, training = model.net, model.net.training
    weight = next(net.parameters())
    with torch.no_grad():
        shape = net.eval()(torch.zeros(1, 3, model.size, model.size, device=weight.device)).shape
    net.train(training)
    return int(shape[1])


_FRAMES = FrameNetOptions()


@register_model
def frames(options: FrameNetOptions = _FRAMES, *, num_classes: int = 400) -> FrameNet:
    """2D image model on each frame, EfficientNet-Lite0 by default."""
    return FrameNet(options, num_classes=num_classes)
