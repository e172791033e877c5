"""Override fields of frozen dataclasses with type-checked values from a command line, YAML or JSON."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from t3d.errors import ConfigError, did_you_mean, shortened

_Options = TypeVar("_Options")


def with_overrides(defaults: _Options, overrides: Mapping[str, object], *, where: str) -> _Options:
    """Copy a frozen dataclass with some fields changed.

    Args:
        defaults: An instance of a dataclass.
        overrides: New values by field name; lists are accepted for tuples, and integers for floats.
        where: Description of the fields for error messages, such as "options of t3d121".

    Returns:
        An instance of the same class.

    Raises:
        ConfigError: An unknown field or a value of the wrong type.

    Example:
        >>> from t3d.clip import ClipSpec
        >>> with_overrides(ClipSpec(), {"num_frames": 16}, where="clip").num_frames
        16
    """
    kind: Any = type(defaults)
    hints = get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in overrides:
        if name not in fields:
            raise ConfigError(
                f"unknown name {shortened(name)!r} in {where}; {did_you_mean(str(name), fields)}"
            )
    changed = {
        name: _checked(value, hints[name], where=f"{name} ({where})") for name, value in overrides.items()
    }
    return kind(**{name: getattr(defaults, name) for name in fields} | changed)


def refuse_depth(value: object, *, name: str, deepest: int = 20) -> None:
    """Raise an error for lists and tables that are nested too deeply, which could exhaust the stack.

    Args:
        value: Lists, tables and plain values.
        name: What they are, for the message.
        deepest: Largest allowed depth.

    Raises:
        ConfigError: They are nested more deeply.
    """
    level: list[object] = [value]
    for _ in range(deepest + 1):
        inner: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
        if not inner:
            return
        level = inner
    raise ConfigError(f"{name} are nested more than {deepest} levels deep")


def _checked(value: object, hint: Any, *, where: str) -> object:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _checked(value, inner, where=where)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where} is {_shown(value)}; {did_you_mean(_shown(value), map(str, args))}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return with_overrides(hint(), value, where=where)
    if origin is dict and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return dict(value)
    if origin is tuple and isinstance(value, list | tuple):
        inner_hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(inner_hints) == len(value):
            return tuple(
                _checked(item, inner, where=where) for item, inner in zip(value, inner_hints, strict=True)
            )
    if hint is float and type(value) is int and abs(value) < 2**63:
        return float(value)
    if origin is None and type(value) is hint:
        return value
    raise ConfigError(f"{where} is {_shown(value)}; it must be {_spoken(hint)}")


def _shown(value: object) -> str:
    """Return a value for a message, cut if it is long. Most of a long list is not even converted to text."""
    return shortened(repr(value[:50] if isinstance(value, list | tuple) else value))


def _spoken(hint: Any) -> str:
    if get_origin(hint) is tuple:
        inner = _spoken(get_args(hint)[0])
        count = "any number" if get_args(hint)[-1] is Ellipsis else str(len(get_args(hint)))
        return f"a list of {count} of ({inner})"
    if get_origin(hint) is dict or dataclasses.is_dataclass(hint):
        return "a table of names and values"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
