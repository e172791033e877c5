"""Runs on videos of several labels: colors, and whether it grows lighter, independently of each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError
from t3d.evaluation.config import TestConfig
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import run_test
from t3d.evaluation.scoring import IN_PROCESS, score_videos
from t3d.evaluation.task import measure
from t3d.models.weights import load_model
from t3d.training.config import TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import Trainer
from t3d.video.encode import write_video

Tiny = Callable[..., TrainConfig]
TAGS = ("blue", "lighter", "red")


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy videos of 12 frames, 32 × 40, every choice of tags 3 times in `train.csv`, once in `val.csv`."""
    root = tmp_path_factory.mktemp("tagged")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("val", 1)):
        lines = ["path,labels,source"]
        for number, (blue, lighter, red) in product(range(count), product((0, 1), repeat=3)):
            frames = torch.randint(40, 81, (12, 3, 32, 40), generator=generator).float()
            frames[:, 0] += 100 * red
            frames[:, 2] += 100 * blue
            frames += lighter * torch.linspace(-40, 40, 12).view(-1, 1, 1, 1)
            name = f"{split}_{blue}{lighter}{red}_{number}"
            write_video(root / f"{name}.mp4", frames.clamp(0, 255).to(torch.uint8), crf=30)
            applying = [tag for tag, applies in zip(TAGS, (blue, lighter, red), strict=True) if applies]
            lines.append(f"{name}.mp4,{'|'.join(applying) or '|'},{name}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def multi(tiny: Tiny, tagged: Path) -> Tiny:
    """Like `tiny`, but on the tagged videos."""
    lists = {"train": str(tagged / "train.csv"), "val": str(tagged / "val.csv")}

    def make(**changes: Any) -> TrainConfig:
        return tiny(**changes | {"data": lists | changes.get("data", {})})

    return make


def test_a_run_learns_each_tag_independently(multi: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    config = multi(optim={"epochs": 12, "lr": 0.3})
    folder = RunFolder(train(config))
    log = read_log(folder.log)
    losses = [line["loss"] for line in log if line["kind"] == "train"]
    assert losses[0] == pytest.approx(np.log(2), abs=0.3)
    assert np.mean(losses[-6:]) < 0.8 * losses[0]
    vals = [line for line in log if line["kind"] == "val"]
    assert vals[-1].keys() >= {"loss", "map", "clip_map", "micro_f1", "macro_f1", "bad"}
    assert "mAP" in capsys.readouterr().out

    # The best weights are those with the best mAP (chance: 50 %), and their card says so.
    best = max(vals, key=lambda line: line["map"])
    assert best["map"] > 0.8
    model, card = load_model(folder.best)
    assert (card.targets, card.classes, card.provenance["epochs"]) == ("multi", TAGS, best["epoch"])
    outcome = run_test(TestConfig(str(folder.best), config.data.val or "", compute=IN_PROCESS))
    assert outcome.metrics.video_map == pytest.approx(best["map"], abs=1e-12)
    assert outcome.metrics.loss == pytest.approx(best["loss"], abs=1e-12)
    assert outcome.scores.video_probs.sum(1).max() > 1.5  # all three apply to one video
    _, val = folder.read_videos()
    assert val is not None
    assert measure(score_videos(model, val, Protocol(card.clip, "multi"))) == outcome.metrics


def test_a_stopped_run_resumes_exactly(multi: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = {
        "optim": {"epochs": 2, "ema_decay": 0.9, "mixup_alpha": 0.3, "label_smoothing": 0.1},
        "augment": {"crop": "random_resized", "color": 0.3},
    }
    straight = RunFolder(train(multi(**everything, out=str(tmp_path / "straight"))))
    config = multi(**everything, out=str(tmp_path / "stopped"), checkpoint_minutes=0.0)
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        if (epoch, step) == (1, 2):
            raise InterruptedRunError(Path(config.out), 15, config.command)
        take(self, batches, epoch=epoch, step=step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    resumed = RunFolder(train(replace(config, data=replace(config.data, workers=1)), resume=True))
    for name in ("checkpoint.safetensors", "last.safetensors", "best.safetensors"):
        left, right = load_file(straight.path / name), load_file(resumed.path / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(value, right[key]) for key, value in left.items())


def test_a_share_is_held_out_and_a_share_of_labels_used(multi: Tiny) -> None:
    options = {"val": None, "val_fraction": 0.25, "label_fraction": 0.5}
    train_videos, val = RunFolder(train(multi(data=options))).read_videos()
    assert val is not None
    assert train_videos.targets == val.targets == "multi"
    assert abs(len(val) - 6) <= 2
    assert abs(len(train_videos) - 9) <= 2
    assert all(train_videos.class_counts().values())
    assert all(val.class_counts().values())


def table(path: Path, header: str, *rows: str) -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def test_options_that_exclude_each_other_are_refused_before_a_video_is_read(
    multi: Tiny, colors: Path, tmp_path: Path
) -> None:
    def refused(kind: type[Exception], match: str, **data: Any) -> None:
        with pytest.raises(kind, match=match):
            train(multi(data=data))
        assert not Path(multi().out).exists()

    one, several = str(colors / "train.csv"), multi().data.train
    refused(ManifestError, r"val\.csv has one label.*is for several labels", val=str(colors / "val.csv"))
    refused(ManifestError, r"val\.csv has several labels.*is for one label", train=one)
    refused(ConfigError, "data.balance samples each class equally often", balance=True)
    some = table(tmp_path / "some.csv", "path,labels", "a.mp4,x|y", "b.mp4,", "c.mp4,|")
    refused(ManifestError, "1 of 3 videos have no label", train=some)
    none = table(tmp_path / "none.csv", "path,labels", "a.mp4,|")
    refused(ManifestError, "no class applies to any validation video", train=several, val=none)


def test_tests_refuse_the_other_kind_of_labels(multi: Tiny, tiny: Tiny, tmp_path: Path) -> None:
    several = RunFolder(train(multi(out=str(tmp_path / "several"))))
    one = RunFolder(train(tiny(out=str(tmp_path / "one"))))
    assert "targets" not in json.loads(_card(one.last))  # older versions can read such files
    with pytest.raises(
        ManifestError, match=r"one label per video .*; test it on videos with several labels, or use a"
    ):
        run_test(TestConfig(str(several.last), tiny().data.train, compute=IN_PROCESS))
    with pytest.raises(
        ManifestError, match=r"several labels per video .*; test it on videos with one label, or use a"
    ):
        run_test(TestConfig(str(one.last), multi().data.train, compute=IN_PROCESS))
    unlabeled = table(tmp_path / "unlabeled.csv", "path", str(Manifest.from_csv(several.val_csv)[0].path))
    with pytest.raises(ManifestError, match=r"unlabeled\.csv has no labels; add a column label"):
        run_test(TestConfig(str(several.last), unlabeled, compute=IN_PROCESS))


def _card(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text: str = file.metadata()["t3d.card"]
    return text
