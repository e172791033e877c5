"""Student with the heads of the objectives, which score all pairs of clips and frames of a batch.

Legend: B clips, M sets of frames, D features of such a set, F features of the student.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t3d.models.net import VideoNet
from t3d.transfer.config import PairConfig

WIDTH = 1024  # width of the fully connected layer on each side (PAPER: Supervision transfer)
CLASSES = "classes"
"""Name of the scores of the student's classifier."""
_SHARED = 256  # dimensions of the space of `contrastive`


class TransferNet(nn.Module):
    """Student with the heads of the objectives. Only `student` is kept after the transfer.

    Each side ends in a fully connected layer of 1024 units with ReLU. One side gets the teacher's features,
    pooled over the frames. The other side gets the student's pooled features. The heads of
    the objectives use the outputs of both sides.

    `regress`, and `contrastive` in the teacher's space, predict the teacher's own feature. One linear layer
    does this directly from the student's pooled features. The pooled features must then represent the
    teacher's information so that a linear classifier can use it. With the layer of 1024 in between,
    fine-tuning gained less.

    The teacher's features are first standardized to mean 0 and variance 1 over the batch (BatchNorm without
    parameters), because their scale differs widely between teachers. The teacher itself does not change.

    Args:
        student: The student. If it has a classifier, its scores are returned, too.
        teacher_features: D: length of the teacher's pooled features of a clip.
        pairs: Options of the objective.

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
            Scores per objective, float32 [B, M]: logits for `match`, cosines divided by the temperature for
            `contrastive`, cosines of the predicted and the real feature for `regress`. If the student has a
            classifier, its scores before the softmax, [B, K], as `classes`.
        """
        logits = None
        if self.student.num_classes == 0:
            features = self.student(clips)  # B F
        else:
            maps = self.student.forward_features(clips)
            logits = self.student.forward_head(maps)  # B K
            features = self.student.forward_head(maps, pre_logits=True)  # B F
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
        if logits is not None:
            scores[CLASSES] = logits.float()
        return scores


class MatchHead(nn.Module):
    """Classifier of whether frames and clip belong together (PAPER: Supervision transfer).

    Its layers are 1024 + 1024 → 512 → 128 → 1. A layer on a concatenation is the sum of one layer per part.
    All pairs of a batch therefore cost little more than one pair per clip.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Linear(WIDTH, 512)
        self.clip = nn.Linear(WIDTH, 512, bias=False)
        bound = 1 / math.sqrt(2 * WIDTH)
        for tensor in (self.frames.weight, self.frames.bias, self.clip.weight):
            nn.init.uniform_(tensor, -bound, bound)  # the initialization of one layer with 2048 inputs
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))

    def forward(self, frames: Tensor, clips: Tensor) -> Tensor:
        """Score all pairs.

        Args:
            frames: Features of the frames, [M, 1024].
            clips: Features of the clips, [B, 1024].

        Returns:
            Logits, [B, M].
        """
        hidden: Tensor = self.frames(frames)[None] + self.clip(clips)[:, None]  # B M 512
        logits: Tensor = self.rest(hidden)
        return logits.squeeze(-1)
