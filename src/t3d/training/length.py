"""Length of a run, which can change when it is resumed: number of epochs and early stopping."""

from __future__ import annotations

from operator import attrgetter

from t3d.errors import ConfigError
from t3d.models.weights import read_card
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
    stops = isinstance(config, TrainConfig) and 0 < config.early_stopping <= progress["since_best"]
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
        ConfigError: The run has trained for more epochs than that, or it stopped early and would stop again.
    """
    if not folder.checkpoint.exists():
        return
    header = read_header(folder.checkpoint)
    progress, epochs = header["progress"], config.optim.epochs
    started = progress["epoch"] + (progress["step"] > 0)
    if epochs < started:
        raise ConfigError(
            f"optim.epochs is {epochs}, but the run in {folder.path} has already started epoch {started}; "
            f"set it to at least {started}, or start a new run"
        )
    if (
        isinstance(config, TrainConfig)
        and 0 < config.early_stopping <= progress["since_best"]
        and epochs > header["schedule"]["end"]
    ):
        raise ConfigError(
            f"optim.epochs is {epochs}, but the run in {folder.path} stopped early, after "
            f"{progress['since_best']} validations without improvement, and would stop again immediately. "
            f"Set early_stopping to more than {progress['since_best']}, or to 0"
        )


def record_length(config: RunConfig, folder: RunFolder) -> None:
    """Write the options that may change when a run is resumed to its config.yaml.

    Args:
        config: Options of the run.
        folder: Folder of the run.
    """
    names = [name for name in CHANGEABLE if hasattr(config, name.partition(".")[0])]
    folder.change_options({name: attrgetter(name)(config) for name in names})
