"""The documentation site: every public name is on a page, every page is in the menu, dead links are found."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

import t3d
import t3d.models

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def documented(package: str) -> set[str]:
    """The names that the pages of the reference take from a package."""
    names = set()
    for path in DOCS.glob("reference/api*.md"):
        module = ""
        for kind, name in re.findall(
            r"^\.\. (\w+):: ([\w.]+)$", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            module = name if kind == "currentmodule" else module
            if kind.startswith("auto") and module == package:
                names.add(name)
    return names


def test_every_public_name_is_on_a_page() -> None:
    assert set(t3d.__all__) - documented("t3d") == set()
    both = set(t3d.__all__)  # names of both packages are documented once
    assert set(t3d.models.__all__) - documented("t3d.models") - both == set()


def test_every_page_is_in_the_menu() -> None:
    """Sphinx checks this, too, but not in `make test`."""
    entries = re.findall(r"^([\w*/-]+)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = {path for entry in entries for ending in (".md", ".ipynb") for path in DOCS.glob(entry + ending)}
    pages = {path for ending in ("md", "ipynb") for path in DOCS.rglob(f"*.{ending}")}
    assert pages - listed == {DOCS / "README.md", DOCS / "index.md"}


def check(site: Path) -> list[str]:
    return runpy.run_path(str(DOCS / "check_site.py"))["problems"](site)


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ('<a href="other.html#here">', None),
        ('<a href="https://example.org/x#y">', None),
        ('<a href="#top">', None),
        ('<a href="gone.html">', "index.html: gone.html leads nowhere"),
        ('<a href="other.html#gone">', "index.html: other.html#gone: the page has no such anchor"),
        ('<img src="gone.png">', "index.html: gone.png leads nowhere"),
    ],
)
def test_dead_links_are_found(tmp_path: Path, link: str, problem: str | None) -> None:
    (tmp_path / "index.html").write_text(f'<h1 id="top"></h1><a href="other.html"></a>{link}')
    (tmp_path / "other.html").write_text('<h2 id="here"></h2>')
    assert check(tmp_path) == ([problem] if problem else [])


def test_a_page_without_a_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("")
    (tmp_path / "alone.html").write_text('<a href="index.html"></a>')
    assert check(tmp_path) == ["alone.html: no link leads to this page"]


@pytest.mark.parametrize("path", sorted(DOCS.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(path: Path) -> None:
    """GitHub and the site show them. Nothing in them is from the machine that executed it."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(outputs) > 3
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    assert not re.search(r"/tmp/|/home/|/root/|Warning", json.dumps(texts))
    assert str(ROOT) not in json.dumps(texts)
    assert path.stat().st_size < 200_000


@pytest.mark.long
def test_a_notebook_that_fails_is_an_error(tmp_path: Path) -> None:
    execute = runpy.run_path(str(DOCS / "notebooks" / "execute.py"))["execute"]
    for code in ("print(1)", "1 / 0"):
        path = tmp_path / "notebook.ipynb"
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, path)
        if code == "print(1)":
            assert execute(path).cells[0].outputs[0].text == "1\n"
        else:
            with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
                execute(path)
