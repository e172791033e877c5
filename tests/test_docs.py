"""README and docs: links lead somewhere, images exist, commands parse, Python compiles, pages are current."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest

from t3d.cli.main import COMMANDS, all_options, load
from t3d.cli.options import spelling_of
from t3d.cli.parser import UsageError, parse, read_words
from t3d.cli.reference import page

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w*|\{eval-rst\})\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    return [
        Block(path, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for path in PAGES
        for text in [path.read_text(encoding="utf-8")]
        for match in FENCE.finditer(text)
        if match[1] == language
    ]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


def commands(text: str) -> Iterator[list[str]]:
    """The words after `t3d` of each command line."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        if "t3d" in words and words[0] not in ("pip", "ray"):
            yield words[words.index("t3d") + 1 :]


def check(words: list[str]) -> None:
    """Read a command line as `t3d` does, without running it.

    Raises:
        UsageError: It would be refused.
    """
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name not in COMMANDS:
        raise UsageError(f"no command {name!r}")
    command = load(name)
    options = all_options(name, command)
    given = read_words(words[len(name.split()) :], options, lambda _: ())
    files = ("recipe", "config", "print_config", "resume")
    parse(options, [each for each in given if not (spelling_of(command).yaml and each.key in files)])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    wrong = []
    for target in LINK.findall(prose(path)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        other = (path.parent / name).resolve() if name else path
        if not other.exists() or (anchor and anchor not in anchors(other)):
            wrong.append(target)
    assert wrong == []


def test_every_page_is_linked() -> None:
    linked = {
        (path.parent / target.partition("#")[0]).resolve()
        for path in PAGES
        for target in LINK.findall(prose(path))
    }
    pages = [path for path in PAGES[1:] if not path.read_text(encoding="utf-8").startswith(":::{include}")]
    files = [*pages, *(ROOT / "docs" / "images").iterdir()]  # pages that only include another are in the menu
    assert [path for path in files if path not in linked] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_have_a_head(path: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", prose(path) + "\n", re.MULTILINE)
    columns = [[line.replace("\\|", "").count("|") for line in table.splitlines()] for table in tables]
    assert all(re.fullmatch(r"[|\-: ]+", table.splitlines()[1]) for table in tables)
    assert [counts for counts in columns if len(set(counts)) > 1] == []


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: f"{block.page.name}:{block.line}")
def test_commands_parse(block: Block) -> None:
    for words in commands(block.text):
        check(words)


def test_wrong_commands_are_found() -> None:
    lines = list(commands("slow t3d train --epoks 3\nt3d test \\\n  runs\nt3d tran\nt3d train --epochs many"))
    assert lines[1] == ["test", "runs"]
    for words in lines:
        with pytest.raises(UsageError):
            check(words)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"{block.page.name}:{block.line}")
def test_python_compiles(block: Block) -> None:
    compile(block.text, f"{block.page}:{block.line}", "exec")


def test_the_pages_have_blocks_of_known_languages() -> None:
    languages = {match[1] for path in PAGES for match in FENCE.finditer(path.read_text(encoding="utf-8"))}
    assert languages <= {
        "sh",
        "python",
        "text",
        "json",
        "yaml",
        "{eval-rst}",
    }  # one without a language is not checked
    assert len(blocks("sh")) > 40
    assert len(blocks("python")) > 5


def test_the_page_of_footage_is_current() -> None:
    """`make docs` writes it, from marks of tests."""
    written = (ROOT / "docs" / "reference" / "footage.md").read_text(encoding="utf-8")
    assert written == runpy.run_path(str(ROOT / "tests" / "footage_page.py"))["page"]()
    assert written.count("::test_") > 40


def test_the_page_of_options_is_current() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs" / "reference" / "options.md").read_text(encoding="utf-8") == page()
