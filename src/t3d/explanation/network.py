"""A network that is explained: the score of one class for one clip, and the gates of its TTL branches.

Legend: S segments, G settings of gates, C channels, T time, H height, W width, K classes.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from t3d.clip import ClipSpec
from t3d.data.clips.transforms import normalize
from t3d.explanation.depths import Scores
from t3d.explanation.gates import branches_of, same_batch, without_gradients
from t3d.models.net import VideoNet


class ExplainedNet:
    """A network whose scores are explained. It computes in float32.

    Args:
        net: The network, which does not change; see `without_gradients`.
        spec: What a clip is.

    Attributes:
        branches: Branches of its TTLs, in forward order.
    """

    def __init__(self, net: VideoNet, spec: ClipSpec) -> None:
        self.net = without_gradients(net)
        self.spec = spec
        self.branches = branches_of(self.net)
        self.device = next(self.net.parameters()).device

    def input_of(self, frames: Tensor) -> Tensor:
        """Return a clip as the network takes it.

        Args:
            frames: uint8 [S·T, C, H, W].

        Returns:
            Normalized clips of the segments, float32 [S, C, T, H, W].
        """
        x = normalize(frames[None].to(self.device), self.spec)
        return torch.cat(x.chunk(self.spec.segments, dim=2))

    def score(self, x: Tensor, label: int) -> Tensor:
        """Return the score of a class, before softmax or sigmoid: the mean over the segments.

        Args:
            x: See `input_of`.
            label: Number of the class.
        """
        scores: Tensor = self.net(x)
        return scores[:, label].mean()

    def scores(self, x: Tensor, label: int) -> Scores:
        """Return the function that computes the score of a class in several settings of gates.

        Args:
            x: See `input_of`.
            label: Number of the class.
        """
        return partial(self._scores, x, label)

    def _scores(self, x: Tensor, label: int, settings: int) -> Tensor:
        with same_batch(self.net, settings):
            scores: Tensor = self.net(x)
        return scores[:, label].view(settings, -1).mean(1)
