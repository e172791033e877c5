"""One optimiser step: batch, loss, backward pass, update, and the numbers that are counted meanwhile."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from t3d.data.clips.dataset import Batch
from t3d.data.clips.transforms import normalize
from t3d.device import use_bf16
from t3d.errors import ManifestError, T3DError
from t3d.training.config import RunConfig
from t3d.training.optim import Schedule


class DivergedError(T3DError):
    """The loss is no longer a finite number."""


class Stepper(ABC):
    """Takes optimiser steps; what is learned, a subclass says by its `_loss`.

    Args:
        config: The run's options.
        accelerator: Averages gradients over processes.
        model: The net, prepared by the accelerator.
        optimizer: What is stepped.
        schedule: The learning rate.
        videos: Videos in the training set, of which `data.max_bad` is a share.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        videos: int,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.videos = videos
        self.bf16 = use_bf16(config.precision, accelerator.device)
        self.bad: dict[str, str] = {}
        self._lines: list[float] = []
        self.start_counting()

    def start_counting(self) -> None:
        """Begin the means of the next `report` here, so that a pause does not enter them."""
        self._loss_sum = torch.zeros((), device=self.accelerator.device)
        self._steps = self._clips = 0
        self._waited = 0.0
        self._began = time.monotonic()

    def step(self, batches: Iterator[Any], *, epoch: int, step: int, total: int) -> None:
        """Take one optimiser step.

        Args:
            batches: Where batches come from; `optim.accumulate` of them are taken.
            epoch: Epoch, from 0.
            step: Step within the epoch, from 0.
            total: Step within the run, from 0.

        Raises:
            ManifestError: Too many videos, or all of a batch, cannot be read.
        """
        config = self.config.optim
        self.rate = self.schedule.set(total)
        # Mixup and dropout draw from the place in the run, so that a resumed run draws the same.
        rng = np.random.default_rng((self.config.seed, epoch, step, self.accelerator.process_index, 1))
        torch.manual_seed(int(rng.integers(2**31)))
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(config.accumulate):
            began = time.monotonic()
            batch = next(batches)
            self._waited += time.monotonic() - began
            self._count_bad(batch)
            last = part + 1 == config.accumulate
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._loss(batch, rng) / config.accumulate
                self.accelerator.backward(loss)
            self._loss_sum += loss.detach()
            self._clips += len(batch.videos)
        if config.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        self.optimizer.step()
        self._steps += 1

    @abstractmethod
    def _loss(self, batch: Any, rng: np.random.Generator) -> torch.Tensor:
        """The loss of one batch of clips, with its gradient; `rng` draws what is random in it."""

    def _count_bad(self, batch: Any) -> None:
        """Videos that opened before the run and broke within: named once, and too many stop the run."""
        for video in batch.bad:
            if video.path not in self.bad:
                self.bad[video.path] = video.reason
                print(f"left out: {video.path}: {video.reason}", flush=True)  # whichever process met it
        most = self.config.data.max_bad
        if len(self.bad) > most * self.videos:
            raise ManifestError(
                f"{len(self.bad)} of {self.videos} videos broke while they were read, more than "
                f"data.max_bad = {most:.1%} allows:" + _listed(self.bad.items())
            )
        if batch.frames is None:
            raise ManifestError(
                "not one video of a batch could be read:" + _listed((v.path, v.reason) for v in batch.bad)
            )

    def check_finite(self) -> float:
        """Refuse to go on, or to save, with a loss or weights that are no numbers.

        Returns:
            The sum of the losses since the last report, mean over all processes.

        Raises:
            DivergedError: It, or a weight, is infinite or NaN; on every process alike.
        """
        loss = float(self.accelerator.reduce(self._loss_sum, reduction="mean"))
        norm = float(nn.utils.get_total_norm(self.model.parameters()))
        if not math.isfinite(loss + norm):
            raise DivergedError(
                f"the loss is {loss}, the norm of the weights {norm}; the checkpoint from before is kept. "
                f"A lower optim.lr (now {self.config.optim.lr}), a longer optim.warmup_epochs or "
                "optim.clip_grad = 1 mends it as a rule"
            )
        return loss

    def report(self) -> dict[str, float]:
        """Means over the steps since the last report and over all processes: the numbers of a log line.

        Raises:
            DivergedError: See `check_finite`.
        """
        loss = self.check_finite() / self._steps
        seconds = time.monotonic() - self._began
        line = {
            "loss": loss,
            "lr": self.rate,
            "clips_per_second": round(self._clips * self.accelerator.num_processes / seconds, 3),
            "waiting_for_data": round(self._waited / seconds, 4),
        }
        self._lines.append(loss)
        self.start_counting()
        return line

    def epoch_loss(self) -> float:
        """Mean of the reported losses since the last call; NaN where there was none."""
        mean = float(np.mean(self._lines)) if self._lines else math.nan
        self._lines = []
        return mean


class ClassificationStepper(Stepper):
    """Learns labels, by cross-entropy."""

    def _loss(self, batch: Batch, rng: np.random.Generator) -> torch.Tensor:
        assert batch.frames is not None
        device, config = self.accelerator.device, self.config.optim
        x = normalize(batch.frames.to(device, non_blocking=True), self.config.clip)  # B C T H W
        labels = batch.labels.to(device, non_blocking=True)
        share = float(rng.beta(config.mixup, config.mixup)) if config.mixup else 1.0
        if config.mixup:  # each clip with its neighbour in the batch
            x = x.lerp(x.roll(1, 0), 1 - share)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16):
            logits = self.model(x)  # B K
        return self._compare(logits.float(), labels, share)

    def _compare(self, logits: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """The loss of scores [B, K]: each clip's labels count by `share`, its neighbour's by the rest."""
        config = self.config.optim
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        if config.mixup:
            other = F.cross_entropy(logits, labels.roll(1), label_smoothing=config.label_smoothing)
            loss = share * loss + (1 - share) * other
        return loss


class MultiLabelStepper(ClassificationStepper):
    """Learns for each class whether it applies, by binary cross-entropy, mean over clips and classes."""

    def _compare(self, logits: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        config = self.config.optim
        targets = labels  # B K
        if config.mixup:
            targets = targets.lerp(targets.roll(1, 0), 1 - share)
        # As with one label: the share goes to all classes evenly. Halfway to 1/2, as some have it, it would
        # ask for far more of a rare class than the share of videos that has it.
        smoothing = config.label_smoothing
        targets = (1 - smoothing) * targets + smoothing / max(targets.shape[1], 2)  # one class: yes or no
        return F.binary_cross_entropy_with_logits(logits, targets)


def _listed(videos: Iterable[tuple[str, str]]) -> str:
    return "".join(f"\n  {path}: {reason}" for path, reason in list(videos)[:20])
