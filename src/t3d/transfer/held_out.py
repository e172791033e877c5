"""Validation of a transfer on pairs of held-out videos."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import SampleKey
from t3d.errors import Failed, ManifestError
from t3d.progress import track
from t3d.transfer.dataset import CollatePairs, TransferClips
from t3d.transfer.step import TransferStep, first_of, pair_metrics
from t3d.transfer.student import CLASSES


class HeldOut:
    """Held-out videos, in the same batches at every validation.

    Args:
        clips: Clips of the videos, without augmentation.
        step: Train step, which scores the pairs of a batch.
        groups: Group of each video, int64 [N].
        targets: Class probabilities of each video from the teacher, float32 [N, K]. None without labels.

    Attributes:
        bad: Videos that could not be read in the last `measure`.
    """

    def __init__(
        self, clips: TransferClips, step: TransferStep, groups: Tensor, targets: Tensor | None = None
    ) -> None:
        config = step.config
        self.step = step
        self.groups = groups
        self.targets = targets
        self.bad: list[Failed] = []
        order = np.random.default_rng(config.seed).permutation(len(clips))
        size = min(config.optim.batch_size, len(order))
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        if len(batches) > 1 and len(batches[-1]) < 2:  # a single clip has no negatives
            batches.pop()
        self.loader = Loader(
            clips,
            batch_sampler=[[SampleKey(0, int(row)) for row in batch] for batch in batches],
            num_workers=config.data.workers,
            collate_fn=CollatePairs(config.pairs.other_time),
        )

    @torch.no_grad()
    def measure(self, model: nn.Module) -> dict[str, float]:
        """Return the loss and the metrics of a `TransferNet`, over all pairs of each batch.

        Raises:
            ManifestError: No held-out video could be read.
        """
        model.eval()
        self.bad = []
        config = self.step.config
        metrics, losses = pair_metrics(config), []
        agree: list[Tensor] = []
        for batch in track(self.loader, "Validating", unit="batches"):
            self.bad += batch.bad
            if batch.frames is None:
                continue
            scores, positive, negative = self.step.score(model, batch, self.groups)
            losses.append(
                float(self.step.total(scores, positive, negative, batch=batch, targets=self.targets))
            )
            if self.targets is not None:
                likely = self.targets[batch.videos].argmax(1)
                agree.append(scores[CLASSES].argmax(1).cpu() == likely)
            metrics.add(scores[first_of(scores)], positive, negative)
        if not losses:
            reasons = "".join(f"\n  {failed}" for failed in self.bad[:20])
            raise ManifestError(f"none of the held-out videos could be read:{reasons}")
        figures = {"loss": float(np.mean(losses))} | metrics.figures()
        return figures | ({"agreement": float(torch.cat(agree).float().mean())} if agree else {})
