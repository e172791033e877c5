"""Options of a command, read from the signature and the docstring of its function.

A command is a function in this package that returns the exit status. Its parameters become options:

- A parameter without a default becomes a positional argument, unless it is keyword-only.
- Every other parameter becomes `--words-joined-by-hyphens`. A keyword-only parameter without a default
  becomes a required option.
- A frozen dataclass is replaced by its fields, nested ones included. The fields named in `SECTIONS` keep
  their name as a prefix (`--optim.lr`), as in YAML. All others are flat (`--batch-size`, not
  `--compute.batch-size`).
- `**options` stands for the keyword-only parameters of a library function, see `Spelling.forwards`.
- `bool` becomes a flag, such as `--overwrite`. `--no-overwrite` turns it off.
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

SECTIONS = ("data", "clip", "augment", "model", "optim", "teacher", "pairs", "labels")
"""Fields whose name becomes a prefix of their options."""

REQUIRED: Any = dataclasses.MISSING
"""Default of a required option."""

_PATHS = {
    "out",
    "cache",
    "root",
    "classes",
    "index",
    "init",
    "weights",
    "teacher_weights",
    "train",
    "exclude",
    "soft",
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
        kind: Type of its value.
        help: Help text, from the docstring. Empty only if the docstring does not document the option.
        default: Default value, or `REQUIRED`.
        positional: Whether the value is given by position instead of by name.
        short: Shorter name, as the user types it.
        metavar: Placeholder for the value in help.
        family: Possible names of the last part of the key, if each of them is a separate option.
        path: Parameter of the command, and the nested fields, that receive the value.
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
        """Full name, as the user types it."""
        return self.metavar if self.positional else f"--{self.key.replace('_', '-')}"

    @property
    def flag(self) -> str:
        """Name used in help and messages: the short name if there is one, else the full name."""
        return self.short or self.full

    @property
    def off(self) -> str:
        """Name that turns a flag off."""
        section, dot, name = self.full.removeprefix("--").rpartition(".")
        return f"--{section}{dot}no-{name}"

    @property
    def is_flag(self) -> bool:
        """True for an option without a value."""
        return self.kind is bool

    @property
    def many(self) -> bool:
        """True for an option that takes several words."""
        return get_origin(without_none(self.kind)) in (list, tuple, Sequence)

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values, if they are enumerated."""
        kind = without_none(self.kind)
        if kind is bool and self.kind is not bool:
            return ("true", "false")
        return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()

    @property
    def shown_default(self) -> str:
        """Default value as shown in help. Empty if there is no default."""
        if self.is_flag:
            return "on" if self.default else ""
        if self.default is REQUIRED or self.default in (None, "", (), [], {}):
            return ""
        if isinstance(self.default, list | tuple):
            return " ".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)


@dataclass(frozen=True)
class Spelling:
    """Decorator that adds what the signature of a command cannot express.

    Args:
        short: Key of an option, by its short name.
        first: Keys that `--help` shows. Only `--help-all` shows the others. If empty, `--help` shows all.
        metavars: Placeholder for the value in help, by key.
        positional: Keys with a default whose options are still positional.
        yaml: Whether `--config`, `--recipe` and `--resume` can set the options, see `t3d.cli.recipes`.
        forwards: Library function that receives the `**options` of the command, as `module:function`. Its
            keyword-only parameters become options of the command.
        hidden: Parameters of that library function that do not become options.
    """

    short: Mapping[str, str] = field(default_factory=dict)
    first: Sequence[str] = ()
    metavars: Mapping[str, str] = field(default_factory=dict)
    positional: Sequence[str] = ()
    yaml: bool = False
    forwards: str = ""
    hidden: Sequence[str] = ()

    def __call__(self, command: Command) -> Command:
        """Register the spelling of a command. Used as a decorator: `@Spelling(…)`."""
        _SPELLINGS[command] = self
        return command


_SPELLINGS: dict[Command, Spelling] = {}


def spelling_of(command: Command) -> Spelling:
    """Return the spelling that `@Spelling(…)` registered for a command."""
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
        ConfigError: A value is invalid.
    """
    by_path = {option.path: values[option.key] for option in options}
    given = {path[0] for path in by_path}  # a parameter that is not an option keeps its default
    arguments = {
        parameter.name: _value(get_type_hints(function)[parameter.name], (parameter.name,), by_path)
        for function, parameter in _parameters(command)
        if parameter.name in given
    }
    return command(**arguments)


def without_none(kind: Any) -> Any:
    """Return `X` for the type `X | None`, and any other type unchanged."""
    if get_origin(kind) in (Union, types.UnionType):
        inner = [part for part in get_args(kind) if part is not type(None)]
        return inner[0] if len(inner) == 1 else kind
    return kind


def _parameters(command: Command) -> Iterator[tuple[Callable[..., Any], inspect.Parameter]]:
    """Yield the parameters of a command, each with the function that declares it.

    The function is the command, or the library function that the command forwards to.
    """
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
    """Yield the option itself, or the options of its fields."""
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
        # The field `kind` takes the name of the parameter: `cluster: Cluster(kind, …)` becomes `--cluster`.
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
    """Return the keys of a `dict[Literal[…], X]`."""
    if get_origin(kind) is dict and get_origin(get_args(kind)[0]) is Literal:
        return tuple(get_args(get_args(kind)[0]))
    return ()


def _documented(thing: Any) -> dict[str, str]:
    """Return the `Args:` entries of a function, or of a class and its bases, by name."""
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
