"""`t3d calibrate`: the written model has the scores of the first, divided by the best temperature."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec, Targets
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError
from t3d.evaluation.calibration import calibration
from t3d.evaluation.predictor import Predictor
from t3d.fusion.calibrate import CalibrationResult, divided, run_calibrate
from t3d.fusion.config import CalibrateConfig, FuseConfig
from t3d.fusion.run import run_fuse
from t3d.models.registry import create_model
from t3d.models.weights import load_model, save_model
from t3d.models.weights_header import read_card
from t3d.video.encode import write_video

CLASSES = ("dark", "light")
CLIP = ClipSpec(num_frames=4, stride=1, size=32, resize=32)
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list with eight videos, from dark to light; two of them have the label of the other class."""
    root = tmp_path_factory.mktemp("videos")
    rows = ["path,label,source"]
    for number in range(8):
        label = CLASSES[(number >= 4) != (number in (1, 6))]
        write_video(root / f"{number}.mp4", torch.full((9, 3, 32, 40), 30 * number + 10, dtype=torch.uint8))
        rows.append(f"{number}.mp4,{label},{number}")
    (root / "list.csv").write_text("\n".join(rows))
    return root / "list.csv"


def save(path: Path, *, scale: float = 1.0, targets: Targets = "single", seed: int = 0) -> str:
    torch.manual_seed(seed)
    net = create_model("densenet3d_tiny", num_classes=2, options=SMALL)
    torch.nn.init.normal_(net.get_classifier().get_parameter("weight"), std=scale)
    card = ModelCard("densenet3d_tiny", SMALL, classes=CLASSES, clip=CLIP, targets=targets)
    save_model(net, path, card=card)
    return str(path)


def overconfident(model: str, videos: Path) -> str:
    """Let a model tell light from dark, with probabilities that are too high."""
    predictor = Predictor(model)
    dark, light = (predictor.embed(videos.parent / f"{number}.mp4") for number in (3, 4))
    net, card = load_model(model)
    assert card is not None
    weight = torch.stack([dark - light, light - dark]) / (light - dark).square().sum()
    net.get_classifier().load_state_dict({"weight": weight, "bias": -weight @ (dark + light) / 2})
    save_model(net, model, card=card)
    return model


def test_the_model_gets_the_temperature_that_fits(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = overconfident(save(tmp_path / "net.safetensors"), videos)
    out = tmp_path / "calibrated.safetensors"
    words = ["calibrate", model, "--videos", str(videos), "--out", str(out), "--workers", "0"]
    assert main([*words, "--precision", "fp32", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    net, _ = load_model(model)
    calibrated, card = load_model(out)
    x = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(calibrated(x) * result["temperature"], net(x), rtol=1e-4, atol=1e-4)
    assert card is not None
    assert card.provenance == {"temperature": result["temperature"], "calibrated_on": str(videos)}
    assert result["temperature"] > 1
    # Another calibration finds nothing left to do.
    plain = Compute(precision="fp32", workers=0)
    once_more = str(tmp_path / "again.safetensors")
    again = run_calibrate(CalibrateConfig(str(out), videos=str(videos), out=once_more, compute=plain))
    assert again.temperature == pytest.approx(1, abs=0.02)
    assert again.loss_before < result["loss_before"]
    assert main(words) == 2
    assert "calibrated.safetensors already exists; choose another --out, or" in capsys.readouterr().err


def test_the_result_in_words() -> None:
    result = CalibrationResult(2.0, 90, 1.5, 1.25, 0.3, 0.1, "b.safetensors", ("A note.",))
    assert result.sentences() == [
        "Temperature 2.00: the model was too confident. On 90 videos, cross-validated over groups, the "
        "expected calibration error is 10.0 points (before: 30.0), and the NLL 1.250 (before: 1.500).",
        "model: b.safetensors",
        "A note.",
    ]
    worse = CalibrationResult(0.5, 90, 1.5, 1.75, 0.1, 0.3, "b.safetensors")
    assert "too cautious" in worse.sentences()[0]
    assert "Calibration does not pay on these videos." in worse.sentences()


def test_dividing_keeps_the_order_of_classes() -> None:
    torch.manual_seed(1)
    net = create_model("densenet3d_tiny", num_classes=5, options=SMALL).eval()
    x = torch.randn(3, 3, 4, 32, 32)
    before = net(x)
    after = divided(net, 3.0)(x)
    torch.testing.assert_close(after, before / 3)


def test_models_that_cannot_be_calibrated(videos: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out.safetensors")
    several = save(tmp_path / "several.safetensors", targets="multi")
    with pytest.raises(CheckpointError, match="several labels per video; only models with one label"):
        run_calibrate(CalibrateConfig(several, videos=str(videos), out=out))
    members = tuple(save(tmp_path / f"{name}.safetensors", seed=seed) for seed, name in enumerate("ab"))
    run_fuse(FuseConfig(members, videos=str(videos), out=str(tmp_path / "fused")))
    with pytest.raises(ConfigError, match="is a fused model, which is calibrated already"):
        run_calibrate(CalibrateConfig(str(tmp_path / "fused"), videos=str(videos), out=out))
    with pytest.raises(CheckpointError, match="is an exported file, which cannot be changed"):
        run_calibrate(CalibrateConfig(str(tmp_path / "net.xml"), videos=str(videos), out=out))
    with pytest.raises(ConfigError, match=r"out is runs/a; a weights file must end in \.safetensors"):
        CalibrateConfig(members[0], videos=str(videos), out="runs/a")
    assert not Path(out).exists()


def test_videos_of_the_training_are_reported(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    model = save(run / "last.safetensors")
    (run / "config.yaml").touch()
    (run / "train.csv").write_text(f"path,label\n{videos.parent / '3.mp4'},dark\n")
    result = run_calibrate(CalibrateConfig(model, videos=str(videos), out=str(run / "out.safetensors")))
    assert [note for note in result.notes if "1 of 8 validation videos is also in the training list" in note]
    assert read_card(run / "out.safetensors") is not None


def test_figures_are_those_of_counting() -> None:
    probs = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    assert calibration(probs, np.array([0, 1, 1])).error == pytest.approx((0.2 + 0.4 + 0.9) / 3)
