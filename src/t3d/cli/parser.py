"""Parser of the words after `t3d COMMAND`: names, types and helpful messages.

`read_words` finds the option that each word belongs to. jsonargparse converts the values to the types of the
options and reads YAML files. `UsageError` explains what is wrong in terms of the command line.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from t3d.cli.options import REQUIRED, Option, without_none
from t3d.errors import ConfigError, did_you_mean
from t3d.training import old_names


def _and_short(names: Mapping[str, str]) -> dict[str, str]:
    """Add the names without their section, which commands with few options use."""
    short = {old.rpartition(".")[2]: new.rpartition(".")[2] for old, new in names.items()}
    return {**short, **names}


RENAMED = {
    "patience": "timeout",
    "engine": "cluster",
    "unlabelled": "unlabeled",
    "near": "near_duplicates",
    "frames": "frame_order",
} | _and_short(old_names.RENAMED)
"""Current name of each renamed option, by its old name."""

_SYNONYMS = {"learning_rate": "lr"}
"""Current name by the name that other projects use."""

REUSED = _and_short(old_names.REUSED)
"""Current name by old name, where some commands now use the old name for another option.

The name of a section stands for all its options.
"""

REMOVED = {**old_names.REMOVED, **{old.rpartition(".")[2]: why for old, why in old_names.REMOVED.items()}}
"""Options that were removed, with the reason."""

_OTHER_DEVICE = "to train on one GPU, set its number before the command: CUDA_VISIBLE_DEVICES=0 t3d train"


class UsageError(ConfigError):
    """Error for a command line that cannot be parsed."""


class Given(NamedTuple):
    """Option with the text that the user gave as its value.

    Args:
        key: Key of the option. A key inside a `dict` option has one more part.
        text: Value of the option, as YAML if the option takes several words.
        spelled: Name of the option as the user typed it.
    """

    key: str
    text: str
    spelled: str


def read_words(
    words: Sequence[str], options: Sequence[Option], elsewhere: Callable[[str], Sequence[str]]
) -> list[Given]:
    """Find the option that each word belongs to.

    Args:
        words: Words after the command.
        options: Options of the command.
        elsewhere: Function that returns the other commands with an option of this key. The message about an
            unknown option lists them.

    Raises:
        UsageError: An unknown option, a missing value, an extra word, or a word that is not valid UTF-8.
    """
    for word in words:
        if re.search(r"[\ud800-\udfff]", word):
            raise UsageError(f"{word!r} is not valid UTF-8; rename the file or folder")
    names = {name: (option, text) for option in options for name, text in _names(option)}
    given: list[Given] = []
    loose: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            loose += rest
            break
        if not _is_name(word):
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        option, text = names.get(name.replace("_", "-"), (None, ""))
        key = option.key if option else ""
        if option is None:
            option, key = _inside(name, options)
        if option is None:
            raise UsageError(unknown(name, options, elsewhere))
        if equals:
            given.append(Given(key, value, name))
        elif option.is_flag:
            given.append(Given(key, text, name))
        elif not rest or _is_name(rest[0]):
            raise UsageError(f"{name} needs a value: {name} {option.metavar}")
        elif option.many and not rest[0].startswith("["):
            values = [rest.pop(0)]
            while rest and not _is_name(rest[0]):
                values.append(rest.pop(0))
            given.append(Given(key, _listed(option, values), name))
        else:
            given.append(Given(key, rest.pop(0), name))
    return [*_placed(loose, options, given), *given]


def parse(options: Sequence[Option], given: Sequence[Given], *, yaml_files: bool = False) -> dict[str, Any]:
    """Return the values of all options by key, converted to their types. Later words override earlier ones.

    Raises:
        UsageError: A value has the wrong type, or a required value is missing.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # a slow import, which `t3d --help` avoids

    parser = ArgumentParser(exit_on_error=False)
    if yaml_files:
        parser.add_argument("--config", action="config")
    for option in options:
        default = None if option.default is REQUIRED else option.default
        parser.add_argument(f"--{option.key}", type=option.kind, default=default)
    try:
        namespace = parser.parse_args([f"--{each.key}={each.text}" for each in given])
    except ArgumentError as error:
        raise UsageError(_explained(str(error), options, given)) from error
    values = {option.key: namespace[option.key] for option in options}
    named = {each.key for each in given}
    missing = [option for option in options if option.default is REQUIRED and option.key not in named]
    if missing:
        raise UsageError("missing: " + ", ".join(_with_value(option) for option in missing))
    return values


def check_yaml(path: str, options: Sequence[Option]) -> None:
    """Raise an error if a YAML file has keys that are not options.

    Raises:
        UsageError: The file cannot be read, is not YAML, or has an unknown key.
    """
    from t3d.io.yaml_file import read_yaml

    content = read_yaml(path, error=UsageError)
    if content is None:
        return
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a table of options, such as `seed: 0`")
    keys = {option.key: option for option in options}
    sections = {key.rpartition(".")[0] for key in keys if "." in key}

    def check(table: Mapping[str, object], prefix: str) -> None:
        for name, value in table.items():
            key = f"{prefix}{name}"
            if key in keys:
                continue
            if key in sections:
                if not isinstance(value, dict):
                    raise UsageError(f"{path}: {key} is {value!r}; expected a table of its options")
                check(value, f"{key}.")
            elif isinstance(value, dict) and value:
                check(value, f"{key}.")
            else:
                raise UsageError(f"{path}: {unknown(key, options, lambda _: ())}")

    check(content, "")


def unknown(name: str, options: Sequence[Option], elsewhere: Callable[[str], Sequence[str]]) -> str:
    """Return the message about an unknown option, with a suggestion.

    Args:
        name: Option as typed, such as `--modle.name`, or key of a YAML file.
        options: Options of the command.
        elsewhere: Function that returns the other commands with an option of this key.
    """
    dashes = "--" if name.startswith("--") else ""
    key = name.removeprefix("--").replace("-", "_")
    shown = {
        option.key: (option.flag if dashes else option.key) for option in options if not option.positional
    }
    text = f"unknown option {name}"
    if reason := REMOVED.get(key):
        return f"{text}: {reason}"
    if placed := [option.metavar for option in options if option.positional and option.key == key]:
        return f"{text}; give {placed[0]} without a name"
    section, dot, rest = key.partition(".")
    for new in (RENAMED.get(key, ""), REUSED.get(key, ""), f"{REUSED.get(section, '')}{dot}{rest}"):
        if new in shown:
            return f"{text}; it is now {shown[new]}"
    last = key.rpartition(".")[2]
    last = _SYNONYMS.get(last, last)
    same = [each for each in shown if each == f"{key}.name" or last == each.rpartition(".")[2] != "name"]
    if len(same) == 1:
        return f"{text}; did you mean {shown[same[0]]}?"
    if others := [f"t3d {other}" for other in elsewhere(key)]:
        if key == "device":
            return f"{text}; it belongs to {', '.join(others)}; {_OTHER_DEVICE}"
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return f"{text}; it belongs to {', '.join(others[:3])}{more}"
    known = dict(shown)
    if dashes:
        known |= {option.short[2:].replace("-", "_"): option.short for option in options if option.short}
        known |= {option.off[2:].replace("-", "_"): option.off for option in options if option.is_flag}
        known |= {"help": "--help", "help_all": "--help-all"}
    within = [each for each in known if each.startswith(f"{section}.")] if "." in key else []
    start = f"{section}." if within else ""  # options of a section differ only in the rest of the name
    rests = {
        each.removeprefix(start): shown_name for each, shown_name in known.items() if each.startswith(start)
    }
    near = difflib.get_close_matches(key.removeprefix(start), rests, n=1, cutoff=0.5 if within else 0.6)
    if near:
        text += f"; did you mean {rests[near[0]]}?"
    elif within:
        text += (
            f"; options of {section}: {', '.join(sorted({shown[each] for each in within if each in shown}))}"
        )
    return text


def in_options(message: str, options: Iterable[Option], given: Iterable[Given] = ()) -> str:
    """Return a message of the library with its parameters replaced by the options of the command.

    The library mentions a parameter in one of these ways:

    - in backticks (`overwrite`)
    - as `overwrite=True`
    - at the start of a message (`out is missing`)
    - by a key with a dot or an underscore (`optim.lr`, `max_bad`)

    Each becomes the option, spelled as the user typed it. Some parts of the library do not know the section
    of a key. They use only its last word (`source_pattern` for `data.source_pattern`). A last word without an
    underscore must be in backticks (`root` for `data.root`).
    """
    typed = {each.key: each.spelled for each in given if each.spelled}
    names = {option.key: typed.get(option.key, option.flag) for option in options}
    words = Counter(key.rpartition(".")[2] for key in names)
    for key in list(names):
        word = key.rpartition(".")[2]
        if "_" in word and words[word] == 1:
            names[word] = names[key]
    if not names:
        return message
    quoted = names | {
        key.rpartition(".")[2]: names[key] for key in list(names) if words[key.rpartition(".")[2]] == 1
    }
    either = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    distinct = "|".join(
        sorted((re.escape(key) for key in names if "." in key or "_" in key), key=len, reverse=True)
    )
    message = re.sub(r"`([\w.]+)`", lambda match: quoted.get(match[1], match[0]), message)
    patterns = [rf"\b({either})=True\b", rf"^({either})(?= (?:is|was|must|has|cannot)\b)"]
    if distinct:
        patterns.append(rf"(?<![\w./-])({distinct})(?![\w/=-]|\.\w)")
    for pattern in patterns:
        message = re.sub(pattern, lambda match: names[match[1]], message)
    return message


def _is_name(word: str) -> bool:
    """Return whether a word is the name of an option, not a value or a negative number."""
    return word.startswith("-") and word != "-" and not re.match(r"-\.?\d", word)


def _names(option: Option) -> list[tuple[str, str]]:
    """Return the spellings of an option with hyphens. For a flag, each has the value that it sets."""
    if option.positional:
        return []
    names = [(name, "true") for name in (option.full, option.short) if name]
    return [*names, (option.off, "false")] if option.is_flag else names


def _inside(name: str, options: Sequence[Option]) -> tuple[Option | None, str]:
    """Return the `dict` option that a name such as `--model.options.drop_rate` belongs to, and its key."""
    key = name.removeprefix("--").replace("-", "_")
    for option in options:
        if get_origin(option.kind) is dict and key.startswith(f"{option.key}."):
            return option, key
    return None, ""


def _listed(option: Option, words: list[str]) -> str:
    inner = get_args(without_none(option.kind))[0]
    return f"[{', '.join(map(_quoted, words) if inner in (str, Path) else words)}]"


def _quoted(word: str) -> str:
    """Return a word as text of YAML, which refuses the pairs that JSON writes for emoji."""
    return '"' + "".join(json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in word) + '"'


def _placed(loose: list[str], options: Sequence[Option], given: Sequence[Given]) -> list[Given]:
    """Assign the words without an option name to the positional arguments, in order."""
    placed = []
    words = list(loose)
    for option in options:
        if not option.positional or not words:
            continue
        if option.many:
            placed.append(Given(option.key, _listed(option, words), option.metavar))
            words = []
        else:
            placed.append(Given(option.key, words.pop(0), option.metavar))
    if words:
        flags = {each.spelled for each in given if each.text in ("true", "false")}
        hint = ""
        if words[0].lower() in ("true", "false", "yes", "no", "1", "0") and flags:
            hint = f"; {', '.join(sorted(flags))} takes no value (--no-… turns a flag off)"
        elif not any(option.positional for option in options):
            hint = "; every value needs the name of its option before it"
        raise UsageError(f"unexpected argument {words[0]!r}{hint}")
    return placed


def _with_value(option: Option) -> str:
    return option.metavar if option.positional else f"{option.full} {option.metavar}"


def _explained(message: str, options: Sequence[Option], given: Sequence[Given]) -> str:
    """Return a message of jsonargparse in plain words."""
    key = re.search(r'Parser key "(.*?)"', message)
    value = re.search(r"(?:Got value|Given value): (.*)", message, re.DOTALL)
    option = next((each for each in options if key and each.key == key[1]), None)
    if option is None or value is None:
        return re.sub(r"\s+", " ", message.strip())
    name = next((each.spelled for each in reversed(given) if each.key == option.key), option.key)
    text = value[1].strip().splitlines()[0]
    if option.choices and all(map(str.isdigit, option.choices)):
        return f"{name} is {text!r}; it must be {', '.join(option.choices[:-1])} or {option.choices[-1]}"
    if option.choices:
        return f"{name} is {text!r}; {did_you_mean(text, option.choices)}"
    return f"{name} is {text!r}; it must be {_allowed(option.kind)}"


def _allowed(kind: Any) -> str:
    """Describe the values of a type in plain words."""
    inner = without_none(kind)
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    if inner in words:
        return words[inner]
    if get_origin(inner) is dict:
        return "a YAML table, such as '{drop_rate: 0.2}'"
    if get_origin(inner) in (list, tuple, Sequence):
        parts = get_args(inner)
        if Ellipsis in parts or get_origin(inner) is not tuple:
            return "a list"
        return f"{len(parts)} numbers"
    return "text"
