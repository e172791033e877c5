"""The whole state of a run in one safetensors file: tensors as they are, the rest as JSON in its header.

No pickle, hence nothing in a checkpoint can run code; written under a temporary name, hence never half there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from t3d.errors import CheckpointError
from t3d.io.files import atomic_path
from t3d.training.optim import Schedule

_FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        epoch: Epochs finished.
        step: Optimiser steps taken in the epoch under way.
        best: Best validation accuracy (mAP, with several labels a video) so far, in [0, 1]; -1 before the
            first.
        minutes: Time spent so far, over all restarts.
    """

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    minutes: float = 0.0


def save_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    ema: AveragedModel | None,
    progress: Progress,
) -> None:
    """Write the state of a run, atomically."""
    tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
    if ema is not None:
        tensors |= {f"ema.{key}": value for key, value in ema.state_dict().items()}
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"optim.{names[parameter]}.{key}": value for key, value in state.items()}
    header = {
        "format": _FORMAT,
        "progress": vars(progress),
        "schedule": schedule.state_dict(),
        "optimizer": type(optimizer).__name__,
    }
    with atomic_path(path) as temporary:
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in tensors.items()},
            temporary,
            metadata={"t3d_checkpoint": json.dumps(header)},
        )


def load_checkpoint(
    path: Path,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    ema: AveragedModel | None,
) -> Progress:
    """Bring a run back to where `save_checkpoint` left it.

    Raises:
        CheckpointError: The file is missing, damaged, or belongs to another net or optimiser; says which key.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no checkpoint to resume; start the run without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["t3d_checkpoint"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of a t3d run, or damaged: {error!r}") from error
    if header["format"] != _FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {header['format']}, this version reads {_FORMAT}")
    if header["optimizer"] != type(optimizer).__name__:
        raise CheckpointError(
            f"{path}: belongs to a run with the optimiser {header['optimizer']}, this one has "
            f"{type(optimizer).__name__}; a run goes on with the options it was started with"
        )
    _load(model, "model.", tensors, path)
    if ema is not None:
        _load(ema, "ema.", tensors, path)
    elif any(key.startswith("ema.") for key in tensors):
        raise CheckpointError(
            f"{path}: belongs to a run with a moving average (optim.ema), this one has none"
        )
    _load_optimizer(optimizer, model, tensors)
    schedule.load_state_dict(header["schedule"])
    return Progress(**header["progress"])


def _load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, torch.Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    numbers = {p: i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            name, _, what = key.removeprefix("optim.").rpartition(".")
            like = parameters[name]
            if value.shape == like.shape:  # in the parameter's own order in memory, for the fast kernels
                value = torch.empty_like(like).copy_(value)
            state.setdefault(numbers[like], {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _load(module: nn.Module, prefix: str, tensors: dict[str, torch.Tensor], path: Path) -> None:
    wanted = module.state_dict()
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    for key in [*wanted, *sorted(found.keys() - wanted.keys())]:
        have, need = found.get(key), wanted.get(key)
        if have is None or need is None or have.shape != need.shape:
            raise CheckpointError(
                f"{path}: belongs to another net: {prefix}{key} is "
                f"{'missing' if have is None else list(have.shape)} in the file and "
                f"{'missing' if need is None else list(need.shape)} in the net"
            )
    module.load_state_dict(found)
