from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError
from t3d.evaluation.comparison import compare
from t3d.evaluation.config import CompareConfig, TestConfig
from t3d.evaluation.difference import difference
from t3d.evaluation.run_test import run_test
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video

CLASSES = ("dark", "light")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos of two classes; a model that always answers `light`, and one with random weights."""
    root = tmp_path_factory.mktemp("compare")
    generator = torch.Generator().manual_seed(0)
    for number in range(6):
        name = CLASSES[number % 2]
        path = root / "set" / name / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = torch.randint(0, 100, (10, 3, 32, 32), generator=generator) + 100 * (number % 2)
        write_video(path, frames.to(torch.uint8))
    save(root / "light.safetensors", frames=4, bias=(0.0, 50.0))
    save(root / "random.safetensors", frames=8, bias=(0.0, 0.0))
    return root


def save(path: Path, *, frames: int, bias: tuple[float, float]) -> None:
    torch.manual_seed(1)
    net = create_model("t3d_tiny", num_classes=2)
    with torch.no_grad():
        net.get_classifier().bias += torch.tensor(bias)
    spec = ClipSpec(num_frames=frames, stride=1, size=32, resize=32)
    save_model(net, path, card=ModelCard("t3d_tiny", classes=CLASSES, clip=spec))


def asked(site: Path, *names: str) -> CompareConfig:
    models = tuple(str(site / f"{name}.safetensors") for name in names)
    return CompareConfig(models, videos=str(site / "set"), compute=Compute(precision="fp32", workers=0))


def test_the_accuracies_are_those_of_the_tests(site: Path) -> None:
    config = asked(site, "light", "random")
    result = compare(config)
    for row in result.rows:
        alone = run_test(TestConfig(row.model, config.videos, compute=config.compute)).single
        assert (row.correct, row.accuracy, row.interval) == (alone.correct, alone.video_top1, alone.interval)
    first, second = result.rows
    assert first.accuracy == 0.5
    assert first.difference is None
    assert second.difference is not None
    assert second.difference.points == pytest.approx(100 * (second.accuracy - first.accuracy))
    assert result.videos == 6


def test_the_cost_counts_clips_and_work(site: Path) -> None:
    four, eight = (row.cost for row in compare(asked(site, "light", "random")).rows)
    assert (four.clips_per_video, eight.clips_per_video) == (2, 1)  # 10 frames, the rest is dropped
    assert four.megabytes == eight.megabytes
    assert 1.5 < eight.gmac / four.gmac < 2.5
    assert four.ms_per_video == 2 * four.ms_per_clip > 0


def test_a_difference_is_paired() -> None:
    generator = np.random.default_rng(0)
    mine, theirs = generator.random(40) < 0.7, generator.random(40) < 0.5
    groups = [str(number // 2) for number in range(40)]
    result = difference(mine, theirs, groups)
    assert result.points == pytest.approx(100 * (mine.mean() - theirs.mean()))
    # McNemar: the split of the videos on which the models differ, against a fair coin
    few, many = sorted((result.only_this, result.only_first))
    assert result.p == pytest.approx(min(1.0, 2 * binom.cdf(few, few + many, 0.5)))
    # the error is that of a mean over groups of equal size
    means = (mine.astype(float) - theirs).reshape(20, 2).mean(1)
    assert result.standard_error == pytest.approx(100 * means.std(ddof=1) / np.sqrt(20))


def test_a_difference_without_information_is_not_clear() -> None:
    same = np.array([True, False, True])
    result = difference(same, same)
    assert (result.points, result.p, result.standard_error, result.clear) == (0, 1, 0, False)
    assert difference(same, ~same, ["a", "a", "a"]).standard_error is None


def test_a_clear_difference() -> None:
    right = np.ones(30, dtype=bool)
    assert difference(right, np.arange(30) < 15).clear
    assert not difference(right, np.arange(30) < 28).clear


def test_command(site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["compare", "light.safetensors", "random.safetensors", "--videos", "set", "--workers", "0"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "50.0%" in shown
    assert "Most accurate: " in shown
    assert "Not clearly different from light.safetensors on these videos: random.safetensors." in shown
    assert main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["model"] for row in rows] == ["light.safetensors", "random.safetensors"]
    for cost in (row["cost"] for row in rows):
        assert cost["ms_per_video"] == cost["ms_per_clip"] * cost["clips_per_video"] > 0


def test_videos_that_cannot_be_read_count_for_no_model(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "list.csv"
    (tmp_path / "broken.mp4").write_text("no video")
    good = sorted((site / "set").rglob("*.mp4"))
    rows = [f"{path},{path.parent.name}" for path in (*good, tmp_path / "broken.mp4")]
    rows[-1] = rows[-1].rpartition(",")[0] + ",dark"
    table.write_text("\n".join(["path,label", *rows]))
    assert main(["compare", *models(site), "--videos", str(table), "--workers", "0", "--max-bad", "0.5"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("(left out)")]
    assert len(lines) == 1
    assert "broken.mp4: " in lines[0]


def test_videos_of_the_training_are_reported_for_each_model(site: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(site / "light.safetensors", run)
    (run / "config.yaml").touch()
    Manifest.from_folder(site / "set").select([0, 1]).write_csv(run / "train.csv")
    model = str(run / "light.safetensors")
    config = replace(asked(site, "light", "random"), models=(models(site)[1], model))
    (note,) = compare(config).notes
    assert note.startswith(f"{model}: 2 of 6 test videos are also in the training list")
    assert "Without them: 75.0% (3 of 4 videos" in note


def models(site: Path) -> list[str]:
    return [str(site / "light.safetensors"), str(site / "random.safetensors")]


def test_refused(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        asked(site, "light")
    with pytest.raises(ConfigError, match="given twice"):
        asked(site, "light", "light")
    several = tmp_path / "several.safetensors"
    net = create_model("t3d_tiny", num_classes=2)
    spec = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
    save_model(net, several, card=ModelCard("t3d_tiny", classes=CLASSES, clip=spec, targets="multi"))
    config = CompareConfig((models(site)[0], str(several)), videos=str(site / "missing"))
    with pytest.raises(CheckpointError, match="several labels"):  # before any model is tested
        compare(config)
