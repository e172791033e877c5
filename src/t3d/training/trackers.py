"""Experiment trackers that record a run next to its own log: MLflow, Weights & Biases, Trackio.

Accelerate writes to them. A tracker that fails is reported once and no longer used, since `log.jsonl` has the
same numbers. TensorBoard is in `t3d.training.logging`, because it is always written if it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from t3d.errors import ConfigError, first_line
from t3d.io.files import atomic_path

_PROJECT = "t3d"  # of all runs


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed, before any video is read.

    Raises:
        ConfigError: A package is missing.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"`tracker` is {name}, but the package {name} is not installed; install it with `pip install "
                f"{name}`, or leave the tracker out"
            )


class Trackers:
    """Trackers of a run.

    The runs of a project `t3d` get the name of the run folder. `trackers.json` in the folder keeps their
    identifiers, so that a resumed run continues them.

    Args:
        names: Names of the trackers, each also that of its package. `tensorboard` is skipped.
        folder: Run folder.
        options: Options of the run, which may be nested.
    """

    def __init__(self, names: Sequence[str], folder: Path, options: Mapping[str, Any]) -> None:
        self._active: dict[str, Any] = {}
        self._file = folder / "trackers.json"
        wanted = [name for name in names if name in _OPENERS]
        if not wanted:
            return
        known = self._known()
        for name in wanted:
            with self._optional(name):
                tracker, identifier = _OPENERS[name](folder.resolve().name, known.get(name))
                self._active[name] = tracker
                if name not in known:
                    tracker.store_init_configuration(dict(_flat(options)))
                    known[name] = identifier
        with atomic_path(self._file) as temporary:
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")

    def log(self, values: Mapping[str, float | int], step: int) -> None:
        """Record numbers.

        Args:
            values: Numbers by name.
            step: Optimizer steps taken so far.
        """
        for name, tracker in list(self._active.items()):
            with self._optional(name):
                tracker.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is still in memory."""
        for name, tracker in list(self._active.items()):
            with self._optional(name):
                tracker.finish()
        self._active.clear()

    @contextmanager
    def _optional(self, name: str) -> Iterator[None]:
        """Stop using a tracker if the block fails."""
        try:
            yield
        except Exception as error:  # whatever it raises: the run must continue
            self._active.pop(name, None)
            reason = first_line(error) or type(error).__name__
            warnings.warn(f"no longer writing for {name}: {reason}", stacklevel=3)

    def _known(self) -> dict[str, str]:
        """Return the identifiers of an earlier part of the run, by tracker. Empty if they cannot be read."""
        try:
            return {str(name): str(value) for name, value in json.loads(self._file.read_bytes()).items()}
        except (OSError, ValueError, AttributeError):
            return {}


def _mlflow(run: str, known: str | None) -> tuple[Any, str]:
    from accelerate.tracking import MLflowTracker

    tracker = MLflowTracker(_PROJECT, logging_dir=None, run_id=known, run_name=run)
    tracker.start()
    return tracker, str(tracker.active_run.info.run_id)


def _wandb(run: str, known: str | None) -> tuple[Any, str]:
    from accelerate.tracking import WandBTracker

    identifier = known or uuid.uuid4().hex[:12]
    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    tracker = WandBTracker(project, name=run, id=identifier, resume="allow")
    tracker.start()
    return tracker, identifier


def _trackio(run: str, known: str | None) -> tuple[Any, str]:
    from accelerate.tracking import TrackioTracker

    name = known or f"{run}-{uuid.uuid4().hex[:6]}"  # Trackio identifies runs by their names
    tracker = TrackioTracker(os.environ.get("TRACKIO_PROJECT", _PROJECT), name=name, resume="allow")
    tracker.start()
    return tracker, name


_OPENERS: dict[str, Callable[[str, str | None], tuple[Any, str]]] = {
    "mlflow": _mlflow,
    "wandb": _wandb,
    "trackio": _trackio,
}


def _flat(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Yield options by dotted name. Values that are neither numbers nor text become text."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str | int | float | bool) else str(value)
