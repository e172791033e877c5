"""The page of a comparison."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.evaluation.comparison import Compared, Comparison, Cost
from t3d.evaluation.config import CompareConfig
from t3d.evaluation.difference import Difference
from t3d.evaluation.figures import Interval
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.report.comparison_page import write_comparison


@pytest.fixture
def config(tmp_path: Path) -> CompareConfig:
    models = []
    for name in ("one", "<two> $x$"):
        path = tmp_path / name / "best.safetensors"
        path.parent.mkdir()
        card = ModelCard("t3d_tiny", classes=("a", "b"), clip=ClipSpec(num_frames=4, size=32, resize=32))
        save_model(create_model("t3d_tiny", num_classes=2), path, card=card)
        models.append(str(path))
    return CompareConfig(tuple(models), videos=str(tmp_path))


def comparison(config: CompareConfig) -> Comparison:
    paired = Difference(-12.5, 3.25, 1, 6, 0.125)
    one, two = config.models
    rows = (
        Compared(one, 30, 0.75, Interval(0.6, 0.86), Cost(4.5, 1.25, 20.0, 2.0), None),
        Compared(two, 25, 0.625, Interval(0.47, 0.76), Cost(1.5, 0.25, 2.0, 2.0), paired),
    )
    return Comparison(rows, 40, 0, 2, "cpu", notes=("<note>",))


def test_the_page_has_accuracy_differences_and_cost(tmp_path: Path, config: CompareConfig) -> None:
    path = write_comparison(
        comparison(config), tmp_path / "out" / "page.html", config, command="t3d compare <x>"
    )
    text = path.read_text(encoding="utf-8")
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    name = "&lt;two&gt; $x$/best.safetensors"
    for expected in (
        "75.0% (30 right; 95% interval 60–86%)",
        f"{name} -12.5 3.2 1 6 0.12 may be chance",
        f"{name} 1.5 0.25 2.0 2.0 4.0",
        "milliseconds per video",
        "&lt;note&gt;",
        "t3d compare &lt;x&gt;",
        "2 thread(s)",
    ):
        assert expected in words, expected
    assert not re.search(r"<script|<link|<img|<note>|<two>", text)


def test_another_ending_is_refused_before_a_test(
    config: CompareConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *config.models, "--videos", "nowhere", "--out", "page.pdf"]) == 2
    assert "--out is page.pdf; the comparison is written as a page, so it must" in capsys.readouterr().err
