"""Option names and values of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import get_type_hints

from t3d.errors import ConfigError

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "teacher.average": "teacher.pooling",
        "optim.accumulate": "optim.grad_accum_steps",
        "optim.clip_grad": "optim.max_grad_norm",
        "optim.ema": "optim.ema_decay",
        "optim.mixup": "optim.mixup_alpha",
    }
)
"""Current name of each renamed option, by its old name."""

REUSED: Mapping[str, str] = MappingProxyType({"data.videos": "data.root"})
"""Current name by old name, where some kinds of run now use the old name for another option."""

REMOVED: Mapping[str, str] = MappingProxyType(
    {"data.decoder": "PyAV decodes all videos, so there is nothing to choose"}
)
"""Options that were removed, with the reason."""


def refuse_old_names(options: Mapping[str, object], kind: type, *, where: str | Path) -> None:
    """Raise an error for option names of earlier versions.

    Args:
        options: Content of a YAML file: nested tables, or names joined by dots.
        kind: Dataclass of the options. Its field names are never old.
        where: Path of the file, for the message.

    Raises:
        ConfigError: Some names are old. The message lists each with its current name.
    """
    changes = {old: f"{old} is now {new}" for old, new in {**RENAMED, **REUSED}.items()}
    changes |= {old: f"{old} was removed ({reason})" for old, reason in REMOVED.items()}
    messages = [text for old, text in changes.items() if _has(options, old) and not _knows(kind, old)]
    if messages:
        raise ConfigError(
            f"{where} uses option names of an earlier version: {', '.join(messages)}. Change them in a "
            "configuration file of your own. A run of an earlier version cannot be resumed: start a new one"
        )


def with_current_values(options: Mapping[str, object]) -> Mapping[str, object]:
    """Translate values of earlier versions, so that a run can be resumed.

    Args:
        options: Content of the config.yaml of a run.

    Returns:
        The options. `model.grad_checkpointing`, which was true or false, is now `layers` or `none`.
    """
    model = options.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("grad_checkpointing"), bool):
        return options
    mode = "layers" if model["grad_checkpointing"] else "none"
    return {**options, "model": {**model, "grad_checkpointing": mode}}


def _has(options: object, name: str) -> bool:
    if not isinstance(options, Mapping):
        return False
    group, _, rest = name.partition(".")
    return name in options or (bool(rest) and _has(options.get(group), rest))


def _knows(kind: object, name: str) -> bool:
    if not (isinstance(kind, type) and is_dataclass(kind)):
        return False
    group, _, rest = name.partition(".")
    if group not in {field.name for field in fields(kind)}:
        return False
    return not rest or _knows(get_type_hints(kind)[group], rest)
