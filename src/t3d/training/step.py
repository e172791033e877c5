"""Train steps: the loss of one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from t3d.clip import Targets
from t3d.data.clips.dataset import Batch
from t3d.data.clips.transforms import normalize
from t3d.device import use_bf16
from t3d.training.config import RunConfig


class TrainStep(ABC):
    """Loss of one batch.

    Args:
        config: Options of the run.
        device: Device of the model.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.bf16 = use_bf16(config.precision, device)

    @abstractmethod
    def loss(self, model: nn.Module, batch: Any, rng: np.random.Generator) -> torch.Tensor:
        """Compute the loss of a batch of clips, with its gradient.

        Args:
            model: The model, possibly wrapped for several processes.
            batch: A batch of the loader, with at least one clip.
            rng: Generator for the random parts of the loss.
        """

    def figures(self) -> dict[str, float]:
        """Return additional figures for a log line, counted since the last call."""
        return {}


class SingleLabelStep(TrainStep):
    """Train on one label per video, or on the probabilities of all classes, with cross-entropy."""

    def loss(self, model: nn.Module, batch: Batch, rng: np.random.Generator) -> torch.Tensor:
        """See `TrainStep`."""
        assert batch.frames is not None
        alpha = self.config.optim.mixup_alpha
        x = normalize(batch.frames.to(self.device, non_blocking=True), self.config.clip)  # B C T H W
        labels = batch.labels.to(self.device, non_blocking=True)
        share = float(rng.beta(alpha, alpha)) if alpha else 1.0
        if alpha:  # mix each clip with its neighbor in the batch
            x = x.lerp(x.roll(1, 0), 1 - share)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits = model(x)  # B K
        return self.compare(logits.float(), labels, share)

    def compare(self, logits: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """Compute the loss of logits [B, K]: a clip's labels weigh `share`, its neighbor's `1 - share`.

        Labels are int64 [B], or float32 [B, K].
        """
        config = self.config.optim
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        if config.mixup_alpha:
            other = F.cross_entropy(logits, labels.roll(1, 0), label_smoothing=config.label_smoothing)
            loss = share * loss + (1 - share) * other
        return loss


class MultiLabelStep(SingleLabelStep):
    """Train on any number of labels per video, with binary cross-entropy averaged over clips and classes."""

    def compare(self, logits: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """See `SingleLabelStep`."""
        config = self.config.optim
        targets = labels  # B K
        if config.mixup_alpha:
            targets = targets.lerp(targets.roll(1, 0), 1 - share)
        # As with one label, the smoothed share is spread evenly over all classes. Moving targets toward 1/2
        # instead would raise the target of a rare class well above the share of videos that have it.
        smoothing = config.label_smoothing
        targets = (1 - smoothing) * targets + smoothing / max(targets.shape[1], 2)  # one class: yes or no
        return F.binary_cross_entropy_with_logits(logits, targets)


def label_step(targets: Targets, config: RunConfig, device: torch.device) -> SingleLabelStep:
    """Return the step for videos with one label each (`single`) or any number of labels (`multi`)."""
    return (SingleLabelStep if targets == "single" else MultiLabelStep)(config, device)
