"""Train step of a transfer: student and teacher see a batch, and the objectives score all pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from t3d.data.clips.transforms import normalize
from t3d.errors import ManifestError
from t3d.models.frames import pool_time
from t3d.training.step import TrainStep
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import PairBatch
from t3d.transfer.metrics import PairMetrics
from t3d.transfer.objectives import transfer_loss
from t3d.transfer.pairs import allowed_pairs
from t3d.transfer.student import CLASSES
from t3d.transfer.teachers.base import Teacher


class TransferStep(TrainStep):
    """Train step that scores pairs of a clip and frames, or predicts the teacher's features, and classes.

    Args:
        config: Options of the run.
        device: Device of student and teacher.
        teacher: Frozen 2D model. None if batches contain its features.
        groups: Group of each training video, int64 [N]. Pairs within a group are never negatives.
        targets: Class probabilities of each training video, float32 [N, K]. None without labels.
    """

    config: TransferConfig

    def __init__(
        self,
        config: TransferConfig,
        device: torch.device,
        *,
        teacher: Teacher | None,
        groups: Tensor,
        targets: Tensor | None = None,
    ) -> None:
        super().__init__(config, device)
        self.teacher = teacher
        self.groups = groups
        self.targets = targets
        self._metrics = pair_metrics(config)

    def loss(self, model: nn.Module, batch: PairBatch, rng: np.random.Generator) -> Tensor:
        """See `TrainStep`."""
        if len(batch.videos) < 2:
            raise ManifestError(
                "a batch has fewer than two readable videos, and a single clip has no negatives: "
                + ", ".join(map(str, batch.bad))
                + ("" if batch.bad else "each process needs at least 2 clips (optim.batch_size)")
            )
        scores, positive, negative = self.score(model, batch, self.groups)
        self._metrics.add(scores[first_of(scores)], positive, negative)
        return self.total(scores, positive, negative, batch=batch, targets=self.targets, rng=rng)

    def total(
        self,
        scores: dict[str, Tensor],
        positive: Tensor,
        negative: Tensor,
        *,
        batch: PairBatch,
        targets: Tensor | None,
        rng: np.random.Generator | None = None,
    ) -> Tensor:
        """Return the loss of a scored batch, see `transfer_loss`; `targets` are those of all rows, [N, K]."""
        config = self.config
        return transfer_loss(
            scores,
            positive,
            negative,
            pairs=config.pairs,
            rng=rng,
            targets=None if targets is None else targets[batch.videos].to(self.device),
            pairs_weight=config.labels.pairs_weight,
        )

    def score(
        self, model: nn.Module, batch: PairBatch, groups: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Score all pairs of a batch.

        Args:
            model: A `TransferNet`, wrapped or not.
            batch: B clips.
            groups: Group of each row, int64 [N]. `batch.videos` indexes it.

        Returns:
            Scores by name (see `TransferNet`), float32 [B, M] for pairs, and the masks of positive and
            negative pairs, bool [B, M].
        """
        assert batch.frames is not None
        device = self.device
        x = normalize(batch.frames.to(device, non_blocking=True), self.config.clip)  # B C T H W
        seen = batch.teacher
        used = None
        if batch.other is not None and not batch.other.all():
            # Neither model gets the zeros of videos without another time.
            used = torch.cat([torch.ones_like(batch.other), batch.other])
            seen = seen[used]
        seen = seen.to(device, non_blocking=True)
        if self.teacher is not None:  # M X 3 S S
            seen = self.teacher(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])  # M X D
        pooling = self.config.pooling
        seen = seen.flatten(1) if pooling == "concatenate" else pool_time(seen, pooling, dim=1)  # M D or 2D
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            scores: dict[str, Tensor] = model(x, seen)
        if used is not None:
            scores = {
                name: table if name == CLASSES else _spread(table, used.to(device))
                for name, table in scores.items()
            }
        positive, negative = allowed_pairs(groups[batch.videos], batch.other)
        return scores, positive.to(device), negative.to(device)

    def figures(self) -> dict[str, float]:
        """Return the metrics of this process's pairs since the last call."""
        figures, self._metrics = self._metrics.figures(), pair_metrics(self.config)
        return figures


def _spread(table: Tensor, used: Tensor) -> Tensor:
    """Return the scores of the used sets, [B, number of used], as a table of all sets, zero elsewhere."""
    full = table.new_zeros(len(table), len(used))
    full[:, used] = table
    return full


def pair_metrics(config: TransferConfig) -> PairMetrics:
    """Return empty metrics. Only the scores of `match` are logits, with the decision threshold 0."""
    return PairMetrics(threshold=0.0 if config.pairs.objective in ("match", "sum") else None)


def first_of(scores: dict[str, Any]) -> str:
    """Return the objective whose scores the metrics count: `match` if it is trained."""
    return "match" if "match" in scores else next(iter(scores))
