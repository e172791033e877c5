"""T3D writes plain American English: `language.toml` lists words to avoid, each with the plain word.

`python tests/test_language.py src/t3d/io` prints all findings below a path.
"""

from __future__ import annotations

import ast
import io
import json
import re
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from t3d.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
RULES = tomllib.loads(Path(__file__).with_name("language.toml").read_text(encoding="utf-8"))["rule"]
MOST_WORDS = 35
OPENINGS = ("Of", "For", "What", "Instead", "That", "Which", "Who", "Where", "Whether", "How", "As", "If")
"""Words that neither the help of an option nor a docstring starts with."""

VAGUE_NAMES = {"how", "said", "told", "found", "here"}
"""Names that do not describe the value of a variable."""


class Passage(NamedTuple):
    """A run of text from one place.

    Args:
        file: Path below the root of the project.
        line: Line of its first character.
        text: The text, with its line ends.
        kind: `prose` (of a document), `docstring`, `comment`, `message` or `name`.
    """

    file: str
    line: int
    text: str
    kind: str


class Finding(NamedTuple):
    """Words that break a rule."""

    file: str
    line: int
    words: str
    instead: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.words.split())!r}: {self.instead}"


def _pattern(rule: dict[str, object]) -> re.Pattern[str]:
    # Look-behinds have a fixed width, so a space in them is one character.
    parts = re.split(r"(\(\?<!.*?\))", str(rule["find"]))
    spaced = [part.replace(" ", r"\s" if part.startswith("(?<!") else r"\s+") for part in parts]
    return re.compile("".join(spaced), 0 if rule.get("case") else re.IGNORECASE)


PATTERNS = [(_pattern(rule), str(rule["write"]), bool(rule.get("names"))) for rule in RULES]


def files(paths: tuple[str, ...] = ("",)) -> list[Path]:
    """Return the files whose language is checked, those below `paths` only."""
    patterns = ("*.md", "docs/**/*.md", "Makefile", "pyproject.toml", ".ci/*", "src/**/*.py", "src/**/*.yaml")
    patterns += ("src/**/*.html", "tests/**/*.py", "benchmarks/**/*.py", "scripts/**/*.py")
    patterns += ("docs/*.py", "docs/notebooks/*")
    every = {file for pattern in patterns for file in ROOT.glob(pattern) if file.is_file()}
    return sorted(file for file in every if _within(file.relative_to(ROOT).as_posix(), paths))


def _within(name: str, paths: tuple[str, ...]) -> bool:
    return any(path == "" or name == path or name.startswith(f"{path.rstrip('/')}/") for path in paths)


def passages(file: Path) -> Iterator[Passage]:
    """Return every text of a file that people read."""
    name = file.relative_to(ROOT).as_posix()
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        yield from _of_python(name, text)
    elif file.suffix == ".md":
        yield from _of_markdown(name, text)
    elif file.suffix == ".ipynb":
        prose = [
            "".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"
        ]
        yield from _of_markdown(name, "\n\n".join(prose))
    elif file.suffix == ".html":
        yield Passage(name, 1, re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", _blank, text, flags=re.S), "message")
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line:
                yield Passage(name, number, line.partition("#")[2].strip(), "comment")


def _blank(match: re.Match[str]) -> str:
    return " " + "\n" * match[0].count("\n")


def _of_markdown(name: str, text: str) -> Iterator[Passage]:
    text = re.sub(r"^(\s*)```.*?^\s*```", _blank, text, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "`…`", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for block in re.finditer(r"(?:.*\S.*\n?)+", text):
        line = text.count("\n", 0, block.start()) + 1
        # Every row of a table and every item of a list is a separate text.
        start = 0
        for end in [*re.finditer(r"\n(?=\s*(?:[-*|#]|\d+\. ))", block[0]), None]:
            part = block[0][start : end.end() if end else None]
            yield Passage(name, line + block[0].count("\n", 0, start), part, "prose")
            start = end.end() if end else 0


def _of_python(name: str, text: str) -> Iterator[Passage]:
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                value = statement.value
                if isinstance(value.value, str):
                    docstrings.add(value)
                    yield Passage(name, value.lineno, value.value, "docstring")
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield Passage(name, node.lineno, node.id, "name")
        elif isinstance(node, ast.arg):
            yield Passage(name, node.lineno, node.arg, "name")
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield Passage(name, node.lineno, node.name, "name")
            if node.name.startswith("test_"):
                yield Passage(name, node.lineno, node.name[5:].replace("_", " "), "comment")
    if name.startswith(("src/", "benchmarks/")):
        inside = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if node not in docstrings and node not in inside and " " in node.value.strip():
                    yield Passage(name, node.lineno, node.value, "message")
            elif isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                yield Passage(name, node.lineno, "".join(parts), "message")
    yield from _comments(name, text)


def _comments(name: str, text: str) -> Iterator[Passage]:
    """Comments on lines that follow each other are one text."""
    lines: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("# type:", "# noqa", "#!")):
            continue
        if lines and token.start[0] == last + 1:
            lines.append(token.string)
        else:
            if lines:
                yield Passage(name, first, "\n".join(lines), "comment")
            lines, first = [token.string], token.start[0]
        last = token.start[0]
    if lines:
        yield Passage(name, first, "\n".join(lines), "comment")


def _sentences(passage: Passage) -> Iterator[tuple[int, str]]:
    """The sentences of a text, with their lines. An entry of `Args:` or of a list starts a new sentence."""
    text = re.sub(r"`[^`\n]*`|``[^`]*``", "x", passage.text)
    if passage.kind == "docstring":
        text = re.sub(r"^ *(>>>|\.\.\.).*(\n(?! *\n).*)*", _blank, text, flags=re.M)
    cut = r"\n\s*\n|\n\s*(?=[-*|] |\d+\. )|\|" + (
        r"|\n\s*(?=\*{0,2}\w+: )" if passage.kind == "docstring" else ""
    )
    start = 0
    for end in [*re.finditer(rf"{cut}|(?<=[.!?:;])[\"”')*_]*\s+(?=[A-Z\"“`x(\[])", text), None]:
        sentence = text[start : end.start() if end else len(text)]
        yield passage.line + text.count("\n", 0, start), sentence
        start = end.end() if end else len(text)


def findings(passage: Passage) -> Iterator[Finding]:
    """Return the words of a text that break a rule."""

    def finding(words: str, instead: str, offset: int = 0) -> Finding:
        return Finding(passage.file, passage.line + passage.text.count("\n", 0, offset), words, instead)

    text = re.sub(r"(?m)^#:?", lambda sign: " " * len(sign[0]), passage.text)
    for pattern, instead, names in PATTERNS:
        if passage.kind != "name" or names:
            for match in pattern.finditer(text):
                yield finding(match[0], instead, match.start())
    if passage.kind == "name" and passage.text in VAGUE_NAMES:
        yield finding(passage.text, "a noun that describes the value")
    if passage.kind in ("docstring", "prose"):
        for line, sentence in _sentences(passage):
            count = len(re.findall(r"[A-Za-z][\w'’-]*", sentence))
            if count > MOST_WORDS:
                words = f"{' '.join(sentence.split()[:6])} …"
                yield Finding(passage.file, line, words, f"{count} words; at most {MOST_WORDS} in a sentence")
    if passage.kind == "docstring" and passage.file.startswith("src/"):
        first = passage.text.strip().split()[:1]
        if first and first[0] in OPENINGS:
            yield finding(
                " ".join(passage.text.split()[:4]), "start with an imperative or the name of the thing"
            )


@cache
def _all_findings(paths: tuple[str, ...]) -> list[Finding]:
    return sorted({each for file in files(paths) for text in passages(file) for each in findings(text)})


def _report(places: list[Finding]) -> str:
    return "\n".join([f"{len(places)} places are not plain American English:", *map(str, places)])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["write"][:20])
def test_a_rule_matches_its_example(rule: dict[str, str]) -> None:
    pattern = _pattern(rule)
    assert pattern.search(rule["bad"])
    assert pattern.search(rule["bad"].replace(" ", "\n"))
    assert not pattern.search(rule["good"])


def test_what_people_read_is_plain() -> None:
    bad = _all_findings(("",))
    assert not bad, _report(bad)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_plain(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    cli.main([*command.split(), "--help-all"])
    title = f"t3d {command} --help-all"
    bad = list(findings(Passage(title, 1, capsys.readouterr().out, "message")))
    for option in cli.all_options(command, cli.load(command)):
        place = f"{title}, {option.full}"
        bad += [each for each in findings(Passage(place, 1, option.help, "prose")) if each not in bad]
        first = option.help.split()[0]
        if first in OPENINGS or first == "See" or not (first[0].isupper() or first[0] in "`0123456789"):
            bad.append(Finding(place, 1, option.help[:40], "start with a noun phrase or an imperative"))
        if not option.help.endswith("."):
            bad.append(Finding(place, 1, option.help[-40:], "end with a period"))
    assert not bad, _report(bad)


@pytest.mark.parametrize("group", ["", *cli.GROUPS])
def test_the_lists_of_commands_are_plain(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([*group.split(), "--help"])
    bad = list(findings(Passage(f"t3d {group} --help", 1, capsys.readouterr().out, "message")))
    assert not bad, _report(bad)


def test_findings_name_the_place_and_the_plain_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    source = tmp_path / "src" / "module.py"
    source.parent.mkdir()
    long = " ".join(["word"] * (MOST_WORDS + 1))
    source.write_text(
        f'"""Which colour it is.\n\n{long.capitalize()}.\n"""\n\n'
        "# A comment that goes\n# on and lacks sense.\nhow = f'{1} a file of\\nits own'\n"
        "greyscale = len('a key is told')  # is `mend`ed\n"
        "def test_a_key_is_told(): pass\n"
    )
    document = tmp_path / "page.md"
    document.write_text(f"It is\nmended.\n\n```sh\nlacks this\n```\n\n- {long}.\n- `lacks`\n")
    shown = [str(each) for file in files() for text in passages(file) for each in findings(text)]
    assert sorted(line.partition(": ")[0] + ": " + line.split("'")[1] for line in shown) == [
        "page.md:2: mended",
        f"page.md:8: - {'word ' * 5}…",
        "src/module.py:10: is told",
        "src/module.py:1: Which colour it is.",
        "src/module.py:1: colour",
        f"src/module.py:3: {long.capitalize()[:29]} …",
        "src/module.py:6: goes on",
        "src/module.py:7: lacks",
        "src/module.py:8: how",
        "src/module.py:8: of its own",
        "src/module.py:9: greyscale",
        "src/module.py:9: is told",
        "src/module.py:9: mend",
    ]
    assert shown[0] == "page.md:2: 'mended': fix / repair"


if __name__ == "__main__":
    shown = _all_findings(tuple(sys.argv[1:]) or ("",))
    print(*shown, sep="\n")
    folders = Counter("/".join(each.file.split("/")[:3]) for each in shown)
    print(*(f"{count:5} {folder}" for folder, count in sorted(folders.items())), sep="\n")
