from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import Scores
from t3d.evaluation.scores_table import write_scores
from t3d.evaluation.scoring import IN_PROCESS, score_videos
from t3d.evaluation.task import measure
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.models.weights_header import read_card
from t3d.report.result import print_result, write_result
from t3d.video.encode import write_video


def random_scores(*, classes: int, videos: int, seed: int, ties: bool = False) -> Scores:
    """Two videos are broken, every seventh is unlabeled, and the last class applies to none."""
    rng = np.random.default_rng(seed)
    clip_video = np.sort(np.concatenate([np.arange(videos), rng.integers(videos, size=2 * videos)]))
    clip_probs = rng.random((len(clip_video), classes))
    if ties:
        clip_probs = np.round(clip_probs * 4) / 4
    broken = [1, videos - 1]
    keep = ~np.isin(clip_video, broken)
    clip_video, clip_probs = clip_video[keep], clip_probs[keep]
    video_probs = np.full((videos, classes), np.nan)
    for video in range(videos):
        if video not in broken:
            video_probs[video] = clip_probs[clip_video == video].mean(0)
    labels = (rng.random((videos, classes)) < np.linspace(0.7, 0.1, classes)).astype(np.int8)
    labels[:, -1] = 0
    labels[::7] = -1
    return Scores(
        classes=tuple(f"class {i}" for i in range(classes)),
        clip_probs=clip_probs,
        clip_video=clip_video,
        video_probs=video_probs,
        labels=labels,
        paths=tuple(f"{i}.mp4" for i in range(videos)),
        bad=tuple(Failed(f"{i}.mp4", "broken", i) for i in broken),
        targets="multi",
    )


def slow_precision(probs: list[float], labels: list[int]) -> float:
    """Go down the sorted list; at each threshold the precision counts by how much the recall has grown."""
    total, area, recall = sum(labels), 0.0, 0.0
    for threshold in sorted(set(probs), reverse=True):
        hits = [label for prob, label in zip(probs, labels, strict=True) if prob >= threshold]
        area += (sum(hits) / total - recall) * sum(hits) / len(hits)
        recall = sum(hits) / total
    return area


def slow_f1(pairs: list[tuple[float, int]]) -> float:
    right = sum(prob >= 0.5 and label == 1 for prob, label in pairs)
    wrong = sum((prob >= 0.5) != (label == 1) for prob, label in pairs)
    return 2 * right / (2 * right + wrong)


@pytest.mark.parametrize(
    ("classes", "videos", "seed", "ties"),
    [(5, 40, 0, False), (12, 60, 1, False), (4, 30, 2, True), (2, 20, 3, True)],
)
def test_measures_are_those_of_a_slow_count(classes: int, videos: int, seed: int, ties: bool) -> None:
    scores = random_scores(classes=classes, videos=videos, seed=seed, ties=ties)
    got = measure(scores)
    assert isinstance(got, MultiMetrics)
    rows = [v for v in range(videos) if v not in (1, videos - 1) and v % 7]
    clips = [(v, probs) for v, probs in zip(scores.clip_video, scores.clip_probs, strict=True) if v in rows]
    table = {
        (v, k): (scores.video_probs[v, k], int(scores.labels[v, k])) for v in rows for k in range(classes)
    }
    named = range(classes - 1)  # nothing of the last class
    videos_ap, clips_ap, f1 = [], [], []
    for k in named:
        pairs = [table[v, k] for v in rows]
        videos_ap.append(slow_precision([p for p, _ in pairs], [y for _, y in pairs]))
        clips_ap.append(
            slow_precision([probs[k] for _, probs in clips], [int(scores.labels[v, k]) for v, _ in clips])
        )
        f1.append(slow_f1(pairs))
    assert (got.videos, got.bad) == (len(rows), 2)
    assert got.per_class == pytest.approx(dict(zip(scores.classes, videos_ap, strict=False)), abs=1e-6)
    assert got.video_map == got.best_by == pytest.approx(sum(videos_ap) / len(videos_ap), abs=1e-6)
    assert got.clip_map == pytest.approx(sum(clips_ap) / len(clips_ap), abs=1e-6)
    assert got.macro_f1 == pytest.approx(sum(f1) / len(f1), abs=1e-6)
    assert got.micro_f1 == pytest.approx(slow_f1(list(table.values())), abs=1e-6)
    losses = [-math.log(min(max(p if y else 1 - p, 1e-12), 1)) for p, y in table.values()]
    assert got.loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    counts = [sum(table[v, k][1] for v in rows) for k in range(classes)]
    assert list(got.positives.values()) == counts
    assert got.positives[f"class {classes - 1}"] == 0


def test_precision_of_a_list_sorted_by_hand() -> None:
    # Sorted: 0.9 yes, 0.8 no, 0.7 yes, 0.2 no; precision 1/1 and 2/3 where the recall grows by a half each.
    probs = np.array([[0.7], [0.9], [0.2], [0.8]])
    scores = Scores(
        ("x",), probs, np.arange(4), probs, np.array([[1], [1], [0], [0]]), tuple("abcd"), (), "multi"
    )
    got = measure(scores)
    assert isinstance(got, MultiMetrics)
    assert got.per_class == {"x": pytest.approx((1 + 2 / 3) / 2)}
    assert got.micro_f1 == got.macro_f1 == pytest.approx(4 / 5)
    loss = -sum(math.log(p) for p in (0.7, 0.9, 0.8, 0.2)) / 4
    assert got.log_line() == {
        "loss": pytest.approx(loss),
        "map": pytest.approx(5 / 6),
        "clip_map": pytest.approx(5 / 6),
        "micro_f1": pytest.approx(0.8),
        "macro_f1": pytest.approx(0.8),
        "low": got.interval.low,
        "high": got.interval.high,
        "chance": 0.5,
        "videos": 4,
        "bad": 0,
    }


def test_sure_mistakes_and_lists_without_positives() -> None:
    probs = np.array([[1.0, 0.0]])
    scores = Scores(("a", "b"), probs, np.array([0]), probs, np.array([[0, 1]]), ("x",), (), "multi")
    assert 20 < measure(scores).loss < 30
    with pytest.raises(ManifestError, match="no class applies to any of the 1 videos"):
        measure(replace(scores, labels=np.array([[0, 0]])))
    with pytest.raises(ManifestError, match="none of the 1 videos is both labeled and readable"):
        measure(replace(scores, labels=np.array([[-1, -1]])))


def test_files_and_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probs = np.array([[0.7, 0.5, 0.1], [np.nan] * 3, [0.1, 0.3, 0.2], [0.9, 0.2, 0.2]])
    scores = Scores(
        classes=("a", "b, c", "d"),
        clip_probs=probs[[0, 2, 3]],
        clip_video=np.array([0, 2, 3]),
        video_probs=probs,
        labels=np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [-1, -1, -1]]),
        paths=("0.mp4", "1.mp4", "2.mp4", "3.mp4"),
        bad=(Failed("1.mp4", "broken", 1),),
        targets="multi",
    )
    outcome = TestResult(measure(scores), scores)
    write_result(outcome, tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"metrics.json", "scores.csv"}
    with (tmp_path / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "start", "end", "labels", "predictions", "clips", "a", "b, c", "d"],
        ["0.mp4", "", "", "a", "a|b, c", "1", "0.700000", "0.500000", "0.100000"],
        ["1.mp4", "", "", "b, c|d", "", "0", "", "", ""],
        ["2.mp4", "", "", "|", "|", "1", "0.100000", "0.300000", "0.200000"],
        ["3.mp4", "", "", "", "a", "1", "0.900000", "0.200000", "0.200000"],
    ]
    print_result(outcome)
    out, err = capsys.readouterr()
    assert "2 videos" in out
    assert "mAP" in out
    assert "could not be read: 1.mp4: broken" in err
    with pytest.raises(ManifestError, match="one label each"):
        _ = outcome.single
    # Without labels there is nothing to measure, but scores of one kind stay of that kind.
    write_scores(replace(scores, labels=np.full((4, 3), -1)), tmp_path / "scores.csv")
    assert "predictions" in (tmp_path / "scores.csv").read_text()


# --- nets -------------------------------------------------------------------------------------------------

SPEC = ClipSpec(num_frames=8, stride=1, size=32, resize=32)
OPTIONS = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    frames = torch.randint(0, 256, (24, 3, 32, 40), generator=torch.Generator().manual_seed(0))
    write_video(path, frames.to(torch.uint8))
    write_video(path.with_name("one clip.mp4"), frames[:8].to(torch.uint8))
    return path


def test_probabilities_are_sigmoids_and_a_video_is_the_mean_of_its_clips(film: Path) -> None:
    class Fixed(nn.Module):
        """Gives a clip the scores (m, -m, 5), m its mean."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            m = x.mean((1, 2, 3, 4))
            self.seen = m.tolist()
            return torch.stack([m, -m, torch.full_like(m, 5)], 1)

    net = Fixed()
    manifest = Manifest.from_files([film]).with_classes(("x", "y", "z"))
    scores = score_videos(net, manifest, Protocol(SPEC, "multi"))
    assert len(net.seen) == 3
    want = [[1 / (1 + math.exp(-z)) for z in (m, -m, 5)] for m in net.seen]
    np.testing.assert_allclose(scores.clip_probs, want, rtol=1e-6)
    np.testing.assert_allclose(scores.video_probs, [np.mean(want, 0)], rtol=1e-6)
    assert (scores.targets, scores.labels.tolist()) == ("multi", [[-1, -1, -1]])
    single = score_videos(net, manifest, Protocol(SPEC))
    np.testing.assert_allclose(single.clip_probs.sum(1), 1)


def test_a_prediction_follows_the_card(film: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = create_model("densenet3d_tiny", num_classes=3, options=OPTIONS)
    card = ModelCard("densenet3d_tiny", options=OPTIONS, classes=("x", "y", "z"), clip=SPEC)
    predictions = {}
    for targets in ("single", "multi"):
        save_model(net, tmp_path / "net.safetensors", card=replace(card, targets=targets))
        predictor = Predictor(tmp_path / "net.safetensors", compute=IN_PROCESS)
        assert predictor.card.targets == targets
        predictions[targets] = predictor(film.with_name("one clip.mp4"))
    assert predictions["single"].clips == predictions["multi"].clips == 1
    assert predictions["multi"].classes == predictions["single"].classes
    # The odds of a sigmoid are the exponentials that a softmax shares out.
    odds = [prob / (1 - prob) for prob in predictions["multi"].probs]
    assert predictions["single"].probs == pytest.approx([each / sum(odds) for each in odds], rel=1e-9)


def test_the_commands_follow_the_card_too(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = create_model("densenet3d_tiny", num_classes=2, options=OPTIONS)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    (tmp_path / "classes.txt").write_text("x\ny\n")
    made = tmp_path / "net.safetensors"
    words = [
        "convert",
        tmp_path / "net.pth",
        made,
        "--model",
        "densenet3d_tiny",
        "--options",
        json.dumps(OPTIONS),
    ]
    words += ["--classes", tmp_path / "classes.txt", "--targets", "multi"]
    words += ["--clip.num_frames", 8, "--clip.stride", 1, "--clip.size", 32, "--clip.resize", 32]
    assert main(list(map(str, words))) == 0
    card = read_card(made)
    assert card is not None
    assert card.targets == "multi"
    assert main(["predict", str(made), str(film), "--json", "--workers", "0", "--precision", "fp32"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["targets"] == "multi"
    prediction = Predictor(made, compute=IN_PROCESS)(film)
    assert line["classes"] == pytest.approx(dict(zip(prediction.classes, prediction.probs, strict=True)))


@pytest.mark.parametrize("command", ["probe", "teacher"])
def test_methods_for_one_label_refuse_several(
    command: str, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips.csv").write_text(f"path,labels\n{film},x|y\n")
    clips = str(tmp_path / "clips.csv")
    words = {
        "probe": ["probe", clips, clips, "--model", str(tmp_path / "absent.safetensors")],
        "teacher": ["teacher", clips, "--out", str(tmp_path / "t.safetensors")],
    }
    assert main(words[command]) == 2
    assert re.search("these (videos )?have several", capsys.readouterr().err)


def test_cards() -> None:
    card = ModelCard("t3d_tiny", classes=("x", "y"), targets="multi")
    assert ModelCard.from_json(card.to_json()) == card
    single = replace(card, targets="single")
    assert "targets" not in single.to_json()  # as before there was a choice
    assert ModelCard.from_json(single.to_json()) == single
    with pytest.raises(ConfigError, match="targets"):
        ModelCard("t3d_tiny", targets="several")  # type: ignore[arg-type]
