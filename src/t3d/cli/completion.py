"""`t3d completion`: a script that lets a shell complete commands, options, choices and files.

shtab writes the script from a parser of argparse, which is made here from the options of all commands. `t3d`
itself does not use that parser.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, Literal

from t3d.cli.options import Option

_FILES = ("PATH", "FILE", "RUN", "VIDEO", "VIDEOS", "FOLDER", "LIST")
_TEXTS = ("TEXT", "NAME", "YAML", "PATTERN", "N", "X")


def completion(shell: Literal["bash", "zsh", "fish", "tcsh"]) -> int:
    """Print a script for the shell that completes commands and options.

    For bash, run this line, or put it into ~/.bashrc. For fish, write the output to
    ~/.config/fish/completions/t3d.fish; for zsh, to a file _t3d in a folder of $fpath.

        source <(t3d completion bash)

    Args:
        shell: Name of the shell.
    """
    import shtab

    print(shtab.complete(_parser(), shell=shell))
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return a parser with all commands and options, for shtab."""
    from t3d.cli.main import COMMANDS, GROUPS, all_options, load

    parser = argparse.ArgumentParser(prog="t3d")
    parser.add_argument("--version", action="store_true", help="Print the version")
    top = parser.add_subparsers()
    groups = {
        group: top.add_parser(group, help=_plain(text)).add_subparsers() for group, text in GROUPS.items()
    }
    for name, (text, _) in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        command = (groups[group] if group else top).add_parser(word, help=_plain(text))
        for option in all_options(name, load(name)):
            _add(command, option)
        command.add_argument("--help-all", action="store_true", help="Show all options")
    return parser


def _add(parser: argparse.ArgumentParser, option: Option) -> None:
    """Add an option to the parser of its command."""
    names = [option.metavar.lower()] if option.positional else list(dict.fromkeys([option.flag, option.full]))
    facts: dict[str, Any] = {"help": _plain(option.help)}
    if option.is_flag:
        parser.add_argument(*names, action="store_true", **facts)
        parser.add_argument(option.off, action="store_true", help=f"Turn {option.flag} off")
        return
    if option.choices:
        facts["choices"] = option.choices
    if option.many:
        facts["nargs"] = "*"
    added = parser.add_argument(*names, **facts)
    if not option.choices and (option.metavar in _FILES or (option.positional and _is_file(option))):
        import shtab

        added.complete = shtab.FILE  # type: ignore[attr-defined] # the attribute is shtab's


def _is_file(option: Option) -> bool:
    return option.metavar not in _TEXTS and option.kind not in (int, float)


def _plain(text: str) -> str:
    """Return the first sentence of a help text, with signs that shells would read left out."""
    first = re.split(r"(?<=[^.])\.(?:\s|$)", text, maxsplit=1)[0]
    return re.sub(r"[^\w\s,.()/-]", "", first)
