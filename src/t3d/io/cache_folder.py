"""Folders of the user that keep downloads: where they are, and how large they may become."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from t3d.errors import ConfigError


def cache_folder(variable: str, name: str) -> Path:
    """Return the folder that an environment variable names, or `~/.cache/t3d/NAME`.

    Args:
        variable: The environment variable.
        name: Name of the default folder.
    """
    given = os.environ.get(variable) or f"~/.cache/t3d/{name}"
    if given.startswith(("~", os.sep)):  # asked for every file that is opened
        return _expanded(given, os.environ.get("USERPROFILE" if os.name == "nt" else "HOME"))
    return Path(given).absolute()


@lru_cache(maxsize=8)
def _expanded(given: str, home: str | None) -> Path:  # noqa: ARG001 (a key of the cache)
    """Return a path that does not depend on the current folder, only on the home of the user."""
    return Path(given).expanduser().absolute()


def cache_bytes(variable: str) -> float:
    """Return the maximum size of a cache in bytes, from an environment variable in GB. The default is 100 GB.

    Args:
        variable: The environment variable.

    Raises:
        ConfigError: It is not a number above 0.
    """
    given = os.environ.get(variable) or "100"
    try:
        room = float(given) * 1e9
    except ValueError:
        room = 0.0
    if not room > 0:
        raise ConfigError(f"{variable} is {given!r}; it must be a number of GB above 0, such as 100")
    return room
