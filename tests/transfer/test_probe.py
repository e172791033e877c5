from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedGroupKFold

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.sampling import clips_of
from t3d.data.clips.transforms import center_view, normalize, resize_frames
from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import SoftLabels, write_soft_labels
from t3d.device import Compute
from t3d.errors import ConfigError, ManifestError
from t3d.evaluation.config import Reading, TestConfig
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import TestResult, run_test
from t3d.models.frames import FrameNet
from t3d.models.registry import create_model
from t3d.models.weights import load_model, save_model
from t3d.progress import progress
from t3d.training.errors import RunExistsError
from t3d.transfer import frozen, linear, probe
from t3d.transfer.linear import STRENGTHS, as_layer, fit_linear
from t3d.transfer.probe import run_probe
from t3d.transfer.probe_config import ProbeConfig
from t3d.transfer.teachers.base import Teacher
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
    result = run_probe(ProbeConfig(**{**lists_of, "compute": Compute("cpu", workers=0), **options})).test
    assert result is not None
    return result


def test_a_probe_of_a_student(lists: Path, student: Path) -> None:
    outcome = probed(lists, model=str(student))
    assert outcome.metrics.videos == 6
    assert outcome.metrics.video_top1 == 1.0  # even random features know red from blue


def test_a_probe_of_a_teacher(lists: Path) -> None:
    options: dict[str, Any] = {"teacher": "timm:resnet10t", "teacher_weights": "random", "teacher_size": 32}
    outcome = probed(lists, **options, num_frames=3)
    assert outcome.metrics.video_top1 == 1.0
    clips = len(clips_of(20, ClipSpec(num_frames=3, stride=16, size=32, resize=32, tail="shift")))
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
    assert fit_linear(manifest, rows).strength in STRENGTHS
    assert len(folds) == 4
    assert all(not learned & judged for learned, judged in folds)
    assert set.union(*(judged for _, judged in folds)) == set(sources)


def test_few_labels(lists: Path, student: Path) -> None:
    assert probed(lists, model=str(student), label_fraction=0.2).metrics.video_top1 == 1.0
    with pytest.raises(ConfigError, match="label_fraction is 0"):
        probed(lists, model=str(student), label_fraction=0.0)


def test_soft_labels_of_other_videos_count_like_labels(
    lists: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = 3  # of each video; in a fit on soft labels, they count as one
    monkeypatch.setattr(linear, "STRENGTHS", [linear.MEDIUM / clips])
    whole = Manifest.from_csv(lists / "train.csv")
    few = np.isin(np.arange(10), [0, 1, 5, 6])
    whole.select(few).write_csv(tmp_path / "few.csv")
    rest = whole.select(~few)
    truth = np.eye(2)[rest.labels]
    tables = {}
    for name, probs in (("right", truth), ("wrong", 1 - truth), ("unsure", np.full((6, 2), 0.5))):
        tables[name] = str(tmp_path / f"{name}.csv")
        write_soft_labels(tables[name], SoftLabels(rest.without_labels(), whole.classes, probs))
    options = {"model": str(student), "train": str(tmp_path / "few.csv")}
    scores = {name: probed(lists, **options, soft=table).scores for name, table in tables.items()}
    expected = probed(lists, model=str(student)).scores  # with the labels of all
    assert len(expected.clip_probs) == clips * len(expected.video_probs)
    np.testing.assert_allclose(scores["right"].video_probs, expected.video_probs, atol=1e-5)
    own = expected.video_probs[np.arange(6), expected.labels]
    assert (scores["unsure"].video_probs[np.arange(6), expected.labels] < own).all()
    assert (scores["wrong"].video_probs[np.arange(6), expected.labels] < 0.5).all()  # six against four


def test_paths_of_soft_labels_start_from_the_root(lists: Path, student: Path, tmp_path: Path) -> None:
    table = tmp_path / "soft.csv"
    table.write_text("path,red,blue\ntest_red_0.mp4,1,0\n")
    options = ProbeConfig(
        str(lists / "train.csv"),
        soft=str(table),
        out=str(tmp_path / "run"),
        model=str(student),
        reading=Reading(root=str(lists)),
        compute=Compute("cpu", workers=0),
    )
    assert run_probe(options).train[-1].path == lists / "test_red_0.mp4"


def test_soft_labels_of_other_classes_and_lost_videos_are_refused(
    lists: Path, student: Path, tmp_path: Path
) -> None:
    table = tmp_path / "soft.csv"
    table.write_text("path,green\ngone.mp4,1\n")
    with pytest.raises(ManifestError, match=r"soft\.csv: .*'green'"):
        probed(lists, model=str(student), soft=str(table))
    table.write_text("path,red\ngone.mp4,1\n")
    with pytest.raises(ManifestError, match=r"soft\.csv: .*gone\.mp4"):
        probed(lists, model=str(student), soft=str(table))


def test_fitting_shows_progress(lists: Path, student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def recorded(title: str, *args: Any, **more: Any) -> Any:
        opened.append(title)
        return progress(title, *args, **more)

    monkeypatch.setattr(linear, "progress", recorded)
    probed(lists, model=str(student))
    assert opened == ["Fitting the classifier"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher_weights", "w.safetensors"),
        ("teacher_size", 64),
        ("num_frames", 16),
        ("stride", 2),
        ("tail", "drop"),
        ("pixel_aspect", "square"),
        ("tonemap", True),
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


def test_the_layer_has_the_classifiers_probabilities(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for classes in (2, 3):
        rows = [f"v{n}.mp4,{'abc'[n % classes]},s{n}" for n in range(24)]
        (tmp_path / "list.csv").write_text("\n".join(["path,label,source", *rows]))
        table = Manifest.from_csv(tmp_path / "list.csv").with_classes([*"abc"[:classes], "none"])
        clips = [(n, 0, rng.normal(size=5) * 30 + 7 * (n % classes)) for n in range(24)]
        classifier = fit_linear(table, clips).classifier
        x = np.stack([clip[2] for clip in clips])
        probs = as_layer(classifier, classes + 1)(torch.from_numpy(x).float()).softmax(1)
        np.testing.assert_allclose(probs[:, :classes].detach(), classifier.predict_proba(x), atol=1e-5)
        assert (probs[:, classes] == 0).all()


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_a_probe_of_a_teacher_is_a_model(lists: Path, tmp_path: Path, pooling: str) -> None:
    options: dict[str, Any] = {"teacher": "timm:resnet10t", "teacher_weights": "random", "teacher_size": 32}
    out = str(tmp_path / "run")
    compute = Compute("cpu", precision="fp32", workers=0)
    outcome = probed(lists, **options, num_frames=3, pooling=pooling, out=out, compute=compute)
    again = run_test(TestConfig(out, str(lists / "test.csv"), compute=compute))
    np.testing.assert_allclose(again.scores.video_probs, outcome.scores.video_probs, atol=1e-5)
    assert again.overlaps[0].other == "training"
    net, card = load_model(out)
    assert isinstance(net, FrameNet)
    assert (card.classes, card.clip.num_frames, net.options.pooling) == (("blue", "red"), 3, pooling)
    with pytest.raises(RunExistsError):
        probed(lists, **options, out=out)


def test_pixels_of_a_teachers_clip(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[ClipSpec] = []
    store = probe.FrameStore
    monkeypatch.setattr(probe, "FrameStore", lambda spec, **more: read.append(spec) or store(spec, **more))
    options: dict[str, Any] = {"teacher": "timm:resnet10t", "teacher_weights": "random", "teacher_size": 32}
    out = str(tmp_path / "run")
    probed(lists, **options, num_frames=2, pixel_aspect="square", tonemap=True, out=out)
    clip = load_model(out)[1].clip
    assert read == [clip]
    assert (clip.pixel_aspect, clip.tonemap) == ("square", True)
    with pytest.raises(ConfigError, match="pixel_aspect is 'sqare'"):
        ProbeConfig("train", "test", teacher="resnet18", pixel_aspect="sqare")  # type: ignore[arg-type]


def test_a_probe_without_a_test_only_writes_the_model(
    lists: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["probe", str(lists / "train.csv"), "--model", str(student), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "run")]) == 2
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "already contains a run of t3d probe; choose another --out" in error
    assert "is a run of t3d probe; t3d train cannot resume it" in error
    assert "Resume it with" not in error  # a probe cannot be resumed
    assert load_model(tmp_path / "run")[1].classes == ("blue", "red")
    assert not (tmp_path / "run" / "metrics.json").exists()
    with pytest.raises(ConfigError, match="set `test`"):
        ProbeConfig("train.csv", model="m")


class Brightness(Teacher):
    """A teacher outside timm or torchvision."""

    num_features = 3

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def test_an_onnx_teacher_is_not_saved(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Brightness("b.onnx", size=32, mean=(0, 0, 0), std=(1, 1, 1), weights_digest="")
    monkeypatch.setattr(frozen, "open_teacher", lambda *_, **__: teacher)
    assert probed(lists, teacher="b.onnx", num_frames=2).metrics.video_top1 == 1.0
    with pytest.raises(ConfigError, match="an ONNX teacher cannot be saved as a model"):
        probed(lists, teacher="b.onnx", num_frames=2, out=str(tmp_path / "run"))
    assert not [*(tmp_path / "run").iterdir()]


def test_training_videos_that_cannot_be_read_are_reported(
    lists: Path, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (lists / "broken.mp4").write_bytes(b"no video")
    table = lists / "with_broken.csv"
    table.write_text((lists / "train.csv").read_text() + "broken.mp4,red\n")
    words = ["probe", str(table), str(lists / "test.csv"), "--model", str(student), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "run"), "--max-bad", "0.2", "--workers", "0"]) == 1
    assert "left out of the training: " in (error := capsys.readouterr().err)
    assert "broken.mp4" in error
    assert "broken.mp4" in (tmp_path / "run" / "bad.csv").read_text()
