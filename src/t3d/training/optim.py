"""Optimizer, learning-rate schedule and moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from t3d.errors import ConfigError
from t3d.models.net import VideoNet
from t3d.training.config import OptimConfig

# `plateau`: smallest relative decrease that counts as a lower loss, and smallest reduction of the factor.
_LEAST_GAIN = 1e-4
_LEAST_REDUCTION = 1e-8


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Create the optimizer: SGD with Nesterov momentum, or AdamW.

    Parameters with the same learning rate and weight decay form a group.

    Args:
        model: The model.
        config: With `decay_norm` off, biases and normalization parameters (all with at most one axis) form a
            second group without weight decay. `layer_decay` and `classifier_lr` set the rate of each stage.

    Raises:
        ConfigError: `layer_decay` or `classifier_lr` is set, and the model has no stages.
    """
    groups = []
    for scale, parameters in _by_rate(model, config):
        if config.decay_norm:
            parts = [(parameters, config.weight_decay)]
        else:
            kernels = [p for p in parameters if p.ndim > 1]
            parts = [(kernels, config.weight_decay), ([p for p in parameters if p.ndim <= 1], 0.0)]
        groups += [
            {"params": part, "weight_decay": decay, "lr_scale": scale} for part, decay in parts if part
        ]
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, foreach=True
        )
    return torch.optim.AdamW(groups, lr=config.lr, foreach=True)


def _by_rate(model: nn.Module, config: OptimConfig) -> list[tuple[float, list[nn.Parameter]]]:
    """Group the trainable parameters by the factor of their learning rate."""
    learning = [p for p in model.parameters() if p.requires_grad]
    if config.layer_decay == 1 and config.classifier_lr == 1:
        return [(1.0, learning)]
    if not isinstance(model, VideoNet):
        raise ConfigError(
            "optim.layer_decay and optim.classifier_lr need a model with stages, and the model of a transfer "
            "run has none; set both to 1"
        )
    stages = model.stages()
    factors: dict[nn.Parameter, float] = {}
    for distance, modules in enumerate(reversed(list(stages.values())), 1):
        for module in modules:
            factors |= dict.fromkeys(module.parameters(), config.layer_decay**distance)
    factors |= dict.fromkeys(model.get_classifier().parameters(), config.classifier_lr)
    return [
        (factor, [p for p in learning if factors[p] == factor]) for factor in sorted(set(factors.values()))
    ]


class Schedule:
    """Learning rate as a function of progress.

    Args:
        optimizer: The optimizer whose rate is set.
        config: The schedule and its parameters.
        steps_per_epoch: Optimizer steps in an epoch.

    Example:
        >>> parameter = nn.Parameter(torch.zeros(1))
        >>> config = OptimConfig(lr=1.0, schedule="cosine", epochs=2)
        >>> schedule = Schedule(torch.optim.SGD([parameter], lr=1.0), config, steps_per_epoch=10)
        >>> schedule.set(10)
        0.5
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: OptimConfig, *, steps_per_epoch: int
    ) -> None:
        self.optimizer = optimizer
        self.config = config
        self.steps_per_epoch = steps_per_epoch
        # State of `plateau`: the factor of the rate, the lowest loss, and validations since that loss.
        self._factor = 1.0
        self._best = math.inf
        self._bad = 0
        # State of `cosine`: the epochs where it starts and ends, and the factor of the rate at its start.
        self._start = config.warmup_epochs
        self._end = config.epochs
        self._peak = 1.0

    def set(self, step: int) -> float:
        """Set the rate for optimizer step `step`, counted from 0 over the whole run, and return it.

        Parameter groups with an `lr_scale` get that factor of it.
        """
        config = self.config
        epoch = step / self.steps_per_epoch
        warmup = config.warmup_epochs
        if epoch < warmup:
            factor = (step + 1) / (warmup * self.steps_per_epoch)
        elif config.schedule == "cosine":
            factor = self._peak * _cosine(epoch, self._start, self._end)
        elif config.schedule == "step":
            # The epsilon keeps rounding from delaying a drop by one step.
            factor = config.gamma ** math.floor(epoch / config.step_epochs + 1e-9)
        elif config.schedule == "plateau":
            factor = self._factor
        else:
            factor = 1.0
        rate = config.lr * min(factor, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        return rate

    def adopt_epochs(self, step: int) -> str:
        """Change the length of a restored run to `config.epochs`.

        `constant`, `step`, `plateau` and the warm-up do not depend on the length, so the run ends as one run
        of that length. A cosine that has started depends on it. A second cosine replaces it from `step` on.
        It starts at the rate of one run of that length at this step, and ends at zero.

        Args:
            step: Optimizer steps taken so far.

        Returns:
            Sentence about the change. Empty if the length is the same.
        """
        config, before = self.config, self._end
        if config.epochs == before:
            return ""
        self._end = config.epochs
        text = f"optim.epochs is now {config.epochs} (before: {before})"
        epoch, warmup = step / self.steps_per_epoch, config.warmup_epochs
        if config.schedule != "cosine" or epoch <= warmup:
            return f"{text}: the result is that of one run of {config.epochs} epochs"
        self._start, self._peak = epoch, _cosine(epoch, warmup, config.epochs)
        return (
            f"{text}: a second cosine without warm-up starts at a learning rate of "
            f"{config.lr * self._peak:.3g} and ends at 0. The result differs from that of one run of "
            f"{config.epochs} epochs"
        )

    def validated(self, loss: float) -> None:
        """Update `plateau` with a validation loss. The other schedules ignore it.

        The rule is that of `torch.optim.lr_scheduler.ReduceLROnPlateau` with its defaults. It is applied to a
        factor, because the warm-up and `lr_scale` also change the rate.
        """
        if loss < self._best * (1 - _LEAST_GAIN):
            self._best, self._bad = loss, 0
        else:  # NaN included
            self._bad += 1
        if self._bad > self.config.patience:
            self._bad = 0
            reduced = self._factor * self.config.gamma
            if self._factor - reduced > _LEAST_REDUCTION:
                self._factor = reduced

    def state_dict(self) -> dict[str, float | int]:
        """Return the state as JSON values. `end` is the number of epochs of the run."""
        plateau = {"factor": self._factor, "best": self._best, "bad": self._bad}
        return plateau | {"start": self._start, "end": self._end, "peak": self._peak}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Restore what `state_dict` returned."""
        self._factor, self._best, self._bad = state["factor"], state["best"], int(state["bad"])
        self._start, self._end, self._peak = state["start"], int(state["end"]), state["peak"]


def _cosine(epoch: float, start: float, end: float) -> float:
    """Return half a cosine, from 1 at `start` to 0 at `end`."""
    return 0.5 * (1 + math.cos(math.pi * min((epoch - start) / max(end - start, 1e-9), 1.0)))


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Create a moving average of weights and BatchNorm buffers.

    The decay starts small and grows to `decay`, so that the random initial weights soon lose their influence.
    """

    def average(
        averages: tuple[torch.Tensor, ...] | list[torch.Tensor],
        weights: tuple[torch.Tensor, ...] | list[torch.Tensor],
        count: torch.Tensor | int,
    ) -> None:
        n = int(count)
        now = min(decay, (1 + n) / (10 + n))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - now)
        else:  # counters
            for mean, weight in zip(averages, weights, strict=True):
                mean.copy_(weight)

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
