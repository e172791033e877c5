"""Options that had another name in earlier versions, so that old files are refused in one clear sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import get_type_hints

from t3d.errors import ConfigError

OLD_NAMES: Mapping[str, str | None] = MappingProxyType(
    {
        "optim.accumulate": "optim.grad_accum_steps",
        "optim.clip_grad": "optim.max_grad_norm",
        "optim.ema": "optim.ema_decay",
        "optim.mixup": "optim.mixup_alpha",
        "data.videos": "data.root",
        "data.decoder": None,
    }
)
"""The present name of each renamed option, or None for an option that was removed."""


def refuse_old_names(options: Mapping[str, object], kind: type, *, where: str | Path) -> None:
    """Refuse options under names that only earlier versions knew.

    Args:
        options: The content of a YAML file: nested tables, or names joined by dots.
        kind: The dataclass that the options are for; a name that it has is never old.
        where: The file, for the message.

    Raises:
        ConfigError: There are such options; the message lists each with its present name.
    """
    names = {old: new for old, new in OLD_NAMES.items() if _has(options, old) and not _knows(kind, old)}
    if names:
        changes = (f"{old} is now {new}" if new else f"{old} was removed" for old, new in names.items())
        raise ConfigError(
            f"{where} uses option names of an earlier version: {', '.join(changes)}; "
            "change them in a file of your own, and start a run anew, since it cannot be resumed"
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
