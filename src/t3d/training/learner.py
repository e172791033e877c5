"""Trainable state of a run: model, optimizer, schedule and moving average."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from t3d.training.config import OptimConfig
from t3d.training.optim import Schedule, make_ema, make_optimizer


@dataclass(frozen=True)
class Learner:
    """Trainable state of a run. A checkpoint contains all of it.

    Args:
        model: The model, on its device, not wrapped.
        optimizer: Optimizer of the model's parameters.
        schedule: Learning-rate schedule.
        ema: Moving average of the weights, or None.
        part: Name of the submodule whose weights are kept after the run. Empty keeps the whole model.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    ema: AveragedModel | None
    part: str = ""

    @classmethod
    def of(cls, model: nn.Module, config: OptimConfig, *, steps_per_epoch: int, part: str = "") -> Learner:
        """Create the optimizer, the schedule and the moving average from the options."""
        optimizer = make_optimizer(model, config)
        schedule = Schedule(optimizer, config, steps_per_epoch=steps_per_epoch)
        ema = make_ema(model, config.ema_decay) if config.ema_decay else None
        return cls(model, optimizer, schedule, ema, part)

    @property
    def averaged(self) -> nn.Module:
        """Model to validate and save: the moving average of the weights if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def kept(self) -> nn.Module:
        """Part of `averaged` whose weights are kept after the run."""
        return self.averaged.get_submodule(self.part)

    @property
    def kept_prefix(self) -> str:
        """Prefix of the names of the tensors of `kept` in a checkpoint."""
        return ("model." if self.ema is None else "ema.module.") + (f"{self.part}." if self.part else "")
