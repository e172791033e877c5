"""Rules that every command follows."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import t3d
from t3d.cli import main as cli
from t3d.cli.options import REQUIRED, Option, options_of, spelling_of
from t3d.cli.parser import RENAMED, read_words

HEAVY = ("torch", "torchvision", "timm", "accelerate", "matplotlib", "sklearn")
commands = pytest.mark.parametrize("name", list(cli.COMMANDS))


def options(name: str) -> tuple[Option, ...]:
    return cli.all_options(name, cli.load(name))


@commands
def test_the_help_line_is_the_docstring(name: str) -> None:
    doc = inspect.getdoc(cli.load(name))
    assert doc is not None
    assert doc.splitlines()[0] == cli.COMMANDS[name][0]


@commands
@pytest.mark.parametrize("columns", ["80", "120"])
def test_help_shows_every_option_with_its_default(
    name: str, columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main([*name.split(), "--help-all"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: t3d {name} ")
    assert max(map(len, text.splitlines())) <= int(columns)
    flat = " ".join(text.split())
    for option in options(name):
        assert option.help, option.key
        assert option.help[0] in "`0123456789" or option.help[0].isupper(), option.help
        assert option.help.split()[0] not in ("Of", "For", "What", "Instead", "See", "Whether"), option.help
        if option.positional:
            assert option.metavar in flat
        elif option.family:
            assert f"{option.full.rpartition('.')[0]}.NAME" in flat
            assert option.path[-1] in flat
        elif option.default is True:
            assert option.off.replace("no-", "[no-]", 1) in flat
        else:
            assert f" {option.flag} " in flat
        if option.shown_default:
            assert f"default: {option.shown_default}" in flat
        if option.default is REQUIRED and not option.positional:
            assert f"{option.flag} {option.metavar}" in flat.partition("[options]")[0]
    for noise in ("<class", "null", "None", "type:", "==SUPPRESS=="):
        assert noise not in flat


@commands
def test_short_help_is_short(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    first = spelling_of(cli.load(name)).first
    if first:
        assert f"All options: t3d {name} --help-all" in text
        assert len(re.findall(r"(?m)^  --", text)) == len(first) <= 12
    else:
        assert cli.main([*name.split(), "--help-all"]) == 0
        assert capsys.readouterr().out == text


@commands
def test_words_are_joined_by_hyphens_and_underscores_are_accepted(name: str) -> None:
    every = options(name)
    assert len({option.flag for option in every}) == len(every)
    assert len({option.key for option in every}) == len(every)
    for option in every:
        if option.positional:
            continue
        assert re.fullmatch(r"--[a-z0-9.-]+", option.full)
        for spelled in {option.full, option.short or option.full, f"--{option.key}"}:
            word = spelled if option.is_flag else f"{spelled}=1"
            (given,) = read_words([word], every, lambda _: ())
            assert (given.key, given.text) == (option.key, "true" if option.is_flag else "1")
        if option.is_flag:
            (given,) = read_words([option.off], every, lambda _: ())
            assert given.text == "false"


@commands
def test_every_parameter_of_a_value_object_is_an_option(name: str) -> None:
    command = cli.load(name)
    paths = {option.path for option in options_of(command)}

    def reachable(kind: Any, path: tuple[str, ...]) -> bool:
        if not dataclasses.is_dataclass(kind):
            return any(known[: len(path)] == path for known in paths)
        hints = get_type_hints(kind)
        return all(reachable(hints[f.name], (*path, f.name)) for f in dataclasses.fields(kind) if f.init)

    hints = get_type_hints(command)
    own = inspect.signature(command).parameters
    named = [each.name for each in own.values() if each.kind is not each.VAR_KEYWORD]
    assert all(reachable(hints[each], (each,)) for each in named)
    spelling = spelling_of(command)
    assert (len(named) < len(own)) == bool(spelling.forwards)
    if spelling.forwards:
        module, _, function = spelling.forwards.partition(":")
        target = getattr(importlib.import_module(module), function)
        kinds = get_type_hints(target)
        for each in inspect.signature(target).parameters.values():
            if each.kind is each.KEYWORD_ONLY and each.name not in (*named, *spelling.hidden):
                assert reachable(kinds[each.name], (each.name,))


@commands
def test_spelling_hints_of_a_command_are_about_its_options(name: str) -> None:
    spelling = spelling_of(cli.load(name))
    keys = {option.key for option in options(name)}
    assert {*spelling.short.values(), *spelling.first, *spelling.metavars, *spelling.positional} <= keys
    assert all(re.fullmatch(r"--[a-z-]+", short) for short in spelling.short)


@commands
def test_no_command_has_an_option_under_an_old_and_a_new_name(name: str) -> None:
    keys = {option.key for option in options(name)}
    assert not [old for old, new in RENAMED.items() if {old, new} <= keys]


def test_one_name_has_one_type_everywhere() -> None:
    kinds: dict[str, set[bool]] = {}
    for name in cli.COMMANDS:
        for option in options(name):
            if not option.positional:
                kinds.setdefault(option.flag, set()).add(option.is_flag)
    assert {flag for flag, types in kinds.items() if len(types) > 1} == set()


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = f"""
import contextlib, io, sys
from t3d.cli.main import COMMANDS, main
assert not {{*{HEAVY!r}, "av", "pyarrow", "numpy"}} & set(sys.modules)
for name in COMMANDS:
    for help in ("--help", "--help-all"):
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*name.split(), help]) == 0
    heavy = set({HEAVY!r}) & set(sys.modules)
    assert not heavy, (name, heavy)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_of_one_command_imports_no_other_commands_module() -> None:
    code = (
        "import sys; from t3d.cli.main import main; main(['doctor', '--help']); "
        "print(*sorted(name for name in sys.modules if name.startswith('t3d.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr.split() == [
        f"t3d.cli.{name}" for name in ("help", "main", "options", "parser", "tools")
    ]


# Options of other programs, and names that T3D's options share with nothing.
_ALLOWED = re.compile(r"ray start --head|docker run --shm-size=\w+|pip install [^`]*|git [a-z]+ --\w+")


def test_the_library_names_no_option_of_the_command_line() -> None:
    root = Path(t3d.__file__).parent
    mentions = []
    for file in sorted(root.rglob("*.py")):
        commands = (
            root / "data" / "inspect" / "nearby.py",
            root / "io" / "archive_names.py",
            root / "report" / "fit_page.py",
        )
        if file.is_relative_to(root / "cli") or file in commands:
            continue  # these print a whole command of the shell, to be copied
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = _ALLOWED.sub("", node.value)
                mentions += [
                    f"{file.relative_to(root)}:{node.lineno}: {option}"
                    for option in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)
                ]
    assert mentions == []
