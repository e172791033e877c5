"""Recipes from Python, as the configuration of a run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from t3d.clip import EXCLUSIVE
from t3d.errors import ConfigError, did_you_mean
from t3d.recipes import list_recipes, read_recipe
from t3d.training.config import TrainConfig
from t3d.transfer.config import TransferConfig

_FREE = ("model.options",)  # tables whose names are those of a model


def recipe(name: str, changes: Mapping[str, object] | None = None) -> TrainConfig | TransferConfig:
    """Return the options of a run that follows a recipe.

    Args:
        name: Name of the recipe, see `list_recipes`.
        changes: Options by the names of YAML files, such as `{"optim.epochs": 5}`. They override the recipe.
            A section may also be a dictionary, such as `{"optim": {"epochs": 5}}`. Paths may be `Path`.
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
    names = list_recipes()
    if not isinstance(name, str):
        raise ConfigError(
            f"the name of a recipe is text, got {name!r} of type {type(name).__name__}; known: "
            + ", ".join(names)
        )
    if name not in names:
        hint = f"; {name} is a file of your own: `t3d train` takes it as `config`" if _is_file(name) else ""
        raise ConfigError(f"no recipe {name!r}; {did_you_mean(name, names)}{hint}")
    if not isinstance(changes, Mapping | None):
        raise ConfigError(
            f"changes of a recipe are a dictionary such as {{'optim.epochs': 5}}, got {changes!r} of type "
            f"{type(changes).__name__}"
        )
    options = read_recipe(name)
    for source in (dict(_flat(options)), dict(_flat(changes or {}))):
        given = {key for key, value in source.items() if value is not None}
        for one, other in (pair for two in EXCLUSIVE for pair in (two, two[::-1])):
            if one in given and other not in given:
                _put(options, other, None)
    kind = TransferConfig if name.startswith("transfer") else TrainConfig
    for key, value in _flat(changes or {}):
        _refuse_unknown(key, kind, name)
        if value is None and type(None) not in get_args(dict(_names(kind)).get(key)):
            raise ConfigError(f"recipe {name}: {key} is None; give a value, or leave the option out")
        _put(options, key, value)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.instantiate(parser.parse_object(options))
    except ArgumentError as error:
        raise ConfigError(
            f"recipe {name} with {dict(changes or {})}: {' '.join(str(error).split())}"
        ) from error
    return kind(**vars(values))


def _flat(changes: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yield the changes by dotted name. A section may also be a table, except for free tables of options.

    Raises:
        ConfigError: A key is not text.
    """
    for key, value in changes.items():
        if not isinstance(key, str):
            raise ConfigError(
                f"names of options are text such as 'optim.epochs', got {key!r} of type {type(key).__name__}"
            )
        name = f"{above}{key}"
        if isinstance(value, Mapping) and is_dataclass(_kind_of(name)):
            yield from _flat(value, f"{name}.")
        else:
            yield name, os.fspath(value) if isinstance(value, os.PathLike) else value


def _kind_of(name: str) -> object:
    """Return the type of a section that every kind of run may have, or None."""
    for kind in (TrainConfig, TransferConfig):
        if name in (hints := get_type_hints(kind)):
            return hints[name]
    return None


def _refuse_unknown(key: str, kind: type, name: str) -> None:
    """Raise an error for an option that a kind of run does not have."""
    known = [option for option, _ in _names(kind)]
    section = key.partition(".")[0]
    if key in known or any(key.startswith(f"{each}.") and each in _FREE for each in known):
        return
    if "." in key and section in known and section not in _FREE:
        raise ConfigError(f"recipe {name}: unknown option {key}: {section} is not a section")
    if any(each.startswith(f"{key}.") for each in known):
        raise ConfigError(
            f"recipe {name}: {key} is a section; set its options, such as "
            f"{next(each for each in known if each.startswith(f'{key}.'))!r}"
        )
    same = [each for each in known if each.rpartition(".")[2] == key]  # without its section
    near = same or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    within = [each for each in known if each.startswith(f"{section}.")]
    hint = f"did you mean {near[0]!r}? Known" if near else "known"
    listed = ", ".join(within or sorted({each.partition(".")[0] for each in known}))
    raise ConfigError(f"recipe {name}: unknown option {key!r}; {hint}: {listed}")


def _names(kind: type, above: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted names and types of all options of a kind of run."""
    for name, inner in get_type_hints(kind).items():
        if get_origin(inner) is ClassVar:
            continue
        if is_dataclass(inner) and isinstance(inner, type):
            yield from _names(inner, f"{above}{name}.")
        else:
            yield f"{above}{name}", inner


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _put(options: dict[str, object], key: str, value: object) -> None:
    """Set an option by its dotted name."""
    *sections, last = key.split(".")
    table: Any = options
    for section in sections:
        table = table.setdefault(section, {})
    table[last] = value
