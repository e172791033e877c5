"""Checkpoints with the whole state of a run, in one safetensors file with JSON in its header.

A checkpoint contains no pickle, so reading it runs no code. It is written under a temporary name and renamed,
so it is always complete. The checkpoint of an unfinished run is also a weights file. It offers the best
weights so far if the run validates, else the current ones. The header's `card` is their model card, and
`weights` is the prefix of their tensors' names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError
from t3d.models.tensor_files import TensorFile, open_tensors, write_tensors
from t3d.training.learner import Learner

_FORMAT = 4
_BEST = "best."


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Args:
        epoch: Finished epochs.
        step: Optimizer steps taken in the current epoch.
        best: Best validation accuracy so far (mAP for multi-label runs), in [0, 1]. -1 before the first.
        best_epoch: Finished epochs at that validation. 0 before the first.
        best_summary: That validation in words, with its count and interval.
        best_regular: Best score of the regular validations, which a longer run has, too. -1 before the first.
        since_best: Regular validations since the best of them, for early stopping.
        minutes: Time spent so far, over all restarts.
        figures: Metrics of the last validation, by name.
        losses: Sums of losses in the current epoch, see `Meter.state_dict`. Empty before the first
            checkpoint.
    """

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    best_summary: str = ""
    best_regular: float = -1.0
    since_best: int = 0
    minutes: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Copy of a model's weights with their model card.

    Args:
        tensors: Weights by name, on the CPU.
        card: Model card of the weights.
    """

    tensors: dict[str, torch.Tensor]
    card: ModelCard

    @classmethod
    def of(cls, model: nn.Module, card: ModelCard) -> Snapshot:
        """Copy the weights of a model."""
        return cls(
            {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in model.state_dict().items()
            },
            card,
        )

    def write(self, path: Path) -> None:
        """Write a weights file, atomically."""
        write_tensors(self.tensors, path, metadata={CARD_KEY: self.card.to_json()})


def save_checkpoint(
    path: Path, learner: Learner, *, progress: Progress, card: ModelCard, best: Snapshot | None
) -> None:
    """Write the state of a run, atomically.

    Args:
        path: Path of the file.
        learner: Model, optimizer, schedule and moving average.
        progress: Progress of the run.
        card: Model card of the current weights.
        best: Best weights so far. None before the first validation, and for runs that do not validate.
    """
    model, optimizer, ema = learner.model, learner.optimizer, learner.ema
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"optim.{names[parameter]}.{key}": value for key, value in state.items()}
    if best is not None:
        tensors |= {f"{_BEST}{key}": value for key, value in best.tensors.items()}
    header = {
        "format": _FORMAT,
        "progress": vars(progress),
        "schedule": learner.schedule.state_dict(),
        "optimizer": type(optimizer).__name__,
        "card": (card if best is None else best.card).to_json(),
        "weights": learner.kept_prefix if best is None else _BEST,
    }
    write_tensors(
        {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
        path,
        metadata={"t3d_checkpoint": json.dumps(header)},
    )


def load_checkpoint(path: Path, learner: Learner) -> tuple[Progress, Snapshot | None]:
    """Restore the state that `save_checkpoint` wrote.

    Args:
        path: Path of the file.
        learner: Learner with the options of the run that wrote the file. Changed in place.

    Returns:
        The progress of the run, and the best weights so far (None if there are none yet).

    Raises:
        CheckpointError: The file is missing or corrupt, or belongs to another model or optimizer. The message
            contains the first tensor that differs.
    """
    header = read_header(path)
    with _opened(path) as file:
        tensors = {key: file.tensor(key) for key in file.names}
    if header["optimizer"] != type(learner.optimizer).__name__:
        raise CheckpointError(
            f"{path}: belongs to a run with the optimizer {header['optimizer']}, but this run uses "
            f"{type(learner.optimizer).__name__}; resume a run with the options that it was started with"
        )
    _load(learner.model, "model.", tensors, path)
    if learner.ema is not None:
        _load(learner.ema, "ema.", tensors, path)
    elif any(key.startswith("ema.") for key in tensors):
        raise CheckpointError(
            f"{path}: belongs to a run with a moving average (optim.ema_decay), but this run has none"
        )
    try:
        _load_optimizer(learner.optimizer, learner.model, tensors)
        learner.schedule.load_state_dict(header["schedule"])
        best = _with_prefix(tensors, _BEST)
        snapshot = Snapshot(best, ModelCard.from_json(header["card"])) if best else None
        return Progress(**header["progress"]), snapshot
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: corrupt: {error!r}") from error


def read_header(path: Path) -> dict[str, Any]:
    """Read the header of a checkpoint, without its tensors.

    Raises:
        CheckpointError: The file is missing or corrupt, or was written by another version.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no checkpoint to resume from; start the run without resume")
    with _opened(path) as file:
        header = json.loads(file.metadata["t3d_checkpoint"])
        version = header["format"]
    if version != _FORMAT:
        raise CheckpointError(
            f"{path}: another version of t3d wrote this checkpoint (format {version}; this version "
            f"reads {_FORMAT}). Resume the run with that version, or start a new one"
        )
    missing = [name for name in ("progress", "schedule", "optimizer", "card") if name not in header]
    if missing:
        raise CheckpointError(f"{path}: corrupt: {', '.join(missing)} missing in its header")
    checked: dict[str, Any] = header
    return checked


@contextmanager
def _opened(path: Path) -> Iterator[TensorFile]:
    try:
        with open_tensors(path) as file:
            yield file
    except CheckpointError as error:
        cause = error.__cause__
        if not isinstance(cause, SafetensorError):
            raise
        raise CheckpointError(f"{path}: not a checkpoint of a t3d run, or corrupt: {cause!r}") from cause
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of a t3d run, or corrupt: {error!r}") from error


def _load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    numbers = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _with_prefix(tensors, "optim.").items():
        name, _, entry = key.rpartition(".")
        like = parameters[name]
        if value.shape == like.shape:  # in the parameter's memory format, for the fast kernels
            value = torch.empty_like(like).copy_(value)
        state.setdefault(numbers[like], {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load(module: nn.Module, prefix: str, tensors: dict[str, torch.Tensor], path: Path) -> None:
    expected = module.state_dict()
    stored = _with_prefix(tensors, prefix)
    for key in [*expected, *sorted(stored.keys() - expected.keys())]:
        have, need = stored.get(key), expected.get(key)
        if have is None or need is None or have.shape != need.shape:
            raise CheckpointError(
                f"{path}: belongs to another model: {prefix}{key} is "
                f"{'missing' if have is None else list(have.shape)} in the file and "
                f"{'missing' if need is None else list(need.shape)} in the model"
            )
    module.load_state_dict(stored)


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
