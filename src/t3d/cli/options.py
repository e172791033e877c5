"""From a command's function to its options: the signature and its docstring are the only definition.

A command is a function in this package that returns the exit status. Its parameters become options:

- A parameter without default, unless it is keyword-only, becomes a positional argument.
- Every other parameter becomes `--words-joined-by-hyphens`; keyword-only without default: a required one.
- A frozen dataclass is replaced by its fields, nested ones included. The fields named in `SECTIONS` keep
  their name as a prefix (`--optim.lr`), as in YAML; all others are flat (`--batch-size`, not
  `--compute.batch-size`).
- `**options` stands for the keyword-only parameters of a library function, see `Spelling.forwards`.
- `bool` becomes a flag: `--overwrite`, and `--no-overwrite` to turn it off.
- `list[X]` and `tuple[X, …]` take several words; `dict[Literal[…], X]` becomes one option per key.

The help text is the parameter's entry under `Args:`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser

Command = Callable[..., int]

SECTIONS = ("data", "clip", "augment", "model", "optim", "teacher", "pairs")
"""Fields whose own fields keep the prefix."""

REQUIRED: Any = dataclasses.MISSING
"""Default of an option that must be given."""

_PATHS = {
    "out",
    "cache",
    "root",
    "index",
    "init",
    "weights",
    "teacher_weights",
    "train",
    "val",
    "videos",
    "config",
    "resume",
}
_NAMES = {"name", "recipe", "device", "model", "teacher"}


@dataclass(frozen=True)
class Option:
    """One option or positional argument of a command.

    Args:
        key: Name in YAML and in error messages, such as `optim.lr`.
        kind: Its type.
        help: What it does; empty only if the docstring forgot it.
        default: Value without it, or `REQUIRED`.
        positional: Whether it is given by place instead of by name.
        short: Another, shorter name, as the user types it.
        metavar: What stands for its value in help.
        family: All names that the last part of the key may have, if each is a separate option.
        path: The parameter and the fields that its value goes to.
    """

    key: str
    kind: Any
    help: str
    default: Any = None
    positional: bool = False
    short: str = ""
    metavar: str = ""
    family: tuple[str, ...] = ()
    path: tuple[str, ...] = ()

    @property
    def full(self) -> str:
        """The whole name, as the user types it."""
        return self.metavar if self.positional else f"--{self.key.replace('_', '-')}"

    @property
    def flag(self) -> str:
        """The name that help and messages use: the short one, if there is one."""
        return self.short or self.full

    @property
    def off(self) -> str:
        """The name that turns a flag off."""
        section, dot, name = self.full.removeprefix("--").rpartition(".")
        return f"--{section}{dot}no-{name}"

    @property
    def is_flag(self) -> bool:
        """True if it takes no value."""
        return self.kind is bool

    @property
    def many(self) -> bool:
        """True if it takes several words."""
        return get_origin(without_none(self.kind)) in (list, tuple, Sequence)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values it may have, where they are few."""
        kind = without_none(self.kind)
        if kind is bool and self.kind is not bool:
            return ("true", "false")
        return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()

    @property
    def shown_default(self) -> str:
        """The default as help shows it; empty if there is none."""
        if self.is_flag:
            return "on" if self.default else ""
        if self.default is REQUIRED or self.default in (None, "", (), [], {}):
            return ""
        if isinstance(self.default, list | tuple):
            return " ".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


@dataclass(frozen=True)
class Spelling:
    """Decorator of a command that says what its signature cannot.

    Args:
        short: Keys by short name.
        first: Keys that `--help` shows; the others need `--help-all`. Empty: all are shown.
        metavars: What stands for a value in help, by key.
        positional: Keys of options with a default that are positional arguments.
        yaml: Whether `--config`, `--recipe` and `--resume` set its options, see `t3d.cli.recipes`.
        forwards: The library function that a command gives its `**options` to, as `module:function`. Its
            keyword-only parameters are options of the command.
        hidden: Its parameters that do not become options.
    """

    short: Mapping[str, str] = field(default_factory=dict)
    first: Sequence[str] = ()
    metavars: Mapping[str, str] = field(default_factory=dict)
    positional: Sequence[str] = ()
    yaml: bool = False
    forwards: str = ""
    hidden: Sequence[str] = ()

    def __call__(self, command: Command) -> Command:
        """Note it of a command: `@Spelling(…)` above its function."""
        _SPELLINGS[command] = self
        return command


_SPELLINGS: dict[Command, Spelling] = {}


def spelling_of(command: Command) -> Spelling:
    """Return the `@Spelling(…)` of a command."""
    return _SPELLINGS.get(command, Spelling())


def options_of(command: Command) -> tuple[Option, ...]:
    """Return the options of a command, in the order of its signature."""
    spelling = spelling_of(command)
    shorts = {key: name for name, key in spelling.short.items()}
    options: list[Option] = []
    for function, parameter in _parameters(command):
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        leaf = Option(
            key=parameter.name,
            kind=get_type_hints(function)[parameter.name],
            help=_documented(function).get(parameter.name, ""),
            default=default,
            positional=parameter.kind is parameter.POSITIONAL_OR_KEYWORD,
            path=(parameter.name,),
        )
        options.extend(_leaves(leaf, top=True))
    return tuple(
        dataclasses.replace(
            option,
            short=shorts.get(option.key, ""),
            metavar=spelling.metavars.get(option.key) or _metavar(option),
            positional=option.key in spelling.positional or option.positional,
        )
        for option in options
    )


def call(command: Command, options: Sequence[Option], values: Mapping[str, Any]) -> int:
    """Call a command with the values of its options, by key.

    Raises:
        ConfigError: A value cannot work.
    """
    by_path = {option.path: values[option.key] for option in options}
    given = {path[0] for path in by_path}  # a parameter without an option keeps its default
    arguments = {
        parameter.name: _value(get_type_hints(function)[parameter.name], (parameter.name,), by_path)
        for function, parameter in _parameters(command)
        if parameter.name in given
    }
    return command(**arguments)


def without_none(kind: Any) -> Any:
    """Return the type `X` of an `X | None`, and any other type as it is."""
    if get_origin(kind) in (Union, types.UnionType):
        inner = [part for part in get_args(kind) if part is not type(None)]
        return inner[0] if len(inner) == 1 else kind
    return kind


def _parameters(command: Command) -> Iterator[tuple[Callable[..., Any], inspect.Parameter]]:
    """The parameters of a command, each with its function: the command, or the one that it forwards to."""
    spelling = spelling_of(command)
    own = inspect.signature(command).parameters
    for name, parameter in own.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            yield command, parameter
            continue
        module, _, function_name = spelling.forwards.partition(":")
        function = getattr(importlib.import_module(module), function_name)
        for other in inspect.signature(function).parameters.values():
            if other.kind is other.KEYWORD_ONLY and other.name not in {*own, *spelling.hidden} - {name}:
                yield function, other


def _leaves(option: Option, *, top: bool = False) -> Iterator[Option]:
    """The option itself, or those that it is made of."""
    names = _keyed(option.kind)
    if names:
        for name in names:
            yield dataclasses.replace(
                option,
                key=f"{option.key}.{name}",
                kind=get_args(option.kind)[1] | None,
                default=None,
                positional=False,
                family=names,
                path=(*option.path, name),
            )
        return
    if not dataclasses.is_dataclass(option.kind):
        yield option
        return
    leaf_name = option.path[-1]
    prefix = f"{option.key}." if leaf_name in SECTIONS else option.key.rpartition(leaf_name)[0]
    hints, docs = get_type_hints(option.kind), _documented(option.kind)
    for each in dataclasses.fields(option.kind):
        if not each.init:
            continue
        if option.default is not REQUIRED:
            default = getattr(option.default, each.name)
        elif each.default_factory is not dataclasses.MISSING:
            default = each.default_factory()
        else:
            default = each.default
        # What a value object is, is its parameter's name: `cluster: Cluster(kind, …)` becomes `--cluster`.
        name = leaf_name if each.name == "kind" and leaf_name not in SECTIONS else each.name
        yield from _leaves(
            Option(
                key=prefix + name,
                kind=hints[each.name],
                help=docs.get(each.name, ""),
                default=default,
                positional=top and default is REQUIRED and not each.kw_only,
                path=(*option.path, each.name),
            )
        )


def _value(kind: Any, path: tuple[str, ...], values: Mapping[tuple[str, ...], Any]) -> Any:
    if names := _keyed(kind):
        return {name: values[*path, name] for name in names if values[*path, name] is not None}
    if not dataclasses.is_dataclass(kind):
        return values[path]
    hints = get_type_hints(kind)
    fields = (each.name for each in dataclasses.fields(kind) if each.init)
    assert isinstance(kind, type)
    return kind(**{name: _value(hints[name], (*path, name), values) for name in fields})


def _keyed(kind: Any) -> tuple[str, ...]:
    """The keys of a `dict[Literal[…], X]`."""
    if get_origin(kind) is dict and get_origin(get_args(kind)[0]) is Literal:
        return tuple(get_args(get_args(kind)[0]))
    return ()


def _documented(thing: Any) -> dict[str, str]:
    """Return the `Args:` text per name, of a function or of a class and its bases."""
    docs: dict[str, str] = {}
    for each in reversed(inspect.getmro(thing)) if isinstance(thing, type) else (thing,):
        parsed = docstring_parser.parse(each.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
        docs |= {
            entry.arg_name: re.sub(r"\s+", " ", entry.description or "").strip() for entry in parsed.params
        }
    return docs


def _metavar(option: Option) -> str:
    name = option.key.rpartition(".")[2]
    kind = without_none(option.kind)
    if option.positional:
        return name.upper().replace("_", "-")
    if option.choices:
        return "|".join(option.choices)
    if option.many:
        kind = get_args(kind)[0]
    if kind in (int, float):
        return "N" if kind is int else "X"
    if kind is Path or name in _PATHS or option.key.partition(".")[0] in _PATHS:
        return "PATH"
    if get_origin(kind) is dict:
        return "YAML"
    return "NAME" if name in _NAMES else "TEXT"
