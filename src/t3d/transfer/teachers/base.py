"""Teacher: a frozen 2D image model that maps frames to pooled features.

The paper (PAPER: Supervision transfer) uses a DenseNet trained on ImageNet. Here, a teacher is any model of
timm or torchvision, or an ONNX file.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor, nn

from t3d.data.clips.pixels import center_crop, resize_short_side
from t3d.errors import ConfigError

TEACHER_KEY = "t3d.teacher"
"""Key in the header of a file written by `t3d teacher`. Its value describes the model."""

_FORMAT = 1  # raise it when features change, so that stored features are not used
Triple = tuple[float, float, float]


class Teacher(nn.Module, ABC):
    """Frozen 2D model that maps frames to features.

    Weights and buffers never change. The model stays in evaluation mode even if its parent module changes to
    training mode. Its parameters need no gradients, and it computes without gradients.

    Args:
        name: Name as given by the user.
        size: Side of the square input images, in pixels.
        mean: Mean to subtract from RGB in [0, 1].
        std: Standard deviation to divide by.
        weights_digest: Digest of the weights.

    Attributes:
        num_features: Length of a feature, D.
        digest: Digest of the function from frames to features: weights, size and normalization.
    """

    num_features: int

    def __init__(self, name: str, *, size: int, mean: Triple, std: Triple, weights_digest: str) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.mean = mean
        self.std = std
        description = json.dumps([_FORMAT, Path(name).name, size, mean, std, weights_digest])
        self.digest = hashlib.blake2b(description.encode(), digest_size=16).hexdigest()

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Compute the features of normalized frames, float32 [N, 3, size, size] → [N, D]."""

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Compute the features of frames.

        Args:
            frames: RGB, uint8 [N, 3, H, W].

        Returns:
            Features, float32 [N, D].
        """
        return self.features(self.prepare(frames)).float()

    def prepare(self, frames: Tensor) -> Tensor:
        """Resize the short side of frames to `size`, crop the center and normalize.

        Args:
            frames: RGB, uint8 [N, 3, H, W].

        Returns:
            Normalized frames, float32 [N, 3, size, size].

        Raises:
            ConfigError: The frames have another type or shape.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ConfigError(
                f"teacher {self.name} got frames {frames.dtype} {list(frames.shape)}; "
                "expected RGB as torch.uint8 [n, 3, h, w]"
            )
        x = center_crop(resize_short_side(frames, self.size), self.size).float().div_(255)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return x.sub_(mean).div_(std)

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 (Module's own signature)
        """Stay in evaluation mode."""
        return super().train(False)
