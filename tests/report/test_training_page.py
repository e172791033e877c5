"""The page of a training run."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.config import DataConfig
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError
from t3d.evaluation.collect import collect
from t3d.evaluation.scores_table import read_scores, write_scores
from t3d.evaluation.task import measure
from t3d.report.training_page import write_training
from t3d.training.config import ModelConfig, TrainConfig
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import PoolConfig, TeacherConfig, TransferConfig
from t3d.video.encode import write_video

CLASSES = ("<b>bold</b>", "light")
SPEC = ClipSpec(num_frames=4, stride=1, size=32, resize=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six films of two classes, in three groups."""
    root = tmp_path_factory.mktemp("films")
    rows = ["path,label,source"]
    for number in range(6):
        write_video(root / f"{number}.mp4", torch.full((6, 3, 32, 40), 40 * number, dtype=torch.uint8))
        rows.append(f"{number}.mp4,{CLASSES[number % 2]},g{number // 2}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    return Manifest.from_csv(root / "list.csv")


def run_of(path: Path, videos: Manifest, *, val: bool = True) -> RunFolder:
    """A run folder with a log of two validations, of which the first is the best."""
    run = RunFolder(path / "run")
    data = DataConfig(train="lists/<train>.csv", val_fraction=0.5 if val else 0.0)
    optim = replace(TrainConfig(out="x", data=DataConfig(train="x", val="x")).optim, schedule="constant")
    config = TrainConfig(
        out=str(run.path), data=data, clip=SPEC, model=ModelConfig(name="t3d_tiny"), optim=optim
    )
    run.start(config, videos, videos if val else None, [Failed("lost.mp4", "is empty")])
    lines: list[dict[str, object]] = [
        {"kind": "train", "step": 5, "loss": 1.4},
        {"kind": "val", "step": 5, "epoch": 1, "loss": 1.3, "top1": 0.8, "low": 0.4, "high": 0.95},
        {"kind": "train", "step": 10, "loss": 0.9},
        {"kind": "val", "step": 10, "epoch": 2, "loss": 1.0, "top1": 0.6, "low": 0.2, "high": 0.9},
    ]
    if not val:
        lines = [line for line in lines if line["kind"] == "train"]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def scores_of(right: list[bool | None]) -> list[tuple[int, int, np.ndarray]]:
    rows = []
    for row, each in enumerate(right):
        if each is not None:
            probs = np.array([0.2, 0.8] if (row % 2 == 1) == each else [0.7, 0.3])
            rows.append((row, 0, probs))
    return rows


def words_of(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)).split())


def test_the_page_shows_the_best_validation(tmp_path: Path, videos: Manifest) -> None:
    run = run_of(tmp_path, videos)
    rows = scores_of([True, True, True, False, True, None])
    scores = collect(videos, rows, [Failed("5.mp4", "is empty", 5)])
    write_scores(scores, run.val_scores_csv)
    path = write_training(run.path, command="t3d train --videos 'a b'")
    assert path == run.path / "report.html"
    text = path.read_text(encoding="utf-8")
    words = words_of(text)
    for expected in (
        "t3d_tiny trained on &lt;train&gt;.csv",
        "Best validation, after epoch 1: 4 of 5 videos correct: 80.0%",
        "These videos chose the epoch",
        "6 training videos of 3 groups",
        "6 validation videos of 3 groups",
        "lost.mp4: is empty",
        "&lt;b&gt;bold&lt;/b&gt; 3",
        "Confusion matrix",
        "Most confident wrong answers",
        "4 frames of 32 × 32 pixels, stride 1",
        "t3d train --videos &#39;a b&#39;",
        "validation top-1 (%)",
        "num_frames: 4",
    ):
        assert expected in words, expected
    assert text.count("data:image/webp") == 1
    assert "clips correct" not in words  # the table has no scores of clips
    assert not re.search(r"<script|<link|https?://(?!www\.w3\.org|creativecommons|purl)", text)


def test_a_run_without_validation(tmp_path: Path, videos: Manifest) -> None:
    words = words_of(write_training(run_of(tmp_path, videos, val=False).path).read_text(encoding="utf-8"))
    assert "There was no validation" in words
    assert "Confusion matrix" not in words


def test_a_run_of_an_earlier_version_has_no_scores(tmp_path: Path, videos: Manifest) -> None:
    words = words_of(write_training(run_of(tmp_path, videos).path).read_text(encoding="utf-8"))
    assert "Best validation: epoch 1, 80.0%." in words


def test_a_transfer_without_labels(tmp_path: Path, videos: Manifest) -> None:
    run = RunFolder(tmp_path / "run")
    pool = PoolConfig(videos="pool", val_fraction=0.1)
    config = TransferConfig(out=str(run.path), data=pool, clip=SPEC, teacher=TeacherConfig(name="lite0"))
    bare = videos.without_labels()
    run.start(config, bare, bare, [])
    line = {"kind": "val", "step": 1, "epoch": 1, "loss": 0.5, "auc": 0.9, "top1": 0.25, "top1_chance": 0.1}
    run.log.write_text(json.dumps(line | {"clips": 6}) + "\n")
    words = words_of(write_training(run.path).read_text(encoding="utf-8"))
    assert "t3d121 taught on pool" in words
    assert "Held-out videos at the end: loss 0.500 AUC 0.900" in words


def test_scores_are_read_back(tmp_path: Path, videos: Manifest) -> None:
    rows = scores_of([True, False, True, None, True, True])
    scores = collect(videos, rows, [Failed("3.mp4", "is empty", 3)])
    write_scores(scores, tmp_path / "scores.csv")
    again = read_scores(tmp_path / "scores.csv", videos, targets="single")
    np.testing.assert_array_equal(again.video_probs, scores.video_probs)
    np.testing.assert_array_equal(again.labels, scores.labels)
    assert [each.row for each in again.bad] == [3]
    assert measure(again) == measure(scores)


def test_other_scores_are_refused(tmp_path: Path, videos: Manifest) -> None:
    rows = scores_of([True] * 6)
    write_scores(collect(videos, rows, []), tmp_path / "scores.csv")
    for other in (videos.select([0, 1]), replace(videos, classes=("a", "b"))):
        with pytest.raises(ManifestError, match=r"scores\.csv: not the scores of these"):
            read_scores(tmp_path / "scores.csv", other, targets="single")
