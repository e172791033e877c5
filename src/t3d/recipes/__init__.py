"""Recipes: YAML files with the options of a purpose. `paper/` holds those of the paper's tables."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from t3d.errors import ConfigError, did_you_mean

_FOLDER = resources.files("t3d.recipes")


def list_recipes(folder: str = "") -> list[str]:
    """Return the names of the recipes in a folder.

    Args:
        folder: `paper` for the files of the paper's tables. Empty for the recipes of training and transfer.

    Example:
        >>> list_recipes()
        ['modern', 'paper', 'transfer-few-labels', 'transfer-laptop', 'transfer-paper']
    """
    names = [item.name for item in (_FOLDER / folder).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def recipe_file(name: str) -> str:
    """Return the path of a recipe's YAML file.

    Args:
        name: Name of the recipe, `NAME` or `paper/NAME`.

    Raises:
        ConfigError: The recipe does not exist.
    """
    file = _FOLDER.joinpath(*f"{name}.yaml".split("/"))
    if not file.is_file():
        raise ConfigError(f"no recipe {name!r}; {did_you_mean(name, list_recipes())}")
    return str(file)


def read_recipe(name: str) -> dict[str, Any]:
    """Return the options of a recipe, as nested tables.

    Args:
        name: Name of the recipe, `NAME` or `paper/NAME`.

    Raises:
        ConfigError: The recipe does not exist.
    """
    options: dict[str, Any] = yaml.safe_load(Path(recipe_file(name)).read_text(encoding="utf-8"))
    return options
