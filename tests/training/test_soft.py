"""Runs on labels and soft labels: which videos are used, with which targets, and exact resumption."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import SoftLabels, read_soft_labels, write_soft_labels
from t3d.errors import CheckpointError, ConfigError, ManifestError
from t3d.training.config import TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.step import SingleLabelStep
from t3d.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]
Rows = list[tuple[str, float]]  # path, and the probability of blue


def _table(path: Path, rows: Rows, classes: tuple[str, str] = ("red", "blue")) -> str:
    lines = [",".join(["path", *classes])]
    lines += [f"{video},{1 - blue},{blue}" for video, blue in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def pool(colors: Path, tmp_path: Path) -> str:
    """Soft labels of all 16 training videos."""
    videos = Manifest.from_csv(colors / "train.csv").table["path"].to_pylist()
    rows = [
        (path, 0.75 - number / 64 if "blue" in path else number / 64) for number, path in enumerate(videos)
    ]
    return _table(tmp_path / "pool.csv", rows)


def _targets_seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[float]]:
    """Return the targets of each row, filled by the runs to come."""
    seen: dict[int, list[float]] = {}
    loss = SingleLabelStep.loss

    def watching(self: SingleLabelStep, model: Any, batch: Any, rng: Any) -> torch.Tensor:
        seen.update(zip(batch.videos.tolist(), batch.labels.tolist(), strict=True))
        return loss(self, model, batch, rng)

    monkeypatch.setattr(SingleLabelStep, "loss", watching)
    return seen


def test_labeled_and_other_videos_are_trained_on(
    tiny: Tiny, pool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = _targets_seen(monkeypatch)
    folder = RunFolder(train(tiny(data={"soft": pool, "label_fraction": 0.25})))
    output = capsys.readouterr().out
    assert (
        "on 16 videos (2 classes, 16 groups), with 25% of the labels, 12 of them with soft labels" in output
    )
    assert f"Soft labels: 12 of the 16 videos of {pool} are used; 4 already have a label." in output
    videos, val = folder.read_videos()
    assert val is not None
    assert (len(videos), int(videos.labeled.sum()), videos.class_counts()) == (16, 4, {"blue": 2, "red": 2})
    soft = read_soft_labels(pool).with_classes(("blue", "red"))
    given = dict(zip(soft.videos.table["path"].to_pylist(), soft.probs.tolist(), strict=True))
    assert seen.keys() == set(range(16))  # 4 steps of 4 clips
    for row, targets in seen.items():
        label = videos[row].label
        want = given[str(videos[row].path)] if label is None else np.eye(2)[label].tolist()
        assert targets == want
    saved = read_soft_labels(folder.soft_csv)
    assert saved.videos.table["path"].to_pylist() == [str(entry.path) for entry in videos][4:]
    assert folder.read_soft(videos) is not None


def test_a_stopped_run_resumes_exactly(
    tiny: Tiny, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {
        "optim": {"epochs": 2, "mixup_alpha": 0.3, "label_smoothing": 0.1},
        "data": {"soft": pool, "label_fraction": 0.5},
    }
    straight = RunFolder(train(tiny(**everything, out=str(tmp_path / "straight"))))
    config = tiny(**everything, out=str(tmp_path / "stopped"), checkpoint_minutes=0.0)
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        if (epoch, step) == (1, 2):
            raise InterruptedRunError(Path(config.out), 15, config.command)
        take(self, batches, epoch=epoch, step=step)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    Path(pool).unlink()  # the run has its own copy
    resumed = RunFolder(train(RunFolder(config.out).read_config(TrainConfig), resume=True))
    for name in ("checkpoint.safetensors", "last.safetensors", "best.safetensors"):
        left, right = load_file(straight.path / name), load_file(resumed.path / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(value, right[key]) for key, value in left.items())


def test_validation_videos_and_their_copies_are_left_out(
    tiny: Tiny, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copy.mp4"
    shutil.copy(colors / "val_blue_0.mp4", copied)
    another, free = tmp_path / "another.mp4", tmp_path / "free.mp4"
    for path in (another, free):
        shutil.copy(colors / "train_red_0.mp4", path)
    videos = [str(colors / "val_red_1.mp4"), str(copied), str(another), str(free)]
    table = {
        "path": videos,
        "label": pa.nulls(4, pa.int32()),
        "start": pa.nulls(4, pa.float64()),
        "end": pa.nulls(4, pa.float64()),
        "source": ["a", "b", "val_blue_2", "c"],
    }
    soft = SoftLabels(Manifest((), pa.table(table)), ("red",), np.ones((4, 1)))
    write_soft_labels(tmp_path / "soft.csv", soft)
    folder = RunFolder(train(tiny(data={"soft": str(tmp_path / "soft.csv")})))
    added = folder.read_videos()[0]
    assert [entry.path for entry in added if entry.label is None] == [free]
    output = capsys.readouterr().out
    assert "used; 3 share a file, bytes or group with a validation video, or look like one." in output


def test_held_out_groups_of_the_training_list_are_left_out(tiny: Tiny, pool: str) -> None:
    options = {"soft": pool, "val": None, "val_fraction": 0.25, "label_fraction": 0.2}
    folder = RunFolder(train(tiny(data=options)))
    videos, val = folder.read_videos()
    assert val is not None
    assert (len(videos), len(val)) == (12, 4)
    assert not {entry.path for entry in videos} & {entry.path for entry in val}


def test_a_pattern_names_the_groups_of_videos_outside_the_training_list(
    tiny: Tiny, colors: Path, tmp_path: Path
) -> None:
    root = tmp_path / "clips"
    for color in ("blue", "red"):
        (root / color).mkdir(parents=True)
        for number in range(4):
            shutil.copy(colors / f"train_{color}_{number}.mp4", root / color / f"{color}_{number}_0.mp4")
    others = []
    for number in range(4):  # of the same scenes, in other files
        others.append((str(tmp_path / f"x_{number}_1.mp4"), 0.5))
        shutil.copy(colors / f"train_red_{number + 4}.mp4", others[-1][0])
    pattern = r"_(\d+)_\d$"
    options = {"train": str(root), "val": None, "val_fraction": 0.25, "source_pattern": pattern}
    config = tiny(data=options | {"soft": _table(tmp_path / "pool.csv", others)})
    videos, val = RunFolder(train(config)).read_videos()
    assert val is not None
    added = {entry.source for entry in videos if entry.label is None}
    assert added == {"0", "1", "2", "3"} - set(val.sources())


def test_nothing_but_labels_is_an_ordinary_run(tiny: Tiny, pool: str, tmp_path: Path) -> None:
    plain = RunFolder(train(tiny(out=str(tmp_path / "plain"))))
    folder = RunFolder(train(tiny(data={"soft": pool})))  # all videos have labels
    assert not folder.soft_csv.exists()
    left, right = load_file(plain.last), load_file(folder.last)
    assert all(torch.equal(value, right[key]) for key, value in left.items())


def test_unreadable_videos_are_left_out(tiny: Tiny, pool: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    lines = Path(pool).read_text().splitlines()
    Path(pool).write_text("\n".join([lines[0], f"{empty},0.5,0.5", *lines[1:]]) + "\n")
    folder = RunFolder(train(tiny(data={"soft": pool, "label_fraction": 0.25, "max_bad": 0.1})))
    videos, _ = folder.read_videos()
    targets = folder.read_soft(videos)
    assert targets is not None
    assert len(videos) == len(targets) == 16
    assert list(folder.read_bad()) == [str(empty)]
    soft = read_soft_labels(pool).with_classes(("blue", "red"))
    given = dict(zip(soft.videos.table["path"].to_pylist(), soft.probs.tolist(), strict=True))
    assert targets[4:].tolist() == [given[str(entry.path)] for entry in videos][4:]


def test_tables_that_do_not_fit_are_refused(tiny: Tiny, colors: Path, tmp_path: Path) -> None:
    rows = [(str(colors / "train_red_0.mp4"), 0.5)]
    other = _table(tmp_path / "other.csv", rows, classes=("rot", "blue"))
    with pytest.raises(ManifestError, match=r"other\.csv: the class 'rot' is not a class of the training"):
        train(tiny(data={"soft": other}))
    moved = _table(tmp_path / "moved.csv", [("/nowhere/red.mp4", 0.5)])
    with pytest.raises(ManifestError, match=r"moved\.csv"):
        train(tiny(data={"soft": moved}))
    with pytest.raises(ConfigError, match=r"data\.balance is on and data\.soft is other\.csv"):
        tiny(data={"soft": "other.csv", "balance": True})
    several = tmp_path / "several.csv"
    several.write_text(f"path,labels\n{rows[0][0]},red|blue\n{colors / 'train_red_1.mp4'},red\n")
    with pytest.raises(ConfigError, match=r"data\.soft is .*may have several labels; soft labels are"):
        train(tiny(data={"train": str(several), "val": None, "soft": other}))
    assert not Path(tiny().out).exists()


def test_a_run_whose_lists_do_not_match_is_not_resumed(tiny: Tiny, pool: str) -> None:
    config = tiny(data={"soft": pool, "label_fraction": 0.5})
    folder = RunFolder(train(config))
    lines = folder.soft_csv.read_text().splitlines(keepends=True)
    folder.soft_csv.write_text("".join(lines[:-1]))
    with pytest.raises(CheckpointError, match=r"soft\.csv lists 7 videos; it must list the 8 videos"):
        train(replace(config, optim=replace(config.optim, epochs=2)), resume=True)
    folder.soft_csv.unlink()
    with pytest.raises(CheckpointError, match=r"soft\.csv is missing: the probabilities of 8 videos"):
        train(replace(config, optim=replace(config.optim, epochs=2)), resume=True)


def test_a_start_that_was_interrupted_may_have_written_soft_labels(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    folder = RunFolder(config.out)

    def stopped(_: object) -> None:
        folder.soft_csv.touch()
        raise InterruptedRunError(folder.path, 2, config.command)

    with monkeypatch.context() as patch:
        patch.setattr("t3d.training.run.choose_videos", stopped)
        with pytest.raises(InterruptedRunError):
            train(config)
    assert folder.undecided
    train(config, resume=True)
    assert not folder.soft_csv.exists()
