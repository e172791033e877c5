"""Length of a run, which can change when it is resumed: number of epochs and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from t3d.errors import ConfigError
from t3d.models.weights_header import read_card
from t3d.training.checkpoint import read_header
from t3d.training.config import CHANGEABLE, RunConfig, TrainConfig
from t3d.training.run_folder import RunFolder


def finished(config: RunConfig, folder: RunFolder) -> str:
    """Return how long a finished run has trained, such as `12 epochs`; empty for a run with work left.

    Args:
        config: Options of the resumed run.
        folder: Folder of the run.

    Raises:
        CheckpointError: The checkpoint or the weights are damaged, or another version wrote the checkpoint.
    """
    if not folder.checkpoint.exists() or not folder.last.exists():
        return ""
    header = read_header(folder.checkpoint)
    progress = header["progress"]
    card = read_card(folder.last)
    if progress["step"] or card is None or card.provenance.get("epochs") != progress["epoch"]:
        return ""  # the weights are those of a shorter run, before it was trained longer
    if progress["epoch"] == config.optim.epochs:
        return f"{progress['epoch']} epochs"
    stops = isinstance(config, TrainConfig) and _would_stop(config, progress)
    if stops and config.optim.epochs == header["schedule"]["end"]:
        return f"stopped early after {progress['epoch']} of {config.optim.epochs} epochs"
    return ""


def check_length(config: RunConfig, folder: RunFolder) -> None:
    """Raise an error for a number of epochs that a run cannot be resumed with, before any video is read.

    Args:
        config: Options of the resumed run.
        folder: Folder of the run.

    Raises:
        CheckpointError: The checkpoint is damaged, or another version wrote it.
        ConfigError: The run has trained for more epochs than that, it would end there without a validation,
            or early stopping would stop it immediately.
    """
    if not folder.checkpoint.exists():
        return
    header = read_header(folder.checkpoint)
    progress, epochs, end = header["progress"], config.optim.epochs, header["schedule"]["end"]
    started = progress["epoch"] + (progress["step"] > 0)
    if epochs < started:
        raise ConfigError(
            f"optim.epochs is {epochs}, but the run in {folder.path} has already started epoch {started}; "
            f"set it to at least {started}, or start a new run"
        )
    ends_here = epochs == progress["epoch"] and not progress["step"]
    if ends_here and epochs != end and epochs % config.eval_every and folder.val_csv.exists():
        raise ConfigError(
            f"optim.epochs is {epochs}, but the run in {folder.path} has already trained {epochs} epochs and "
            f"did not validate after the last one (eval_every is {config.eval_every}); set it to at least "
            f"{epochs + 1}, whose end is validated"
        )
    if isinstance(config, TrainConfig) and not ends_here and epochs != end and _would_stop(config, progress):
        _refuse_early_stop(config, folder, progress, end)


def _would_stop(config: TrainConfig, progress: Mapping[str, Any]) -> bool:
    """Return whether a run would stop early before its next step, see `Trainer.epochs`."""
    validated = not progress["step"] and progress["epoch"] % config.eval_every == 0
    return validated and 0 < config.early_stopping <= progress["since_best"]


def _refuse_early_stop(config: TrainConfig, folder: RunFolder, progress: Mapping[str, Any], end: int) -> None:
    epoch, since = progress["epoch"], progress["since_best"]
    card = read_card(folder.last) if folder.last.exists() else None
    written = card is not None and card.provenance.get("epochs") == epoch
    if written and epoch < end:
        state = f"stopped early, after {since} validations without improvement, and would stop again"
    else:
        state = (
            f"has {since} validations without improvement after {epoch} epochs, and with early_stopping = "
            f"{config.early_stopping} it would stop"
        )
    raise ConfigError(
        f"optim.epochs is {config.optim.epochs}, but the run in {folder.path} {state} immediately. Set "
        f"early_stopping to more than {since}, or to 0"
    )


def record_length(config: RunConfig, folder: RunFolder) -> None:
    """Write the options that may change when a run is resumed to its config.yaml.

    Args:
        config: Options of the run.
        folder: Folder of the run.
    """
    names = [name for name in CHANGEABLE if hasattr(config, name.partition(".")[0])]
    folder.change_options({name: attrgetter(name)(config) for name in names})
