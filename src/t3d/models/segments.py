"""Temporal Segment Networks for any 3D network: one score per video from clips of all its parts.

Wang et al. (2016), "Temporal segment networks"; the paper's "T3D + TSN". A video is divided into segments of
equal length, with one clip per segment. Training and testing use the mean of the clips' class scores, before
the softmax. `ClipSpec.segments` sets the number of segments, and `t3d.data.clips.sampling` picks the frames.

Legend: B batch, S segments, C channels, T time, H height, W width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from t3d.errors import ConfigError


class SegmentConsensus(nn.Module):
    """Score each segment's clip with one shared network, and average the scores.

    Args:
        model: The network, B C T H W → B K; its weights are shared by all segments.
        segments: Number of segments, S.

    Raises:
        ConfigError: `segments` below 1.

    Example:
        >>> from t3d.models import create_model
        >>> net = SegmentConsensus(create_model("t3d_tiny", num_classes=5), segments=3)
        >>> net(torch.zeros(2, 3, 3 * 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(self, model: nn.Module, *, segments: int) -> None:
        super().__init__()
        if segments < 1:
            raise ConfigError(f"segments is {segments}; it must be at least 1")
        self.model = model
        self.segments = segments

    def forward(self, x: Tensor) -> Tensor:
        """Score videos.

        Args:
            x: The clips of each video one after the other in time, float, normalized, B C S·T H W.

        Returns:
            Mean of the clips' scores before the softmax, B K.

        Raises:
            ConfigError: The number of frames is not a multiple of `segments`.
        """
        if x.ndim != 5 or x.shape[2] % self.segments:
            raise ConfigError(
                f"the input is {' × '.join(map(str, x.shape))}; a consensus of {self.segments} segments "
                f"takes B × C × T × H × W with T a multiple of {self.segments}"
            )
        clips = torch.cat(x.chunk(self.segments, dim=2))  # S·B C T H W
        scores: Tensor = self.model(clips)  # S·B K
        # In chunks, an exported graph would accept one batch size only.
        return scores.reshape(self.segments, x.shape[0], *scores.shape[1:]).mean(0)  # B K


def with_consensus(model: nn.Module, segments: int) -> nn.Module:
    """Return the network itself for one segment, or its consensus for more."""
    return model if segments == 1 else SegmentConsensus(model, segments=segments)
