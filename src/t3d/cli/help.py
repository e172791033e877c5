"""Help texts of `t3d COMMAND --help`."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence

import docstring_parser

from t3d.cli.options import REQUIRED, SECTIONS, Command, Option, spelling_of

_MOST_COLUMNS, _NAME_COLUMNS = 120, 26
_TITLES = {
    "": "Options",
    "data": "Videos (data)",
    "clip": "Clips (clip)",
    "augment": "Augmentation (augment)",
    "model": "Model (model)",
    "optim": "Optimization (optim)",
    "teacher": "Teacher (teacher)",
    "pairs": "Objective (pairs)",
    "labels": "Labels (labels)",
}


def command_help(name: str, command: Command, options: Sequence[Option], *, everything: bool) -> str:
    """Return the help of a command.

    Args:
        name: The command, such as `prepare index`.
        command: Function of the command.
        options: Options of the command.
        everything: Show all options, even if `--help` shows only the most used ones.
    """
    docs = docstring_parser.parse(command.__doc__ or "", docstring_parser.DocstringStyle.GOOGLE)
    places = [option for option in options if option.positional]
    first = spelling_of(command).first
    usage = " ".join([f"Usage: t3d {name}", *map(_place, places), *_required(options), "[options]"])
    blocks = [usage, _paragraphs(f"{docs.short_description or ''}\n\n{docs.long_description or ''}")]
    if places:
        blocks.append(_block("Arguments", [(_place(option), _text(option, options)) for option in places]))
    named = {option.key: option for option in options if not option.positional}
    if first and not everything:
        rows = [_row(named[key], options, brief=True) for key in first]
        blocks.append(_block("Options used most", rows))
        blocks.append(f"All options: t3d {name} --help-all")
    else:
        sections: dict[str, list[Option]] = {"": []}
        for option in sorted(named.values(), key=lambda each: _order(each, first)):
            if option.family[:1] in ((), option.path[-1:]):  # one line per family
                sections.setdefault(_section(option), []).append(option)
        for section in sorted(sections, key=lambda each: ("", *SECTIONS).index(each)):
            rows = [_row(option, options) for option in sections[section]]
            if not section:
                rows.append(("--help", "Show this help."))
            blocks.append(_block(_TITLES[section], rows))
    return "\n\n".join(blocks) + "\n"


def overview(title: str, usage: str, commands: Mapping[str, str], more: Sequence[str] = ()) -> str:
    """Return the help of `t3d`, or of a group of commands.

    Args:
        title: Short description.
        usage: Usage, without the word `Usage`.
        commands: Help line per command, by name.
        more: Lines to append.
    """
    blocks = [f"Usage: {usage}", title, _block("Commands", list(commands.items()))]
    return "\n\n".join([*blocks, *more]) + "\n"


def _columns() -> int:
    return max(40, min(_MOST_COLUMNS, shutil.get_terminal_size().columns))


def _paragraphs(text: str) -> str:
    wrapped = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if paragraph.startswith("    "):  # an example, printed unchanged
            wrapped.append(textwrap.indent(textwrap.dedent(paragraph), "  "))
        else:
            wrapped.append(textwrap.fill(re.sub(r"\s+", " ", paragraph.replace("`", "")), _columns()))
    return "\n\n".join(wrapped)


def _block(title: str, rows: Sequence[tuple[str, str]]) -> str:
    left = min(_NAME_COLUMNS, max(len(name) for name, _ in rows)) + 4
    lines = [f"{title}:"]
    for name, text in rows:
        filled = textwrap.wrap(text, _columns() - left, break_on_hyphens=False) or [""]
        if len(name) > left - 4:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name:<{left - 2}}{filled.pop(0)}".rstrip())
        lines.extend(" " * left + line for line in filled)
    return "\n".join(lines)


def _row(option: Option, options: Sequence[Option], *, brief: bool = False) -> tuple[str, str]:
    if option.is_flag:
        name = option.off.replace("no-", "[no-]", 1) if option.default is True else option.flag
    elif option.family:
        name = f"{option.flag.removesuffix(option.path[-1])}NAME {option.metavar}"
    else:
        name = f"{option.flag} {option.metavar}{' …' if option.many else ''}"
    return name, _text(option, options, brief=brief)


def _text(option: Option, options: Sequence[Option], *, brief: bool = False) -> str:
    """Return the help of an option with its default, and mentioned options spelled as the user types them.

    With `brief`, return only the first sentence and the default, without the name in YAML.
    """
    section = option.key.rpartition(".")[0]
    names = {each.key: each.flag for each in options}

    def name(match: re.Match[str]) -> str:
        word = match[1]
        return names.get(f"{section}.{word}" if section else word, names.get(word, word))

    text = option.help
    if brief:
        first, *others = re.split(r"(?<=[.!])\s+(?=[A-Z])", text)
        text = " ".join([first, *(sentence for sentence in others if sentence.startswith("Default:"))])
    text = re.sub(r"`([^`]*)`", name, text)
    if option.family:
        text += f" NAME: {', '.join(option.family)}."
    notes = []
    if option.default is REQUIRED and not option.positional:
        notes.append("required")
    if option.shown_default:
        notes.append(f"default: {option.shown_default}")
    if option.short and option.short != option.full and not brief:
        notes.append(f"in YAML: {option.key}" if "." in option.key else f"also {option.full}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _place(option: Option) -> str:
    name = f"{option.metavar} …" if option.many else option.metavar
    return name if option.default is REQUIRED else f"[{name}]"


def _required(options: Sequence[Option]) -> list[str]:
    return [
        f"{option.flag} {option.metavar}"
        for option in options
        if option.default is REQUIRED and not option.positional
    ]


def _section(option: Option) -> str:
    section, dot, _ = option.key.partition(".")
    return section if section in SECTIONS and dot and not option.family else ""


def _order(option: Option, first: Sequence[str]) -> int:
    """Return the sort key within a section: required options, the most used ones, the others, `--json`."""
    if option.key == "json":
        return len(first) + 1
    if option.default is REQUIRED:
        return -1
    return first.index(option.key) if option.key in first else len(first)
