"""Whether the order of frames matters, video by video."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.views import FrameOrder
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, Failed, ManifestError
from t3d.evaluation.config import TestConfig
from t3d.evaluation.difference import difference
from t3d.evaluation.frame_orders import check_orders, compare_orders, frame_order_study
from t3d.evaluation.run_test import TestResult, run_test
from t3d.evaluation.scores import Scores
from t3d.evaluation.task import measure
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video


def outcome(right: list[bool | None]) -> TestResult:
    """A test of two classes; None could not be read."""
    probs = np.array([[np.nan] * 2 if each is None else [0.9, 0.1] if each else [0.1, 0.9] for each in right])
    bad = tuple(Failed("x", "is empty", row) for row, each in enumerate(right) if each is None)
    labels = np.zeros(len(right), np.int64)
    known = np.flatnonzero(np.isfinite(probs[:, 0]))
    scores = Scores(("a", "b"), probs[known], known, probs, labels, ("x",) * len(right), bad)
    return TestResult(measure(scores), scores)


def test_the_difference_is_paired_over_the_videos_that_every_order_has() -> None:
    normal = outcome([True] * 9 + [False, None, True])
    shuffled = outcome([False] * 6 + [True] * 3 + [False, True, None])
    study = compare_orders(normal, {"shuffled": shuffled})
    first, second = study.rows
    assert study.videos == 10
    assert (first.order, first.correct, first.difference) == ("normal", 9, None)
    assert (second.order, second.correct, second.accuracy) == ("shuffled", 3, 0.3)
    mine, theirs = np.arange(10) >= 6, np.arange(10) < 9
    mine[9] = False
    assert second.difference == difference(mine, theirs)
    assert study.sentences() == [
        "With shuffled frames the accuracy falls from 90% to 30%: the model uses the order of the frames."
    ]
    assert study.to_json()["frame_orders"]["shuffled"]["correct"] == 3


@pytest.mark.parametrize(
    ("order", "right", "expected"),
    [
        ("static", 20, "one frame repeated (static) the accuracy stays at 100%: these videos do not show"),
        ("reversed", 19, "reversed frames the accuracy goes from 100% to 95%, which may be chance (p 1)"),
        ("reversed", 2, "falls from 100% to 10%: the model uses the direction of time."),
        ("static", 2, "falls from 100% to 10%: the model uses more than single frames."),
    ],
)
def test_sentences_claim_only_what_is_clear(order: FrameOrder, right: int, expected: str) -> None:
    other = outcome([number < right for number in range(20)])
    assert expected in compare_orders(outcome([True] * 20), {order: other}).sentences()[0]


def test_a_rise_is_not_called_a_fall() -> None:
    study = compare_orders(outcome([False] * 18 + [True] * 2), {"static": outcome([True] * 20)})
    assert "rises from 10% to 100%" in study.sentences()[0]


def test_without_a_video_that_every_order_read_there_is_an_error() -> None:
    with pytest.raises(ManifestError, match="set: no video could be read in every order"):
        compare_orders(outcome([True, None]), {"static": outcome([None, True])}, name="set")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, and four videos of noise."""
    root = tmp_path_factory.mktemp("orders")
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        path = root / "set" / "ab"[number % 2] / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = torch.randint(0, 256, (8, 3, 32, 32), generator=generator)
        write_video(path, frames.to(torch.uint8))
    torch.manual_seed(0)
    for name, targets in (("one", "single"), ("several", "multi")):
        spec = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
        card = ModelCard("t3d_tiny", classes=("a", "b"), clip=spec, targets=targets)
        save_model(create_model("t3d_tiny", num_classes=2), root / f"{name}.safetensors", card=card)
    return root


def config(site: Path, name: str = "one") -> TestConfig:
    compute = Compute(precision="fp32", workers=0)
    return TestConfig(str(site / f"{name}.safetensors"), str(site / "set"), compute=compute)


def test_the_accuracies_are_those_of_the_tests(site: Path) -> None:
    asked = config(site)
    study = frame_order_study(asked, run_test(asked), ("static", "shuffled"))
    assert [row.order for row in study.rows] == ["normal", "shuffled", "static"]
    for row in study.rows:
        alone = run_test(replace(asked, frame_order=row.order)).single
        assert (row.correct, row.interval) == (alone.correct, alone.interval)


def test_what_cannot_be_compared_is_refused_before_a_test(site: Path) -> None:
    with pytest.raises(ConfigError, match="frame_orders is 'sorted'"):
        check_orders(config(site), ("sorted",))
    with pytest.raises(ConfigError, match="frame_order is static; `frame_orders` compares"):
        check_orders(replace(config(site), frame_order="static"), ("shuffled",))
    with pytest.raises(CheckpointError, match="several labels per video; `frame_orders` counts"):
        check_orders(config(site, "several"), ("shuffled",))


def test_command(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = config(site)
    words = ["test", asked.model, asked.videos, "--workers", "0", "--out", str(tmp_path / "out")]
    assert main([*words, "--frame-orders", "static", "shuffled"]) == 0
    assert "With shuffled frames the accuracy" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics["frame_orders"]) == {"videos", "normal", "shuffled", "static"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Does the order of the frames matter?" in page
    assert main([*words, "--frame-orders", "sorted"]) == 2
    assert "--frame-orders is 'sorted'" in capsys.readouterr().err
