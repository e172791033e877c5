"""Metadata of the package: versions and steps that are in two places agree, and links of its page work."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def test_the_citation_has_the_version_and_license_of_the_package(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]


def test_the_page_of_the_index_has_no_links_into_the_repository(project: dict[str, Any]) -> None:
    text = (ROOT / project["readme"]).read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all(link.startswith("https://") for link in links), links
    extras = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert extras == set(project["optional-dependencies"]) - {"dev", "docs"}  # for work on T3D itself


def test_the_workflow_runs_the_steps_of_ci_on_every_python_version(project: dict[str, Any]) -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["steps"]
    versions = job["strategy"]["matrix"]["python"]
    classified = [c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c]
    assert versions == classified
    assert project["requires-python"] == f">={versions[0]}"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/steps"]
    for step in job["steps"]:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", "a/b@" + "0" * 40))
    assert 'exec bash "$(dirname "$0")/steps"' in (ROOT / ".ci" / "run").read_text()


def test_real_videos_are_required_by_ci_alone() -> None:
    assert "T3D_REQUIRE_REAL_DATA=1" in (ROOT / ".ci" / "run").read_text()
    assert "T3D_REQUIRE_REAL_DATA=1" not in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert 'echo "skipped: the training on real videos' in (ROOT / ".ci" / "steps").read_text()
