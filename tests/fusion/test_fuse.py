"""`t3d fuse`: the written model predicts the average of its members, and wrong models are refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec, Targets
from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError, ManifestError
from t3d.evaluation.predictor import Predictor
from t3d.fusion import scores as scores_module
from t3d.fusion.config import FuseConfig
from t3d.fusion.network import fused_model, load_members
from t3d.fusion.run import run_fuse
from t3d.models.registry import create_model
from t3d.models.weights import load_model, save_model
from t3d.video.encode import write_video

CLASSES = ("blue", "green", "red")
COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 60, 40)}
CLIP = ClipSpec(num_frames=4, stride=2, size=32, resize=36, tail="shift")
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`list.csv`: two smooth videos of 20 frames per class."""
    root = tmp_path_factory.mktemp("fuse")
    generator = torch.Generator().manual_seed(0)
    rows = [("path", "label")]
    for name, color in COLORS.items():
        for number in range(2):
            coarse = torch.randint(-60, 61, (20, 3, 5, 6), generator=generator).float()
            noise = torch.nn.functional.interpolate(coarse, (80, 96), mode="bilinear")
            frames = (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).byte()
            rows.append((write_video(root / f"{name}_{number}.mp4", frames).name, name))
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    def save(
        name: str,
        *,
        seed: int,
        clip: ClipSpec = CLIP,
        classes: tuple[str, ...] = CLASSES,
        targets: Targets = "single",
    ) -> str:
        torch.manual_seed(seed)
        net = create_model("densenet3d_tiny", num_classes=len(classes), options=SMALL)
        torch.nn.init.normal_(net.get_classifier().get_parameter("weight"), std=3.0)
        path = tmp_path / f"{name}.safetensors"
        card = ModelCard("densenet3d_tiny", SMALL, classes=classes, clip=clip, targets=targets)
        save_model(net, path, card=card)
        return str(path)

    return save


def probabilities(model: str, videos: Path) -> np.ndarray:
    """Return what `t3d predict` gives, in the order of `CLASSES`."""
    predictions = Predictor(model).many([videos / f"{name}_{i}.mp4" for name in CLASSES for i in (0, 1)])
    return np.array(
        [[dict(zip(p.classes, p.probs, strict=True))[name] for name in CLASSES] for p in predictions]
    )


def written(names: list[str], out: Path, weights: tuple[float, ...]) -> str:
    """Write the average with temperatures of 1."""
    net, card = fused_model(load_members(names, device=CPU), weights=weights, temperatures=[1.0] * len(names))
    save_model(net, out, card=card)
    return str(out)


def test_the_fused_model_predicts_the_average_of_its_members(
    videos: Path, saved: Callable[..., str], tmp_path: Path
) -> None:
    same = [saved("a", seed=0), saved("b", seed=1, classes=("red", "green", "blue"))]
    expected = 0.7 * probabilities(same[0], videos) + 0.3 * probabilities(same[1], videos)
    assert np.ptp(expected, axis=0).max() > 0.1
    model = written(same, tmp_path / "same.safetensors", (0.7, 0.3))
    np.testing.assert_allclose(probabilities(model, videos), expected, atol=1e-5)
    # Half of the frames, and a smaller picture: resized twice, so pixels differ a little.
    small = replace(CLIP, num_frames=2, stride=4, size=24, resize=27, mean=(0.5,) * 3, std=(0.5,) * 3)
    other = [same[0], saved("c", seed=2, clip=small)]
    expected = 0.7 * probabilities(other[0], videos) + 0.3 * probabilities(other[1], videos)
    model = written(other, tmp_path / "other.safetensors", (0.7, 0.3))
    np.testing.assert_allclose(probabilities(model, videos), expected, atol=0.02)


def test_the_command(
    videos: Path, saved: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [saved("a", seed=0), saved("b", seed=1)]
    out = str(tmp_path / "fused")
    command = ["fuse", *names, "--videos", str(videos / "list.csv"), "--device", "cpu", "--workers", "0"]
    assert main([*command, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert "The fused model" in printed or "Fusion does not pay" in printed
    assert f"model: {out}" in printed
    net, card = load_model(out)
    assert card.classes == CLASSES
    parts = net.options.members  # type: ignore[attr-defined]
    assert main([*command, "--out", out]) == 2  # there is a run already
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--out", out, "--overwrite", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in figures["members"]] == names
    assert [each["temperature"] for each in figures["members"] if each["weight"]] == [
        pytest.approx(part.temperature) for part in parts
    ]
    assert figures["videos"] == 6
    assert len(Manifest.from_csv(Path(out) / "train.csv")) == 6
    assert main(["test", out, str(videos / "list.csv"), "--device", "cpu", "--workers", "0", "--json"]) == 0
    tested = json.loads(capsys.readouterr().out)
    assert tested["shared"]["training"]["videos"] == 6
    probe = ["probe", str(videos / "list.csv"), "--model", out, "--out", str(tmp_path / "probe")]
    assert main([*probe, "--device", "cpu", "--workers", "0"]) == 0
    assert load_model(tmp_path / "probe")[1].options["head"] == "linear"
    capsys.readouterr()
    train = ["train", "--init", out, "--videos", str(videos / "list.csv"), "--out", str(tmp_path / "more")]
    assert main(train) == 2
    assert "a fused model, which cannot be trained" in capsys.readouterr().err


def test_models_that_cannot_be_fused(saved: Callable[..., str], tmp_path: Path) -> None:
    first = saved("a", seed=0)
    for other, error, message in [
        (saved("x", seed=1, classes=("blue", "red", "pink")), CheckpointError, "has 'pink', which the other"),
        (saved("y", seed=1, targets="multi"), CheckpointError, "several labels per video"),
        (
            saved("z", seed=1, clip=ClipSpec(fps=5, num_frames=4)),
            ConfigError,
            r"z.* cannot be fused: .*clip\.fps",
        ),
        (written([first], tmp_path / "f.safetensors", (1.0,)), ConfigError, "itself a fused model"),
    ]:
        with pytest.raises(error, match=message):
            load_members([first, other], device=CPU)


def test_a_video_that_cannot_be_read_is_left_out_and_the_exit_status_says_so(
    videos: Path, saved: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    rows = [f"{videos / name}_{number}.mp4,{name}" for name in CLASSES for number in (0, 1)]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,label", *rows, f"{tmp_path / 'broken.mp4'},red"]))
    command = ["fuse", saved("a", seed=0), saved("b", seed=1), "--videos", str(table), "--max-bad", "0.5"]
    words = [*command, "--out", str(tmp_path / "out"), "--device", "cpu", "--workers", "0", "--json"]
    assert main(words) == 1
    figures = json.loads(capsys.readouterr().out)
    assert (figures["videos"], figures["bad"]) == (6, 1)
    assert "broken.mp4" in figures["notes"][0]


def test_videos_of_one_group_are_refused_before_they_are_scored(
    videos: Path, saved: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "score_videos", pytest.fail)
    table = tmp_path / "one.csv"
    rows = [f"{videos / name}_{number}.mp4,{name},film" for name in CLASSES for number in (0, 1)]
    table.write_text("\n".join(["path,label,source", *rows]))
    config = FuseConfig(
        (saved("a", seed=0), saved("b", seed=1)), videos=str(table), out=str(tmp_path / "out")
    )
    with pytest.raises(ManifestError, match="of one group"):
        run_fuse(config)


def test_a_damaged_list_of_a_run_is_reported_before_videos_are_scored(
    videos: Path, saved: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_module, "score_videos", pytest.fail)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "train.csv").write_text("no such column")
    models = (saved("a", seed=0), saved("b", seed=1))
    config = FuseConfig(models, videos=str(videos / "list.csv"), out=str(tmp_path / "out"))
    with pytest.raises(ManifestError, match=r"train\.csv"):
        run_fuse(config)


def test_videos_that_a_member_has_seen(
    videos: Path, saved: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probe = ["probe", str(videos / "list.csv"), "--model", saved("a", seed=0), "--out", str(tmp_path / "run")]
    assert main([*probe, "--device", "cpu", "--workers", "0"]) == 0
    command = ["fuse", str(tmp_path / "run"), saved("b", seed=1), "--videos", str(videos / "list.csv")]
    assert main([*command, "--out", str(tmp_path / "fused"), "--device", "cpu", "--workers", "0"]) == 0
    assert "All 6 validation videos are also in the training list (6 same file)" in capsys.readouterr().out
    assert (tmp_path / "fused" / "val.csv").is_file()
