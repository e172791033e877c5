"""Recipes from Python, as the configuration of a run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from t3d.clip import EXCLUSIVE
from t3d.errors import ConfigError, did_you_mean
from t3d.training.config import TrainConfig
from t3d.transfer.config import TransferConfig


def list_recipes() -> list[str]:
    """Return the names of all recipes.

    Example:
        >>> list_recipes()
        ['modern', 'paper', 'transfer-laptop', 'transfer-paper']
    """
    folder = resources.files("t3d") / "recipes"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def recipe(name: str, changes: Mapping[str, object] | None = None) -> TrainConfig | TransferConfig:
    """Return the options of a run that follows a recipe.

    Args:
        name: Name of the recipe, see `list_recipes`.
        changes: Options by the names of YAML files, such as `{"optim.epochs": 5}`. They override the recipe.
            A run needs at least its folder, `out`, and its videos: `data.train`, or `data.videos` and
            `teacher.name` for a transfer.

    Returns:
        A `TrainConfig`; a `TransferConfig` for recipes whose name starts with `transfer`.

    Raises:
        ConfigError: An unknown recipe or option, a missing option, or a value that cannot work.

    Example:
        >>> config = recipe("modern", {"data.train": "clips", "out": "runs/first", "optim.epochs": 5})
        >>> config.model.name, config.optim.epochs, config.optim.lr
        ('t3d_tiny', 5, 0.003)
        >>> from t3d import train
        >>> train(config)  # doctest: +SKIP
        PosixPath('runs/first')
    """
    if name not in list_recipes():
        raise ConfigError(f"no recipe {name!r}; {did_you_mean(name, list_recipes())}")
    file = resources.files("t3d") / "recipes" / f"{name}.yaml"
    options = yaml.safe_load(file.read_text(encoding="utf-8"))
    changed = {key for key, value in (changes or {}).items() if value is not None}
    for one, other in (pair for two in EXCLUSIVE for pair in (two, two[::-1])):
        if one in changed and other not in changed:
            _put(options, other, None)
    for key, value in (changes or {}).items():
        _put(options, key, value)
    kind = TransferConfig if name.startswith("transfer") else TrainConfig
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.instantiate(parser.parse_object(options))
    except ArgumentError as error:
        raise ConfigError(f"recipe {name} with {dict(changes or {})}: {error}") from error
    return kind(**vars(values))


def _put(options: dict[str, object], key: str, value: object) -> None:
    """Set an option by its dotted name."""
    *sections, last = key.split(".")
    table = options
    for section in sections:
        inner = table.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"unknown option {key}: {section} is not a section")
        table = inner
    table[last] = value
