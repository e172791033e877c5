from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from t3d.card import ModelCard
from t3d.data.clips.check import readable
from t3d.data.clips.dataset import ClipItem, TrainClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.sampler import SampleKey
from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError, DivergedError, ManifestError
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores_table import read_scores
from t3d.evaluation.scoring import score_videos
from t3d.evaluation.task import measure
from t3d.models.weights import load_model
from t3d.prepare.index import index_videos
from t3d.training import run as loop
from t3d.training import start
from t3d.training.checkpoint import Snapshot
from t3d.training.config import TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.logging import read_log
from t3d.training.meter import EpochFigures
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.start import Run
from t3d.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("work_here")

Tiny = Callable[..., TrainConfig]


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)


def header_of(path: Path, *, but: str = "") -> dict[str, Any]:
    """Return the header of a checkpoint without times and without one entry of the card's provenance."""
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["t3d_checkpoint"])
    header["progress"].pop("minutes")
    header["card"] = json.loads(header["card"])
    header["card"]["provenance"].pop(but, None)
    return header


def log_of(folder: RunFolder) -> list[dict[str, Any]]:
    timing = ("time", "clips_per_second", "waiting_for_data")
    return [{k: v for k, v in line.items() if k not in timing} for line in read_log(folder.log)]


def same(one: RunFolder, other: RunFolder, *, but: str = "") -> None:
    for name in ("checkpoint.safetensors", "last.safetensors", "best.safetensors"):
        left, right = tensors_of(one.path / name), tensors_of(other.path / name)
        assert left.keys() == right.keys(), name
        for key, value in left.items():
            assert torch.equal(value, right[key]), (name, key)
    assert header_of(one.checkpoint, but=but) == header_of(other.checkpoint, but=but)
    assert log_of(one) == log_of(other)


# --- a run and its files ----------------------------------------------------------------------------------


def test_a_run_learns_an_easy_task(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(optim={"epochs": 4, "ema_decay": 0.9, "lr": 0.1})
    folder = RunFolder(train(config))
    losses = [line["loss"] for line in read_log(folder.log) if line["kind"] == "train"]
    assert len(losses) == 16
    assert sum(losses[-4:]) / 4 < 0.5 * losses[0]
    last = [line for line in read_log(folder.log) if line["kind"] == "val"][-1]
    assert (last["epoch"], last["step"], last["top1"], last["bad"]) == (4, 16, 1.0, 0)
    assert "top-1 100.0%" in capsys.readouterr().out
    files = {file.name for file in folder.path.iterdir()} - {"tensorboard"}
    assert files == {
        *("config.yaml", "classes.txt", "train.csv", "val.csv", "log.jsonl"),
        *("checkpoint.safetensors", "last.safetensors", "best.safetensors", "val_scores.csv"),
    }
    # The weights are those of the moving average, and their scores are those in the log.
    model, card = load_model(folder.last)
    assert card.classes == ("blue", "red")
    assert card.clip == config.clip
    _, val = folder.read_videos()
    assert val is not None
    metrics = measure(score_videos(model, val, Protocol(card.clip)))
    best = measure(read_scores(folder.val_scores_csv, val, targets="single"))
    assert best.best_by == max(line["top1"] for line in read_log(folder.log) if line["kind"] == "val")
    assert (metrics.loss, metrics.video_top1) == (pytest.approx(last["loss"], abs=1e-12), 1.0)
    ema = tensors_of(folder.checkpoint)
    assert torch.equal(ema["ema.module.features.conv0.weight"], model.state_dict()["features.conv0.weight"])
    assert not torch.equal(ema["model.features.conv0.weight"], ema["ema.module.features.conv0.weight"])


def test_validations_follow_eval_every_and_the_last_epoch_has_one(tiny: Tiny) -> None:
    folder = RunFolder(train(tiny(optim={"epochs": 3}, eval_every=2, log_every=3)))
    steps = [(line["kind"], line["step"]) for line in read_log(folder.log)]
    expected = [3, 4, 6, 8, 9, 12]
    assert [step for kind, step in steps if kind == "train"] == expected
    assert [step for kind, step in steps if kind == "val"] == [8, 12]


def test_without_validation_videos(tiny: Tiny) -> None:
    folder = RunFolder(train(tiny(data={"val": None, "val_fraction": 0.0})))
    assert not folder.val_csv.exists()
    assert not folder.best.exists()
    assert folder.last.exists()


def test_a_held_out_share_is_never_trained_on(tiny: Tiny) -> None:
    folder = RunFolder(train(tiny(data={"val": None, "val_fraction": 0.25})))
    rest, held = folder.read_videos()
    assert held is not None
    assert (len(rest), len(held)) == (12, 4)
    assert not {entry.path for entry in rest} & {entry.path for entry in held}


# --- restarts --------------------------------------------------------------------------------------------

# Runs the command line twice: stopped by SIGTERM to the whole group in the middle of an epoch, then killed
# while the checkpoint after a later step is half written.
INTERRUPTED = """
import os, signal, sys, time
import torch
from t3d.cli.main import main
import safetensors.torch
from t3d.training.trainer import Trainer

torch.set_num_threads(1)
take = Trainer.take_step

def take_step(self, batches, *, epoch, step):
    take(self, batches, epoch=epoch, step=step)
    if (epoch, step) == (1, 1):
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.5)  # so that data workers that die are noticed

Trainer.take_step = take_step
print("status", main(["train", "--config", sys.argv[1]]), flush=True)

Trainer.take_step = take
write, saved = safetensors.torch.save_file, []

def save_file(tensors, path, **more):
    saved.append(path)
    if len(saved) == 7:
        path.write_bytes(b"half")
        os.killpg(0, signal.SIGKILL)
    write(tensors, path, **more)

safetensors.torch.save_file = save_file
main(["train", "--config", sys.argv[2]])
"""


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    """Return options that use every part of the state."""
    return {
        "optim": {
            "epochs": 3,
            "ema_decay": 0.9,
            "mixup_alpha": 0.3,
            "label_smoothing": 0.1,
            "max_grad_norm": 1.0,
            "schedule": "plateau",
            "patience": 0,
            "warmup_epochs": 0.5,
        },
        "augment": {"crop": "random_resized", "color": 0.3},
        "model": {"options": {**NET_OPTIONS, "drop_rate": 0.2}},
    }


NET_OPTIONS = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


@pytest.fixture
def interrupted(tiny: Tiny, everything: dict[str, Any], tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """The run stopped by SIGTERM, and the one killed by SIGKILL; both had two data workers."""
    stopped = tiny(**everything, data={"workers": 2}, out=str(tmp_path / "stopped"))
    killed = replace(stopped, out=str(tmp_path / "killed"), checkpoint_minutes=0.0)
    files = []
    for config in (stopped, killed):
        template = RunFolder(tmp_path / "template")
        template.start(replace(config, overwrite=True), *_videos(config), [])
        options = template.config.read_text().replace("overwrite: true", "overwrite: false")
        files.append(tmp_path / f"{Path(config.out).name}.yaml")
        files[-1].write_text(options)
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *map(str, files)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, err
    assert f"status {128 + signal.SIGTERM}" in out, err
    assert f"{stopped.out}: SIGTERM stopped the run; its state is saved" in err
    assert f"Resume it with: t3d train --resume {stopped.out}" in err
    assert "Traceback" not in err
    return RunFolder(stopped.out), RunFolder(killed.out)


def _videos(config: TrainConfig) -> tuple[Any, Any]:
    assert config.data.val is not None
    return Manifest.from_csv(config.data.train), Manifest.from_csv(config.data.val)


def test_a_stopped_or_killed_run_resumes_bit_exactly(
    tiny: Tiny, everything: dict[str, Any], tmp_path: Path, interrupted: tuple[RunFolder, RunFolder]
) -> None:
    straight = RunFolder(train(tiny(**everything, out=str(tmp_path / "straight"))))
    assert [line["step"] for line in log_of(straight) if line["kind"] == "train"] == list(range(1, 13))
    stopped, killed = interrupted
    assert header_of(stopped.checkpoint)["progress"].items() >= {"epoch": 1, "step": 2}.items()

    # Killed while it wrote its seventh checkpoint, after the sixth step (each epoch ends with two). The sixth
    # checkpoint is complete, and the log is ahead of it.
    assert header_of(killed.checkpoint)["progress"]["epoch"] == 1
    assert header_of(killed.checkpoint)["progress"]["step"] == 1
    assert log_of(killed)[-1]["step"] == 6
    assert any(file.name.startswith(".") for file in killed.path.iterdir())
    early = tmp_path / "early"
    shutil.copytree(killed.path, early)
    (early / "checkpoint.safetensors").unlink()  # as if killed before its first checkpoint

    for folder, workers in ((stopped, 2), (killed, 0), (RunFolder(early), 1)):
        config = folder.read_config(TrainConfig)
        assert config.data.workers == 2
        config = replace(config, out=str(folder.path), data=replace(config.data, workers=workers))
        assert train(config, resume=True) == folder.path
        same(folder, straight)
        assert not any(file.name.startswith(".") for file in folder.path.iterdir())


# --- weights ---------------------------------------------------------------------------------------------


def card_in(checkpoint: Path) -> tuple[ModelCard, str]:
    with safe_open(checkpoint, framework="pt") as file:
        header = json.loads(file.metadata()["t3d_checkpoint"])
    return ModelCard.from_json(header["card"]), header["weights"]


def scored(accuracies: list[float]) -> Callable[[Any], Any]:
    """Return a replacement of `measure` that gives each validation the next accuracy."""
    coming = iter(accuracies)
    return lambda scores, **_: replace(measure(scores), video_top1=next(coming))


def test_an_unfinished_run_keeps_its_weights_in_the_checkpoint_only(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of four epochs is the best; the run is stopped in the fourth, and resumed."""
    config = tiny(optim={"epochs": 4, "ema_decay": 0.5})
    folder = RunFolder(config.out)
    after: dict[int, dict[str, torch.Tensor]] = {}
    take, keep = Trainer.take_step, Trainer.keep_if_best

    def keeping(self: Trainer, epoch: int, score: float, summary: str) -> None:
        averaged = self.learner.averaged.state_dict()
        after[epoch] = {name: tensor.clone() for name, tensor in averaged.items()}
        keep(self, epoch, score, summary)

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        take(self, batches, epoch=epoch, step=step)
        assert not folder.last.exists()
        assert not folder.best.exists()
        if (epoch, step) == (3, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "keep_if_best", keeping)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure", scored([0.25, 0.75, 0.5]))
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    assert not folder.last.exists()
    assert not folder.best.exists()
    card, prefix = card_in(folder.checkpoint)
    assert (card.provenance["epochs"], card.classes, prefix) == (2, ("blue", "red"), "best.")
    kept = tensors_of(folder.checkpoint)
    for name, tensor in after[2].items():
        assert torch.equal(kept[f"best.{name}"], tensor), name

    monkeypatch.setattr(loop, "measure", scored([0.75]))  # not better than the second
    train(config, resume=True)
    for path, epoch in ((folder.best, 2), (folder.last, 4)):
        model, card = load_model(path)
        assert card.provenance["epochs"] == epoch
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, after[epoch][name]), (path.name, name)
    assert folder.checkpoint.exists()


def test_a_run_interrupted_between_its_two_weights_files_writes_both_when_resumed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"))))
    config = tiny()
    folder = RunFolder(config.out)
    write = Snapshot.write

    def writing(self: Snapshot, path: Path) -> None:
        if path == folder.last:
            raise OSError("no space left")
        write(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "write", writing)
        with pytest.raises(OSError, match="no space left"):
            train(config)
    assert folder.best.exists()
    assert not folder.last.exists()
    train(config, resume=True)
    same(folder, straight)
    assert folder.last.read_bytes() == straight.last.read_bytes()
    assert folder.best.read_bytes() == straight.best.read_bytes()


def test_without_validation_the_checkpoint_describes_the_current_weights(tiny: Tiny) -> None:
    config = tiny(data={"val": None, "val_fraction": 0.0}, optim={"epochs": 2})
    folder = RunFolder(train(config))
    card, prefix = card_in(folder.checkpoint)
    assert (card, prefix) == (load_model(folder.last)[1], "model.")
    assert not any(name.startswith("best.") for name in tensors_of(folder.checkpoint))
    assert not folder.best.exists()


def test_a_finished_run_that_is_trained_longer_keeps_its_files_until_new_ones_replace_them(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    folder = RunFolder(train(config))
    before = folder.best.read_bytes(), folder.last.read_bytes()
    take = Trainer.take_step

    def looking(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        assert (folder.best.read_bytes(), folder.last.read_bytes()) == before
        take(self, batches, epoch=epoch, step=step)

    monkeypatch.setattr(Trainer, "take_step", looking)
    train(replace(config, optim=replace(config.optim, epochs=2)), resume=True)
    assert load_model(folder.last)[1].provenance["epochs"] == 2
    assert folder.last.read_bytes() != before[1]


def test_resuming_a_finished_run_changes_nothing(tiny: Tiny) -> None:
    config = tiny()
    folder = RunFolder(train(config))
    before = {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    train(config, resume=True)
    assert before == {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_validating_loses_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, number: int, tmp_path: Path
) -> None:
    straight = RunFolder(train(tiny(optim={"epochs": 2}, out=str(tmp_path / "straight"))))
    config = tiny(optim={"epochs": 2})
    folder = RunFolder(config.out)
    seen = []

    def interrupting(scores: Any, **_: object) -> Any:
        seen.append(
            header_of(folder.checkpoint)["progress"]
        )  # saved before, because the grace period may be short
        os.kill(os.getpid(), number)
        return measure(scores)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure", interrupting)
        with pytest.raises(
            InterruptedRunError, match=f"{signal.Signals(number).name} stopped the run; its state"
        ) as caught:
            train(config)
    assert (caught.value.signal, caught.value.folder) == (number, folder.path)
    assert caught.value.command == "t3d train"
    assert len(seen) == 1
    assert seen[0].items() >= {"epoch": 0, "step": 4, "best": -1.0, "figures": {}}.items()
    progress = header_of(folder.checkpoint)["progress"]
    assert (progress["epoch"], progress["step"]) == (1, 0)  # no step after the validation
    train(config, resume=True)
    same(folder, straight)


def test_an_interrupted_validation_is_repeated(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"))))
    config = tiny()
    folder = RunFolder(config.out)

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "keep_if_best", fail)  # after the validation's line in the log
        with pytest.raises(OSError, match="no space left"):
            train(config)
    assert [line["kind"] for line in log_of(folder)].count("val") == 1
    capsys.readouterr()
    train(config, resume=True)
    same(folder, straight)
    assert " nan " not in capsys.readouterr().out


# --- runs that must stop ----------------------------------------------------------------------------------


def test_a_diverging_run_stops_and_keeps_the_checkpoint_from_before(tiny: Tiny) -> None:
    config = tiny()
    folder = RunFolder(train(config))
    before = folder.checkpoint.read_bytes(), folder.last.read_bytes()
    wild = replace(config, optim=replace(config.optim, lr=1e30, epochs=3), checkpoint_minutes=0.0)
    with pytest.raises(DivergedError, match=r"the last checkpoint is kept.*optim\.lr \(now 1e\+30\)"):
        train(wild, resume=True)
    assert (folder.checkpoint.read_bytes(), folder.last.read_bytes()) == before
    tame = replace(config, optim=replace(config.optim, epochs=2))
    train(tame, resume=True)
    assert header_of(folder.checkpoint)["progress"]["epoch"] == 2


def test_weights_that_diverge_in_the_last_step_are_not_saved(tiny: Tiny) -> None:
    config = tiny(optim={"lr": 1e30, "batch_size": 16})  # one step per epoch, whose own loss is finite
    with pytest.raises(DivergedError):
        train(config)
    assert not RunFolder(config.out).checkpoint.exists()
    assert not RunFolder(config.out).last.exists()


def test_scores_that_are_not_finite_stop_the_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, *args: Any, **options: Any) -> Any:
        next(model.get_buffer(name) for name, _ in model.named_buffers() if "running_mean" in name).fill_(
            math.nan
        )
        return score_videos(model, *args, **options)

    monkeypatch.setattr(loop, "score_videos", broken)
    with pytest.raises(DivergedError, match=r"validation: .*not finite.*optim\.lr \(now 0\.05\)"):
        train(tiny())


@pytest.fixture
def more_videos(colors: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the training table and appends rows: (path, label)."""

    def make(*rows: tuple[str, str], only: str = "") -> Path:
        with (colors / "train.csv").open(newline="") as file:
            head, *old = csv.reader(file)
        kept = [[str(colors / path), label, source] for path, label, source in old if only in label]
        with (tmp_path / "table.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *kept, *([path, label, path] for path, label in rows)])
        return tmp_path / "table.csv"

    return make


def test_few_bad_videos_are_left_out_by_name(
    tiny: Tiny, more_videos: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    table = more_videos(("empty.mp4", "red"), ("absent.mp4", "blue"))
    folder = RunFolder(train(tiny(data={"train": str(table), "max_bad": 0.2})))
    assert {Path(path).name for path in folder.read_bad()} == {"empty.mp4", "absent.mp4"}
    assert all(reason for reason in folder.read_bad().values())
    assert len(folder.read_videos()[0]) == 16
    opening = capsys.readouterr().out.splitlines()[0]
    place = "on the GPU" if torch.cuda.is_available() else "on the CPU"
    assert opening == (
        "Training densenet3d_tiny on 16 videos (2 classes, 16 groups), validating on 6, "
        f"{place}; 2 unreadable videos left out (bad.csv)"
    )


def test_too_many_bad_videos_are_refused(
    tiny: Tiny, more_videos: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    config = tiny(data={"train": str(more_videos(("empty.mp4", "red"))), "max_bad": 0.05})
    with pytest.raises(ManifestError, match=r"1 of 17 videos \(5\.9%\)(?s:.*)empty\.mp4"):
        train(config)
    assert not Path(config.out).exists()


@pytest.fixture
def broken_within(colors: Path, tmp_path: Path) -> Path:
    """A video whose first and last frames can be decoded, and no frame around its middle."""
    raw = bytearray((colors / "train_red_0.mp4").read_bytes())
    start = raw.index(b"mdat") + 4
    length = len(raw) - start
    from_, to = start + length * 5 // 12, start + length * 8 // 12
    raw[from_:to] = bytes(to - from_)
    (tmp_path / "broken.mp4").write_bytes(raw)
    return tmp_path / "broken.mp4"


def test_a_video_that_is_corrupt_in_the_middle_is_reported_and_counted(
    tiny: Tiny,
    more_videos: Callable[..., Path],
    broken_within: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = more_videos((broken_within.name, "red"))
    config = tiny(data={"train": str(table), "val": str(table), "max_bad": 0.1}, optim={"epochs": 2})
    # Whether its ends can be read depends on the decoder, so the check before the run is skipped.
    monkeypatch.setattr(start, "readable", lambda manifest, *_, **__: (manifest, [], []))
    folder = RunFolder(train(config))
    assert [Path(path).name for path in folder.read_bad()] == ["broken.mp4"]
    out = capsys.readouterr().out
    assert out.count("left out: ") == 1
    assert out.count("left out of the validation: ") == 2
    assert {line["bad"] for line in read_log(folder.log) if line["kind"] == "val"} == {1}

    strict = replace(config, out=f"{config.out}2", data=replace(config.data, max_bad=0.05))
    with pytest.raises(ManifestError, match=r"1 of 17 videos could not be decoded(?s:.*)broken\.mp4"):
        train(strict)


def refused(config: TrainConfig, kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        train(config)
    assert not Path(config.out).exists()
    assert not list(Path(config.out).parent.glob(".*"))


def test_videos_that_cannot_be_trained_on_leave_no_folder(
    tiny: Tiny, more_videos: Callable[..., Path], tmp_path: Path
) -> None:
    refused(tiny(optim={"batch_size": 17}), ConfigError, r"batch_size is 17, but there are only 16")
    refused(
        tiny(data={"train": str(more_videos(only="red"))}), ManifestError, r"at least 2 classes.*1 \(red\)"
    )
    unlabeled = str(more_videos(("v.mp4", "")))
    refused(tiny(data={"train": unlabeled}), ManifestError, "1 of 17 videos have no label")
    refused(tiny(data={"val": unlabeled}), ManifestError, "1 of 17 videos have no label")
    refused(
        tiny(data={"val": str(more_videos(("v.mp4", "redd")))}),
        ManifestError,
        r"the class 'redd' is not a class of the training videos \(blue, red\); did you mean 'red'",
    )
    refused(tiny(data={"train": str(tmp_path / "absent")}), ManifestError, "no such file or folder")


def test_wrong_options_are_refused_before_a_video_is_read(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(start, "readable", lambda *_, **__: pytest.fail("read the videos first"))
        refused(tiny(model={"name": "t3d_tini"}), ConfigError, "did you mean 't3d_tiny'")
        refused(tiny(model={"options": {"drop_rat": 0.1}}), ConfigError, "did you mean 'drop_rate'")
        ttl = {"ttl_after": ["layr1"], "ttl_depths": [[1, 3]]}
        refused(
            tiny(model={"name": "resnet3d18", "options": ttl}),
            ConfigError,
            "cannot follow 'layr1'.*mean 'layer1'",
        )
        refused(tiny(model={"freeze": "stm"}), ConfigError, "no stage 'stm' to freeze.*did you mean 'stem'")
        refused(tiny(clip={"size": 2}), ConfigError, r"clip\.size 2; densenet3d_tiny .* at least 1 frames of")
        refused(
            tiny(model={"init": str(tmp_path / "absent")}),
            CheckpointError,
            "no such run folder or weights file",
        )


def test_an_existing_run_is_only_overwritten_on_request(tiny: Tiny) -> None:
    config = tiny(optim={"batch_size": 16})
    folder = RunFolder(train(config))
    before = folder.last.read_bytes()
    with pytest.raises(ConfigError, match="already contains a run of t3d train"):
        train(config)
    assert folder.last.read_bytes() == before
    # Nor by a run that cannot start.
    with pytest.raises(ConfigError, match="batch_size is 99"):
        train(replace(config, overwrite=True, optim=replace(config.optim, batch_size=99)))
    assert folder.last.read_bytes() == before
    train(replace(config, overwrite=True, seed=1))
    assert folder.last.read_bytes() != before


def test_a_folder_without_a_run_cannot_be_resumed(tiny: Tiny) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        RunFolder(tiny().out).read_config(TrainConfig)


def test_a_checkpoint_of_another_net_is_refused(tiny: Tiny) -> None:
    config = tiny(optim={"batch_size": 16})
    folder = RunFolder(train(config))
    other = replace(config, model=replace(config.model, options={**NET_OPTIONS, "stem_channels": 16}))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors.*features\.conv0\.weight"):
        train(other, resume=True)
    assert folder.checkpoint.exists()


# --- starting from weights -------------------------------------------------------------------------------


def test_weights_of_other_classes_start_a_run_without_their_classifier(
    tiny: Tiny, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = RunFolder(train(tiny(out=str(tmp_path / "first"))))
    with (colors / "train.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    renamed = {"red": "apple", "blue": "sky"}
    rows = [[str(colors / path), renamed[label], source] for path, label, source in rows]
    rows[3][1] = rows[12][1] = "else"
    with (tmp_path / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    still = {"lr": 1e-30, "weight_decay": 0.0}
    config = tiny(
        data={"train": str(tmp_path / "other.csv"), "val": None, "val_fraction": 0.0},
        model={"init": str(first.last)},
        optim=still,
        out=str(tmp_path / "second"),
    )
    capsys.readouterr()
    second = RunFolder(train(config))
    assert f"weights from {first.last}: " in capsys.readouterr().out
    old, new = tensors_of(first.last), tensors_of(second.last)
    assert new["classifier.weight"].shape[0] == 3
    learnt = [key for key in old if key.endswith("weight") and not key.startswith("classifier")]
    assert len(learnt) > 5
    for key in learnt:
        assert torch.equal(old[key], new[key]), key
    # After the first checkpoint, the weights are no longer needed.
    first.last.unlink()
    train(replace(config, optim=replace(config.optim, epochs=2)), resume=True)


def test_a_cache_changes_only_the_speed(tiny: Tiny, tmp_path: Path) -> None:
    plain = RunFolder(train(tiny(out=str(tmp_path / "plain"))))
    cached = RunFolder(train(tiny(out=str(tmp_path / "cached"), data={"cache": str(tmp_path / "cache")})))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 22
    same(plain, cached)


def test_an_index_changes_only_the_speed(tiny: Tiny, colors: Path, tmp_path: Path) -> None:
    plain = RunFolder(train(tiny(out=str(tmp_path / "plain"))))
    for part in ("train", "val"):
        index_videos(Manifest.from_csv(colors / f"{part}.csv"), tmp_path / f"{part}.parquet")
    parts = {part: str(tmp_path / f"{part}.parquet") for part in ("train", "val")}
    indexed = RunFolder(train(tiny(out=str(tmp_path / "indexed"), data=parts)))
    same(plain, indexed, but="trained_on")


def test_a_balanced_run_sees_every_class_equally_often(
    tiny: Tiny, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (colors / "train.csv").read_text().splitlines()
    few = [rows[0], *(row for row in rows if ",red," in row), *[row for row in rows if ",blue," in row][:2]]
    table = colors / "few_blue.csv"
    table.write_text("\n".join(few) + "\n")
    seen: list[int] = []
    plain = TrainClips.__getitem__

    def noting(self: TrainClips, key: SampleKey) -> object:
        item = plain(self, key)
        assert isinstance(item, ClipItem)
        seen.append(item.label)
        return item

    monkeypatch.setattr(TrainClips, "__getitem__", noting)
    data = {"train": str(table), "balance": True}
    train(tiny(out=str(tmp_path / "balanced"), data=data, optim={"batch_size": 2, "epochs": 2}))
    assert np.bincount(seen).tolist() == [10, 10]


def test_filling_the_cache_finds_videos_that_training_cannot_read(
    broken_within: Path, tiny: Tiny, more_videos: Callable[..., Path], tmp_path: Path
) -> None:
    manifest = Manifest.from_csv(more_videos((broken_within.name, "red")))
    store = FrameStore(tiny().clip, cache=str(tmp_path / "cache"))
    kept, bad, _ = readable(manifest, store, max_bad=0.1)
    assert len(kept) == 16
    assert [Path(video.path).name for video in bad] == ["broken.mp4"]


def test_a_frozen_backbone_stays_and_the_run_resumes_exactly(tiny: Tiny, tmp_path: Path) -> None:
    first = RunFolder(train(tiny(out=str(tmp_path / "first"))))
    model = {"init": str(first.last), "freeze": "denseblock1"}
    optim = {"epochs": 2, "layer_decay": 0.7, "classifier_lr": 3.0}
    straight = RunFolder(train(tiny(model=model, optim=optim, out=str(tmp_path / "straight"))))
    given, tuned = load_file(first.last), load_file(straight.last)
    frozen = ("features.conv0", "features.norm0", "features.denseblock1", "features.transition1")
    for key, value in tuned.items():
        assert torch.equal(value, given[key]) == key.startswith(frozen), key
    config = tiny(model=model, optim=optim)
    folder = RunFolder(config.out)
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        take(self, batches, epoch=epoch, step=step)
        if epoch * self.steps + step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    train(folder.read_config(TrainConfig), resume=True)
    same(folder, straight)


def test_segments_are_trained_and_the_run_resumes_exactly(tiny: Tiny, tmp_path: Path) -> None:
    """Clips of 3 frames from each third of the 12; the weights are those of the net alone."""
    clip = {"segments": 3, "num_frames": 3}
    straight = RunFolder(train(tiny(clip=clip, optim={"epochs": 2}, out=str(tmp_path / "straight"))))
    net, card = load_model(straight.last)
    assert card.clip.segments == 3
    assert net(torch.zeros(1, 3, 3, 32, 32)).shape == (1, 2)
    config = tiny(clip=clip, optim={"epochs": 2})
    folder = RunFolder(config.out)
    take = Trainer.take_step
    seen = []

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        self.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        take(self, batches, epoch=epoch, step=step)
        if epoch * self.steps + step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    assert set(seen) == {(4, 3, 9, 32, 32)}
    train(folder.read_config(TrainConfig), resume=True)
    same(folder, straight)


def test_label_fraction_takes_whole_sources_after_the_validation_split(tiny: Tiny) -> None:
    config = tiny(data={"val": None, "val_fraction": 0.25, "label_fraction": 0.5})
    folder = RunFolder(train(config))
    videos, val = folder.read_videos()
    assert val is not None
    assert (len(videos), len(val)) == (6, 4)  # of 8 + 8 videos
    assert videos.class_counts() == {"blue": 3, "red": 3}
    with pytest.raises(ConfigError, match=r"data\.label_fraction is 1\.5"):
        tiny(data={"label_fraction": 1.5})


@pytest.mark.parametrize(
    ("processes", "device", "place"),
    [
        (1, "cpu", "on the CPU"),
        (1, "cuda", "on the GPU"),
        (2, "cpu", "in 2 processes on the CPU"),
        (4, "cuda", "in 4 processes on GPUs"),
    ],
)
def test_a_run_names_its_processes_and_devices(tiny: Tiny, processes: int, device: str, place: str) -> None:
    config = tiny()
    accelerator = SimpleNamespace(num_processes=processes, device=torch.device(device))
    run = Run(config, cast("Any", accelerator), RunFolder(config.out), FrameStore(config.clip), False)
    assert run.surroundings() == f", {place}"


def test_the_console_says_the_share_of_waiting_and_advises_once(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EpochFigures, "waiting", 0.05)
    monkeypatch.setattr("t3d.training.trainer.faster_data", lambda _, data: f"advice {data.workers}")
    train(tiny(optim={"epochs": 2}))
    printed = capsys.readouterr().out
    assert len(re.findall(r"epoch   \d/2 .* loss \d\.\d{3}  waiting for data 5%", printed)) == 2
    assert printed.count("advice 0") == 1
