"""Option names of earlier versions, so that files that use them are refused with one clear message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import get_type_hints

from t3d.errors import ConfigError

RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "optim.accumulate": "optim.grad_accum_steps",
        "optim.clip_grad": "optim.max_grad_norm",
        "optim.ema": "optim.ema_decay",
        "optim.mixup": "optim.mixup_alpha",
    }
)
"""Present names of options by their old names."""

REUSED: Mapping[str, str] = MappingProxyType({"data.videos": "data.root"})
"""The same for old names that some kinds of run now give to another option."""

REMOVED: Mapping[str, str] = MappingProxyType(
    {"data.decoder": "PyAV decodes all videos, so there is nothing to choose"}
)
"""Options that were removed, with the reason."""


def refuse_old_names(options: Mapping[str, object], kind: type, *, where: str | Path) -> None:
    """Refuse option names of earlier versions.

    Args:
        options: The content of a YAML file: nested tables, or names joined by dots.
        kind: The dataclass of the options. Its own field names are never old.
        where: The file, for the message.

    Raises:
        ConfigError: Some names are old; the message lists each with its present name.
    """
    changes = {old: f"{old} is now {new}" for old, new in {**RENAMED, **REUSED}.items()}
    changes |= {old: f"{old} was removed ({reason})" for old, reason in REMOVED.items()}
    messages = [text for old, text in changes.items() if _has(options, old) and not _knows(kind, old)]
    if messages:
        raise ConfigError(
            f"{where} uses option names of an earlier version: {', '.join(messages)}. Change them in a "
            "configuration file of your own. A run of an earlier version cannot be resumed: start a new one"
        )


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
