"""The words behind `t3d COMMAND`: short names, recipes, groups of options, and complaints that help."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib import resources
from types import MappingProxyType
from typing import Literal, NoReturn, TypeVar

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from t3d.errors import ConfigError, did_you_mean
from t3d.training.config import RunConfig

Config = TypeVar("Config", bound=RunConfig)

# What is asked most, under the name one thinks of first.
_SHORT = {
    "train": {"--init": "--model.init", "--label_fraction": "--data.label_fraction"},
    "transfer": {
        "--videos": "--data.videos",
        "--teacher": "--teacher.name",
        "--student": "--model.name",
        "--student_input": "--clip.modality",
        "--objective": "--pairs.objective",
    },
}


class Parser(ArgumentParser):
    """An argument parser whose complaint about an unknown name says the nearest known one."""

    commands: Mapping[str, Parser] = MappingProxyType({})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002 (its signature)
        """Say what is wrong, and what is near."""
        text = re.sub(r"\s*\n\s*", "\n  ", message.strip())
        text = re.sub(r"<class '(\w+)'>", lambda kind: _SPOKEN.get(kind[1], kind[1]), text)
        prog = self.prog.replace(" [options]", "")
        if command := re.search(r"invalid choice: '(.*?)' \(", message):
            text = f"no command {command[1]!r}; {did_you_mean(command[1], self.commands)}"
        elif choice := re.search(r"typing\.Literal\[(.*)\]\. Got value: (.*)", message):
            key, allowed = re.search(r'"(.*?)"', message), re.findall(r"'(.*?)'", choice[1])
            text = f"{key[1] if key else 'an option'} is {choice[2]!r}; {did_you_mean(choice[2], allowed)}"
        elif option := re.search(r"Subcommand '(.*?)' does not accept option '(.*?)'", message):
            prog += f" {option[1]}"
            text = f"unknown option {option[2]}; {self.commands[option[1]].nearest(option[2])}"
        elif required := re.search(r"required: (\w+)\.", message):
            prog += f" {required[1]}"
        elif option := re.search(r"(?i)unrecognized arguments: -*([\w.]+)", message):
            text += f"\n  {self.nearest(option[1])}"
        print(f"{prog}: {text}\n  All options: {prog} --help", file=sys.stderr)
        raise SystemExit(2)

    def nearest(self, name: str) -> str:
        """Say which option is nearest to a wrong name, out of its own group if there is such a group."""
        known = {action.dest for action in self._actions}
        groups = {dest.partition(".")[0] for dest in known if "." in dest}
        known -= groups | {"help", "print_config", "==SUPPRESS=="}
        known |= {short.removeprefix("--") for short in _SHORT.get(self.prog.rpartition(" ")[2], {})}
        group = name.partition(".")[0]
        within = [k for k in known if k.startswith(f"{group}.")]
        return did_you_mean(name, within if group in groups and within else known)


_SPOKEN = {"int": "whole number", "float": "number", "bool": "true or false", "str": "text"}


def recipes(command: str = "t3d train") -> list[str]:
    """Names of the recipes that come along for a command."""
    folder = resources.files("t3d") / "recipes"
    names = sorted(
        item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")
    )
    return [name for name in names if name.startswith("transfer") == (command == "t3d transfer")]


def in_full(words: list[str]) -> list[str]:
    """Short names of options as the long ones that they stand for; dashes in names as underscores."""
    short = _SHORT.get(words[0], {}) if words else {}
    full = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
        full.append(short.get(name, name) + equals + value)
    return full


def with_recipe(words: list[str]) -> list[str]:
    """Turn `--recipe NAME` into `--config FILE`, in front, so that the other options win over it."""
    for at, word in enumerate(words):
        if word == "--recipe" or word.startswith("--recipe="):
            name = word.partition("=")[2] if "=" in word else (words[at + 1 : at + 2] or [""])[0]
            rest = words[:at] + words[at + (1 if "=" in word else 2) :]
            if any(other.partition("=")[0] == "--recipe" for other in rest):
                raise ConfigError("give one --recipe; options behind it change it")
            known = recipes(f"t3d {words[0]}")
            if name not in known:
                raise ConfigError(f"no recipe {name!r}: {did_you_mean(name, known)}. Your own: --config FILE")
            path = str(resources.files("t3d") / "recipes" / f"{name}.yaml")
            return [*rest[:1], "--config", path, *rest[1:]]
    return words


def with_init(words: list[str]) -> list[str]:
    """Let `t3d train --model.init FILE` begin with the net and the clip that the file's card names.

    They stand in front, and `with_recipe` puts a recipe before them: it gives way, all else wins.
    """
    path = _value_of("--model.init", words)
    if words[:1] != ["train"] or path in (None, "", "null"):
        return words
    from t3d.models.weights import read_card  # torch is imported here, which training needs anyway

    card = read_card(path)
    if card is None:
        return words
    said = {"model.name": card.architecture, "model.options": json.dumps(dict(card.options))}
    said |= {f"clip.{name}": _spelt(value) for name, value in asdict(card.clip).items()}
    options = [word for name, value in said.items() for word in (f"--{name}", value)]
    return [*words[:1], *options, *words[1:]]


def _value_of(option: str, words: list[str]) -> str | None:
    for at, word in enumerate(words):
        if word == option:
            return words[at + 1] if at + 1 < len(words) else None
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _spelt(value: object) -> str:
    return json.dumps(value) if isinstance(value, list | tuple) else str(value)


def refuse_options_beside_resume(words: list[str]) -> None:
    """A run goes on by its own options: others would be ignored without a word."""
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    others = [word for word in options if word not in ("--resume", "--help", "-h")]
    if "--resume" in options and others:
        raise ConfigError(
            f"--resume goes on with a run by the options in its config.yaml; leave out {' '.join(others)}"
        )


def add_computing(sub: ArgumentParser) -> None:
    """The options of every command that runs a net."""
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, …")
    sub.add_argument("--precision", type=Literal["auto", "fp32", "bf16"], default="auto", help="of the net")
    sub.add_argument(
        "--batch_size", type=PositiveInt, default=8, help="clips at a time: speed and memory only"
    )
    sub.add_argument("--workers", type=NonNegativeInt, default=2, help="processes that read videos")


def add_cluster(sub: ArgumentParser) -> None:
    """The options of every command that runs on one machine or on many."""
    sub.add_argument("--cluster", type=Literal["none", "ray"], default="none", help="ray: many machines")
    sub.add_argument(
        "--ray_address",
        help="a Ray cluster to join, HOST:PORT or auto; else $RAY_ADDRESS, or one is started here",
    )


def fill_run(sub: ArgumentParser, kind: type[RunConfig]) -> None:
    """The options of a command that makes a run folder."""
    sub.add_argument("--config", action="config", help="YAML file with any of the options below")
    names = recipes(kind.command)
    sub.add_argument("--recipe", metavar="NAME", help=f"a configuration that comes along: {', '.join(names)}")
    sub.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, by its own options")
    sub.add_class_arguments(kind)
    pairs = _SHORT.get(kind.command.rpartition(" ")[2], {}).items()
    sub.epilog = "Short names: " + ", ".join(f"{short} for {full}" for short, full in pairs)


def run_config(chosen: Namespace, kind: type[Config]) -> tuple[Config, bool]:
    """The options of a run, and whether it goes on."""
    if chosen.resume is not None:
        from t3d.training.run_folder import RunFolder

        # The folder may have been moved since, and its own `out` was said from where the run began.
        return replace(RunFolder(chosen.resume).read_config(kind), out=chosen.resume), True
    values = vars(chosen)
    return kind(**{k: v for k, v in values.items() if k not in ("config", "recipe", "resume")}), False
