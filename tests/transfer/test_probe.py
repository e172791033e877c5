from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedGroupKFold

from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.sampling import clips_of
from t3d.data.clips.transforms import center_view, normalize, resize_frames
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import ConfigError, ManifestError
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import TestResult
from t3d.models.registry import create_model
from t3d.models.weights import ModelCard, save_model
from t3d.progress import progress
from t3d.transfer import probe
from t3d.transfer.probe import fit_linear, run_probe
from t3d.transfer.probe_config import ProbeConfig
from t3d.video.encode import write_video
from t3d.video.video import Video

COLORS = {"blue": (40, 60, 200), "red": (200, 60, 40)}
SPEC = ClipSpec(num_frames=4, stride=2, size=32, resize=36, tail="shift")
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`train.csv` (5 per class) and `test.csv` (3 per class): red and blue videos of 20 noisy frames."""
    root = tmp_path_factory.mktemp("probe")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 5), ("test", 3)):
        rows = []
        for name, color in COLORS.items():
            for number in range(count):
                noise = torch.randint(-60, 61, (20, 3, 40, 48), generator=generator)
                frames = (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).byte()
                path = write_video(root / f"{split}_{name}_{number}.mp4", frames)
                rows.append((path.name, name))
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *rows])
    return root


@pytest.fixture(scope="module")
def student(lists: Path) -> Path:
    """A weights file without classes, as transfer leaves it."""
    torch.manual_seed(0)
    net = create_model("densenet3d_tiny", num_classes=0, options=SMALL)
    path = lists / "student.safetensors"
    save_model(net, path, card=ModelCard("densenet3d_tiny", options=SMALL, clip=SPEC))
    return path


def probed(lists: Path, **options: Any) -> TestResult:
    lists_of = {"train": str(lists / "train.csv"), "test": str(lists / "test.csv")}
    return run_probe(ProbeConfig(**{**lists_of, "compute": Compute("cpu", workers=0), **options}))


def test_a_probe_of_a_student(lists: Path, student: Path) -> None:
    outcome = probed(lists, model=str(student))
    assert outcome.metrics.videos == 6
    assert outcome.metrics.video_top1 == 1.0  # even random features know red from blue


def test_a_probe_of_a_teacher(lists: Path) -> None:
    options: dict[str, Any] = {"teacher": "timm:resnet10t", "teacher_weights": "random", "teacher_size": 32}
    outcome = probed(lists, **options, num_frames=3)
    assert outcome.metrics.video_top1 == 1.0
    clips = len(clips_of(20, ClipSpec(num_frames=3, stride=4, size=32, resize=32, tail="shift")))
    assert len(outcome.scores.clip_video) == 6 * clips


def test_features_are_those_of_the_test_protocol(lists: Path, student: Path) -> None:
    from t3d.evaluation.scoring import each_clip, pooled_features
    from t3d.models.weights import load_model

    net, card = load_model(student)
    manifest = Manifest.from_csv(lists / "test.csv")
    rows, bad = each_clip(pooled_features(net, card.clip, bf16=False), manifest, Protocol(card.clip))
    assert not bad
    expected = []
    for entry in manifest:
        with Video(entry.path) as video:
            for clip in clips_of(len(video), SPEC):
                view = center_view(resize_frames(video.frames_at(clip.tolist()), SPEC), SPEC)
                with torch.no_grad():
                    expected.append(net(normalize(view[None], SPEC))[0].double().numpy())
    assert len(rows) == len(expected)
    for (_, _, vector), wanted in zip(rows, expected, strict=True):
        np.testing.assert_allclose(vector, wanted, atol=1e-5)


def test_the_penalty_is_chosen_by_whole_sources(lists: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.from_csv(lists / "train.csv")
    sources = np.array([entry.source for entry in manifest])
    rng = np.random.default_rng(0)
    rows = [(video, clip, rng.normal(size=4)) for video in range(len(manifest)) for clip in range(3)]
    folds: list[tuple[set[str], set[str]]] = []

    class Watching(StratifiedGroupKFold):
        def split(self, features: Any, labels: Any, groups: Any) -> Any:
            for learned, judged in super().split(features, labels, groups):
                videos = np.array([row[0] for row in rows])
                folds.append((set(sources[videos[learned]]), set(sources[videos[judged]])))
                yield learned, judged

    monkeypatch.setattr("sklearn.model_selection.StratifiedGroupKFold", Watching)
    assert fit_linear(manifest, rows).named_steps["logisticregression"].C in probe._STRENGTHS
    assert len(folds) == 4
    assert all(not learned & judged for learned, judged in folds)
    assert set.union(*(judged for _, judged in folds)) == set(sources)


def test_few_labels(lists: Path, student: Path) -> None:
    assert probed(lists, model=str(student), label_fraction=0.2).metrics.video_top1 == 1.0
    with pytest.raises(ConfigError, match="label_fraction is 0"):
        probed(lists, model=str(student), label_fraction=0.0)


def test_fitting_shows_progress(lists: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def recorded(title: str, *args: Any, **more: Any) -> Any:
        opened.append(title)
        return progress(title, *args, **more)

    monkeypatch.setattr(probe, "progress", recorded)
    probed(lists, model=str(student))
    assert opened == ["Fitting the classifier"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher_weights", "w.safetensors"),
        ("teacher_size", 64),
        ("num_frames", 8),
        ("stride", 2),
        ("tail", "drop"),
    ],
)
def test_options_of_a_teacher_are_refused_for_a_3d_model(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ConfigError, match=f"^`{name}` would have no effect"):
        ProbeConfig("train", "test", model="m.safetensors", **options)
    assert getattr(ProbeConfig("train", "test", teacher="resnet18", **options), name) == value


def test_either_a_student_or_a_teacher(lists: Path, student: Path) -> None:
    with pytest.raises(ConfigError, match="set either `model`"):
        probed(lists)
    with pytest.raises(ConfigError, match="set either `model`"):
        probed(lists, model=str(student), teacher="resnet18")
    with pytest.raises(ManifestError, match="nowhere"):
        probed(lists, train=str(lists / "nowhere"), model=str(student))


def test_the_command(lists: Path, student: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["probe", str(lists / "train.csv"), str(lists / "test.csv"), "--model", str(student)]
    assert main([*words, "--out", str(tmp_path / "p"), "--json", "--workers", "0"]) == 0
    assert '"video_top1": 1.0' in capsys.readouterr().out
    assert (tmp_path / "p" / "confusion.png").exists()
    assert main(words[:3]) == 2
    assert "set either --model" in capsys.readouterr().err
