"""Options that replace each other, such as `--clip.stride` and `--clip.fps`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from t3d.cli.options import Option
from t3d.cli.parser import Given
from t3d.clip import EXCLUSIVE


def with_replaced(given: Sequence[Given], options: Sequence[Option]) -> list[Given]:
    """Unset an option where a later source sets the one that replaces it.

    Each file, the card of a model, and what the user typed are sources. `--clip.fps 12` therefore overrides
    the `clip.stride` of a recipe. Two options of one source that replace each other are passed on, and
    refused later.

    Args:
        given: Options, in the order of their sources.
        options: Options of the command.
    """
    keys = {option.key for option in options}
    result: list[Given] = []
    sources = groupby(
        enumerate(given), lambda each: each[0] if each[1].key == "config" else bool(each[1].spelled)
    )
    for _, numbered in sources:
        source = [each for _, each in numbered]
        named = {key for each in source for key in _keys_set(each)}
        pairs = [pair for two in EXCLUSIVE for pair in (two, two[::-1])]
        unset = {other for key, other in pairs if key in named and other not in named and other in keys}
        result += [Given(other, "null", "") for other in sorted(unset)] + source
    return result


def _keys_set(given: Given) -> Iterator[str]:
    """Yield the options that an option, or a YAML file, gives a value other than null."""
    if given.key != "config":
        if given.text != "null":
            yield given.key
        return
    import yaml

    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):  # reported where the file is read
        yield from _leaves(yaml.safe_load(Path(given.text).read_text(encoding="utf-8")), "")


def _leaves(table: object, prefix: str) -> Iterator[str]:
    for name, value in table.items() if isinstance(table, dict) else ():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}"
