"""The student with its heads: every objective scores all pairs of a batch's clips and frames.

Legend: B clips, M sets of frames, D features of such a set, F features of the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t3d.models.net import VideoNet
from t3d.transfer.config import PairConfig

WIDTH = 1024  # of the fully connected layer on either side (PAPER: Supervision transfer)
_SHARED = 256  # of the space that `contrastive` compares in


class TransferNet(nn.Module):
    """A student with its heads. Only `student` is kept after training.

    Either side ends in a fully connected layer of 1024 with ReLU: on the teacher's features, averaged over
    the frames or side by side, and on the student's pooled ones. The objectives' heads stand on these two.
    Where the teacher's own feature is predicted (`regress`, or `contrastive` in its space), one linear layer
    does it from the student's pooled features. These must then contain the teacher's knowledge in a form that
    a linear classifier can use. With the layer of 1024 in between, fine-tuning gained less.

    The teacher's features are first brought to mean 0 and variance 1 over the batch (BatchNorm without
    parameters), because networks differ widely in their scale; the teacher itself stays as it is.

    Args:
        student: The 3D net, without classifier.
        teacher_features: D: the teacher's, times the frames where they stand side by side.
        pairs: Which objectives.

    Example:
        >>> from t3d.models.registry import create_model
        >>> net = TransferNet(create_model("t3d_tiny", num_classes=0), 512, PairConfig("sum")).eval()
        >>> scores = net(torch.randn(2, 3, 16, 32, 32), torch.randn(2, 512))
        >>> {name: tuple(score.shape) for name, score in scores.items()}
        {'match': (2, 2), 'contrastive': (2, 2), 'regress': (2, 2)}
    """

    def __init__(self, student: VideoNet, teacher_features: int, pairs: PairConfig) -> None:
        super().__init__()
        self.student = student
        self.temperature = pairs.temperature
        self.standardize = nn.BatchNorm1d(teacher_features, affine=False)
        wanted = ("match", "contrastive", "regress") if pairs.objective == "sum" else (pairs.objective,)
        heads: dict[str, nn.Module] = {}
        for name in wanted:
            if name == "match":
                heads[name] = MatchHead()
            elif name == "contrastive" and pairs.space == "learned":
                heads[name] = nn.ModuleList([nn.Linear(WIDTH, _SHARED), nn.Linear(WIDTH, _SHARED)])
            else:
                heads[name] = nn.Linear(student.num_features, teacher_features)
        self.clip_fc, self.frames_fc = nn.Sequential(), nn.Sequential()
        if not all(isinstance(head, nn.Linear) for head in heads.values()):
            self.clip_fc.extend([nn.Linear(student.num_features, WIDTH), nn.ReLU()])
            self.frames_fc.extend([nn.Linear(teacher_features, WIDTH), nn.ReLU()])
        self.heads = nn.ModuleDict(heads)

    def forward(self, clips: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Score every pair of a clip and a set of frames.

        Args:
            clips: Normalized clips, B C T H W.
            frames: The teacher's features of each set of frames, float32 [M, D].

        Returns:
            For each objective a table of scores, float32 [B, M]: `match` logits; `contrastive` cosines over
            temperature; `regress` cosines of the predicted and the real feature.
        """
        features = self.student(clips)  # B F
        with torch.autocast(clips.device.type, enabled=False):
            features, targets = features.float(), self.standardize(frames)  # B F, M D
            v, i = self.clip_fc(features), self.frames_fc(targets)  # B 1024, M 1024
            scores = {}
            for name, head in self.heads.items():
                if isinstance(head, MatchHead):
                    scores[name] = head(i, v)
                elif isinstance(head, nn.ModuleList):
                    clip, frame = F.normalize(head[0](v), dim=1), F.normalize(head[1](i), dim=1)
                    scores[name] = clip @ frame.T / self.temperature
                else:
                    cosines = F.normalize(head(features), dim=1) @ F.normalize(targets, dim=1).T
                    scores[name] = cosines / self.temperature if name == "contrastive" else cosines
        return scores


class MatchHead(nn.Module):
    """Do frames and clip belong together? 1024 + 1024 → 512 → 128 → 1 (PAPER: Supervision transfer).

    The first layer of a concatenation is the sum of a layer on either part, so that all pairs of a batch
    cost little more than one pair of each clip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Linear(WIDTH, 512)
        self.clip = nn.Linear(WIDTH, 512, bias=False)
        bound = 1 / math.sqrt(2 * WIDTH)
        for tensor in (self.frames.weight, self.frames.bias, self.clip.weight):
            nn.init.uniform_(tensor, -bound, bound)  # as one layer of 2048 inputs would begin
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, frames: Tensor, clips: Tensor) -> Tensor:
        """Score all pairs.

        Args:
            frames: [M, 1024].
            clips: [B, 1024].

        Returns:
            Logits, [B, M].
        """
        hidden: Tensor = self.frames(frames)[None] + self.clip(clips)[:, None]  # B M 512
        logits: Tensor = self.rest(hidden)
        return logits.squeeze(-1)
