"""Find the weights file of a run folder."""

from __future__ import annotations

import os
from pathlib import Path

from t3d.errors import CheckpointError
from t3d.io.files import refuse_unreadable, refuse_url
from t3d.io.hub import SHARED, is_hub, located
from t3d.models.hints import missing_weights_hint

PathLike = str | os.PathLike[str]
BEST, LAST, CHECKPOINT = "best.safetensors", "last.safetensors", "checkpoint.safetensors"
"""The weights in a run folder, and its state. An unfinished run has only the state."""

MODEL = "model"
"""Folder of the model in the folder of a fit."""
SHARED_WEIGHTS = "model.safetensors"
"""Weights in a folder that `t3d push` wrote. The run folders of earlier versions have such a file, too."""


def weights_file(path: PathLike, *, allow_unfinished: bool = False) -> Path:
    """Find the weights file for a path.

    Args:
        path: A weights file, which is returned unchanged; or the folder of a training run, for its best
            weights, or its last weights if it did not validate. Also the folder of a fit, for its model; a
            folder that `t3d push` wrote; or a model on the Hub, `hf-hub:org/name`, which is downloaded.
        allow_unfinished: Accept the folder of an unfinished run, and return its checkpoint, which contains
            the best weights so far.

    Returns:
        The file.

    Raises:
        CheckpointError: The file does not exist, the folder is not a run or is one of an earlier version, or
            its run is not finished.
        FetchError: The Hub cannot be reached, see `t3d.io.hub.local_folder`.
    """
    if is_hub(path):
        return Path(located(path))
    refuse_url(path, error=CheckpointError)
    source = Path(path)
    if not source.is_dir():
        if not source.exists():
            hint = missing_weights_hint(source)
            raise CheckpointError(f"{source}: no such run folder or weights file{hint}")
        refuse_unreadable(source, name="run folder or weights file", error=CheckpointError)
        return source
    if (source / MODEL / LAST).is_file():
        return source / MODEL / LAST
    if (source / SHARED_WEIGHTS).is_file() and not (source / LAST).is_file():
        if (source / SHARED).is_file():
            return source / SHARED_WEIGHTS
        raise CheckpointError(
            f"{source}: an earlier version of t3d wrote this folder; give a weights file in it, such as "
            f"{source / SHARED_WEIGHTS}"
        )
    for name in (BEST, LAST):
        if (source / name).is_file():
            return source / name
    checkpoint = source / CHECKPOINT
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{source}: the folder does not contain {BEST}, {LAST} or {CHECKPOINT}; give a weights file, "
            "or the folder of a training run that has saved its state"
        )
    if not allow_unfinished:
        raise CheckpointError(unfinished(source))
    return checkpoint


def unfinished(path: PathLike) -> str:
    """Return the message for the weights of an unfinished run."""
    return (
        f"{os.fspath(path)}: this run is not finished, so it has no weights yet; resume it to its end. "
        "Tests, probes and predictions can use its best weights so far: `allow_unfinished`"
    )
