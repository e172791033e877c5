"""T3D writes plain American English: `language.toml` lists the words to avoid, and what to write instead.

Run as a program, this file prints the findings below some paths: `python tests/test_language.py src/t3d/io`.
"""

from __future__ import annotations

import ast
import io
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

ROOT = Path(__file__).resolve().parents[1]
RULES = tomllib.loads(Path(__file__).with_name("language.toml").read_text(encoding="utf-8"))["rule"]
MOST_WORDS = 35
TO_DO = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "src", "tests", "benchmarks")
"""Files and folders whose language is not plain yet."""

OPENINGS = ("Of", "For", "What", "Instead", "That", "Which", "Who", "Where", "Whether", "How", "As", "If")
"""Words that the help of an option and the first line of a docstring do not start with."""

VAGUE_NAMES = {"how", "said", "told", "found", "here"}
"""Names that do not say what a variable holds."""


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
    elif file.suffix == ".html":
        yield Passage(name, 1, re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", _blank, text, flags=re.S), "message")
    else:
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line:
                yield Passage(name, number, line.partition("#")[2].strip(), "comment")


def _blank(match: re.Match[str]) -> str:
    return " " + "\n" * match[0].count("\n")


_MARKDOWN_PART = re.compile(
    r"(?:^\s*(?:[-*|#]|\d+\.).*\n?|.*\n?)(?:^(?!\s*(?:[-*|#]|\d+\. )).*\S.*\n?)*", re.MULTILINE
)


def _of_markdown(name: str, text: str) -> Iterator[Passage]:
    text = re.sub(r"^(\s*)```.*?^\s*```", _blank, text, flags=re.S | re.M)
    text = re.sub(r"`[^`\n]*`", "`…`", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    for block in re.finditer(r"(?:.*\S.*\n?)+", text):
        line = text.count("\n", 0, block.start()) + 1
        # Rows of a table and items of a list are texts of their own.
        for part in re.finditer(
            r"(?:^\s*(?:[-*|#]|\d+\.).*\n?|.*\n?)(?:^(?!\s*(?:[-*|#]|\d+\. )).*\S.*\n?)*", block[0], re.M
        ):
            if part[0].strip():
                yield Passage(name, line + block[0].count("\n", 0, part.start()), part[0], "prose")


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
    if name.startswith("src/"):
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
    """Return the sentences of a text with their lines. Entries of `Args:` and list items end a sentence."""
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
        yield finding(passage.text, "a noun of what the variable holds")
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
    every = (found for file in files(paths) for text in passages(file) for found in findings(text))
    return sorted(set(every))


def _report(found: list[Finding]) -> str:
    return "\n".join([f"{len(found)} places are not plain American English:", *map(str, found)])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["write"][:20])
def test_a_rule_matches_its_example(rule: dict[str, str]) -> None:
    pattern = _pattern(rule)
    assert pattern.search(rule["bad"])
    assert pattern.search(rule["bad"].replace(" ", "\n"))
    assert not pattern.search(rule["good"])


def test_what_people_read_is_plain() -> None:
    bad = [each for each in _all_findings(("",)) if not _within(each.file, TO_DO)]
    assert not bad, _report(bad)


if __name__ == "__main__":
    shown = _all_findings(tuple(sys.argv[1:]) or ("",))
    print(*shown, sep="\n")
    folders = Counter("/".join(each.file.split("/")[:3]) for each in shown)
    print(*(f"{count:5} {folder}" for folder, count in sorted(folders.items())), sep="\n")
