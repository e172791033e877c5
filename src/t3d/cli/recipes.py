"""Sources of the options of `t3d train` and `t3d transfer`: recipes, YAML files and resumed runs.

Each source overrides the ones before it: the defaults, `--recipe`, the card of `--init`, `--config`, and
options on the command line. `--resume` takes the options from the run itself. Only its length may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from t3d.cli.exclusive import with_replaced
from t3d.cli.options import Command, Option, call
from t3d.cli.parser import Given, UsageError, check_yaml, parse
from t3d.errors import did_you_mean
from t3d.io.files import refuse_url
from t3d.recipes import list_recipes, recipe_file
from t3d.training.config import CHANGEABLE, RunConfig

_RECIPE_HELP = {
    "train": (
        "Set of options for a purpose: `modern` (small model, few videos, laptop) or `paper` (the paper's "
        "training). Without it, the defaults below hold."
    ),
    "transfer": (
        "Set of options for a purpose: `transfer-few-labels` (with labels, small model, laptop), "
        "`transfer-laptop` (without labels) or `transfer-paper` (the paper's transfer). Without it, the "
        "defaults below hold."
    ),
}


def recipes(command: str) -> list[str]:
    """Return the names of the built-in recipes for `train` or `transfer`."""
    return [name for name in list_recipes() if name.startswith("transfer") == (command == "transfer")]


def yaml_options(command: str) -> tuple[Option, ...]:
    """Return the options that set other options: `--recipe`, `--config`, `--resume` and `--print-config`."""
    return (
        Option("recipe", str | None, _RECIPE_HELP[command], metavar="NAME"),
        Option("config", str | None, "YAML file of options.", metavar="FILE"),
        Option(
            "resume",
            str | None,
            "Run folder to resume with its saved options. Finishes an interrupted run, or trains a run for "
            "more epochs.",
            metavar="FOLDER",
        ),
        Option("print_config", bool, "Print all options as YAML and exit.", default=False),
    )


def run_with_files(name: str, command: Command, options: Sequence[Option], given: Sequence[Given]) -> int:
    """Call a command whose options can also come from a recipe, YAML files or a run to resume.

    Raises:
        T3DError: An option or a file cannot be used, or the command raises it.
    """
    own = [option for option in options if option.path]
    if folder := _resumed(given, own):
        changes = [each for each in given if each.key != "resume"]
        changed = {each.key for each in changes}
        values = parse([option for option in own if option.key in changed], changes)
        config = _with_length(_read_run(folder, command), values)
        if length := _finished(config):
            epochs = next(option.flag for option in own if option.key == "optim.epochs")
            print(f"{folder}: the run has already finished ({length}); train longer with {epochs} N")
            return 0
        return command(config, resume=True)
    values = parse(own, with_replaced(_with_defaults(name, given, own), own), yaml_files=True)
    if any(each.key == "print_config" and each.text == "true" for each in given):
        print(_as_yaml(values), end="")
        return 0
    return call(command, own, values)


def _finished(config: RunConfig) -> str:
    from t3d.training.length import finished  # imports torch
    from t3d.training.run_folder import RunFolder

    return finished(config, RunFolder(config.out))


def _as_yaml(values: Mapping[str, object]) -> str:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)


def _read_run(folder: Path, command: Command) -> RunConfig:
    from t3d.training.run_folder import RunFolder

    kind = get_type_hints(command)["config"]
    # The folder may have been moved, and the saved `out` is relative to the folder where the run started.
    return replace(RunFolder(folder).read_config(kind), out=str(folder))


def _with_defaults(command: str, given: Sequence[Given], options: Sequence[Option]) -> list[Given]:
    """Put the values from `--recipe` and `--init` first, so that the given options override them.

    Raises:
        UsageError: An unknown recipe, several recipes, or a YAML file that cannot be used.
    """
    named = [each.text for each in given if each.key == "recipe"]
    rest = [each for each in given if each.key not in ("recipe", "print_config")]
    if len(named) > 1:
        raise UsageError("pass --recipe only once; override its values with other options")
    for each in rest:
        if each.key == "config":
            check_yaml(each.text, options)
    start = [Given("config", _recipe(command, name), "--recipe") for name in named]
    return [*start, *_from_card(command, rest), *rest]


def _resumed(given: Sequence[Given], options: Sequence[Option]) -> Path | None:
    """Return the folder given with `--resume`, or None.

    Raises:
        UsageError: An option was given that a resumed run cannot change, or the folder is a URL.
    """
    folders = [each.text for each in given if each.key == "resume"]
    others = [each.spelled for each in given if each.key not in ("resume", *CHANGEABLE)]
    if folders and others:
        changeable = " and ".join(option.flag for option in options if option.key in CHANGEABLE)
        raise UsageError(
            f"--resume takes the options from the run's config.yaml; only {changeable} can change. Remove "
            + " ".join(others)
        )
    if not folders:
        return None
    refuse_url(folders[-1], error=UsageError)
    return Path(folders[-1])


def _with_length(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the config with the values that may change when a run is resumed."""
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        part = replace(getattr(config, section), **{name: value}) if section else value
        config = replace(config, **{section or name: part})
    return config


def _recipe(command: str, name: str) -> str:
    known = recipes(command)
    if name not in known:
        raise UsageError(f"no recipe {name!r}; {did_you_mean(name, known)}. For a file use --config FILE")
    return recipe_file(name)


def _from_card(command: str, given: Sequence[Given]) -> list[Given]:
    """Return the model and the clip from the card of `t3d train --init FILE`."""
    path = next((each.text for each in reversed(given) if each.key == "model.init"), "")
    if command != "train" or path in ("", "null"):
        return []
    from t3d.models.weights_header import read_card

    card = read_card(path)
    if card is None:
        return []
    name = next((each.text for each in reversed(given) if each.key == "model.name"), card.architecture)
    values: dict[str, object] = {"model.name": card.architecture}
    if name == card.architecture:  # else the error must be about the weights, not about an option
        values["model.options"] = dict(card.options)
    values |= {f"clip.{name}": value for name, value in asdict(card.clip).items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [Given(key, text, "") for key, text in texts.items()]
