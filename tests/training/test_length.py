"""Runs that are trained longer than planned, or stop earlier."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from t3d.errors import ConfigError
from t3d.models.weights import load_model
from t3d.training import length, start
from t3d.training.config import CHANGEABLE, TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]
Out = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def few(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the colored videos: `train.csv` (4 per class), `val.csv` (1 per class), a cache of frames."""
    folder = tmp_path_factory.mktemp("few")
    for name, per_class in (("train", 4), ("val", 1)):
        with (colors / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [row for row in rows if int(row["path"][:-4].rpartition("_")[2]) < per_class]
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "source"])
            writer.writerows((colors / row["path"], row["label"], row["source"]) for row in kept)
    return folder


@pytest.fixture
def tiny(tiny: Tiny, few: Path) -> Tiny:
    """The runs of this file: on half of the videos and from a cache, with 4 steps per epoch."""
    data = {"train": str(few / "train.csv"), "val": str(few / "val.csv"), "cache": str(few / "cache")}

    def make(**changes: Any) -> TrainConfig:
        changes["data"] = data | changes.get("data", {})
        changes["optim"] = {"batch_size": 2} | changes.get("optim", {})
        return tiny(**changes)

    return make


def log_of(folder: RunFolder) -> list[dict[str, Any]]:
    clocks = ("time", "clips_per_second", "waiting_for_data")
    return [{k: v for k, v in line.items() if k not in clocks} for line in read_log(folder.log)]


def header_of(folder: RunFolder) -> dict[str, Any]:
    with safe_open(folder.checkpoint, framework="pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["t3d_checkpoint"])
    header["progress"].pop("minutes")
    return header


def same(one: RunFolder, other: RunFolder, *names: str) -> None:
    """Both runs have the same weights, bit for bit, and by default the same state and log."""
    for name in names or ("checkpoint.safetensors", "last.safetensors", "best.safetensors"):
        left, right = load_file(one.path / name), load_file(other.path / name)
        assert left.keys() == right.keys(), name
        for key, value in left.items():
            assert torch.equal(value, right[key]), (name, key)
    if not names:
        assert header_of(one) == header_of(other)
        assert log_of(one) == log_of(other)


def longer(config: TrainConfig, epochs: int, **changes: Any) -> TrainConfig:
    return replace(config, optim=replace(config.optim, epochs=epochs), **changes)


def stopped(config: TrainConfig, after: int, *, resume: bool = False) -> RunFolder:
    """Train until this many steps of the whole run are taken, and stop by a signal."""
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        take(self, batches, epoch=epoch, step=step)
        if epoch * self.steps + step + 1 == after:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            train(config, resume=resume)
    return RunFolder(config.out)


def rates(folder: RunFolder) -> list[float]:
    return [line["lr"] for line in read_log(folder.log) if line["kind"] == "train"]


# --- longer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optim",
    [
        {"schedule": "constant", "ema_decay": 0.9, "mixup_alpha": 0.3},
        {"schedule": "step", "step_epochs": 1.5, "gamma": 0.5, "warmup_epochs": 0.5},
        {"schedule": "plateau", "patience": 0, "gamma": 0.5},
        {"schedule": "cosine", "warmup_epochs": 3.0},  # the cosine has not started
    ],
    ids=lambda optim: str(optim["schedule"]),
)
def test_a_run_trained_longer_is_one_longer_run(
    tiny: Tiny, tmp_path: Path, capsys: Out, optim: dict[str, Any]
) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"), optim=optim | {"epochs": 4})))
    config = tiny(out=str(tmp_path / "finished"), optim=optim | {"epochs": 2})
    finished = RunFolder(train(config))
    capsys.readouterr()
    train(longer(config, 4), resume=True)
    assert "is now 4 (before: 2): the result is that of one run of 4 epochs\n" in capsys.readouterr().out
    same(finished, straight)
    assert finished.read_config(TrainConfig).optim.epochs == 4

    config = replace(config, out=str(tmp_path / "interrupted"))
    interrupted = stopped(config, after=6)
    train(longer(config, 4), resume=True)
    same(interrupted, straight)


def test_an_additional_validation_at_the_first_end_changes_no_weight(tiny: Tiny, tmp_path: Path) -> None:
    optim = {"schedule": "plateau", "patience": 0, "gamma": 0.1, "lr": 1e-9}  # every validation counts
    straight = RunFolder(
        train(tiny(out=str(tmp_path / "straight"), optim=optim | {"epochs": 6}, eval_every=2))
    )
    config = tiny(optim=optim | {"epochs": 5}, eval_every=2)
    folder = RunFolder(train(config))
    train(longer(config, 6), resume=True)
    same(folder, straight, "last.safetensors")
    assert rates(folder) == rates(straight)


def test_a_cosine_is_followed_by_a_second_one(tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    optim = {"schedule": "cosine", "warmup_epochs": 1.0, "lr": 0.1}
    config = tiny(out=str(tmp_path / "run"), optim=optim | {"epochs": 2})
    folder = RunFolder(train(config))
    capsys.readouterr()
    train(longer(config, 4), resume=True)
    peak = 0.1 * 0.5 * (1 + math.cos(math.pi * (2 - 1) / (4 - 1)))  # of one run of 4 epochs, after 2
    assert (
        "optim.epochs is now 4 (before: 2): a second cosine without warm-up starts at a learning rate of "
        f"{peak:.3g} and ends at 0. The result differs from that of one run of 4 epochs\n"
    ) in capsys.readouterr().out
    assert peak == pytest.approx(0.075)
    second = [peak * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates(folder)[8:] == pytest.approx(second, rel=1e-12)

    # The same if it is interrupted in the second cosine, with the new number of epochs from its config.yaml.
    config = replace(config, out=str(tmp_path / "interrupted"))
    train(config)
    interrupted = stopped(longer(config, 4), after=11, resume=True)
    written = replace(interrupted.read_config(TrainConfig), out=config.out)
    assert written.optim.epochs == 4
    capsys.readouterr()
    train(written, resume=True)
    assert "second cosine" not in capsys.readouterr().out
    same(interrupted, folder)


def test_an_interrupted_cosine_is_replaced_from_where_it_is(tiny: Tiny) -> None:
    config = tiny(optim={"schedule": "cosine", "epochs": 2, "lr": 0.1})
    folder = stopped(config, after=6)
    train(longer(config, 3), resume=True)
    peak = 0.1 * 0.5 * (1 + math.cos(math.pi * 1.5 / 3))
    second = [peak * 0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert rates(folder)[6:] == pytest.approx(second, rel=1e-12)


def test_a_run_ends_before_its_planned_end_but_not_before_what_is_done(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"), optim={"epochs": 2})))
    config = tiny(optim={"epochs": 9})
    folder = stopped(config, after=5)
    with monkeypatch.context() as patch:
        patch.setattr(start.Run, "reopen_videos", lambda _: pytest.fail("read the videos first"))
        with pytest.raises(ConfigError, match=r"optim\.epochs is 1, but .* has already started epoch 2"):
            train(longer(config, 1), resume=True)
    assert folder.read_config(TrainConfig).optim.epochs == 9
    train(longer(config, 2), resume=True)
    same(folder, straight, "last.safetensors", "best.safetensors")
    assert folder.read_config(TrainConfig).optim.epochs == 2


def test_the_new_length_is_written_once_the_run_has_been_opened(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    folder = RunFolder(train(config))
    text = folder.config.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(start.Run, "reopen_videos", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(longer(config, 2), resume=True)
    assert folder.config.read_text() == text
    train(longer(config, 2), resume=True)
    assert folder.config.read_text() == text.replace("epochs: 1\n", "epochs: 2\n", 1)


def test_every_option_that_may_change_is_written(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "CHANGEABLE", (*CHANGEABLE, "log_every", "data.workers", "option.of_others"))
    config = tiny(optim={"epochs": 3}, early_stopping=4, log_every=5, data={"workers": 6})
    folder = RunFolder(config.out)
    with folder.starting(tiny()):
        length.record_length(config, folder)
        assert folder.read_config(TrainConfig) == config
        text = re.sub(r"^optim:\n(  .*\n)+", "", folder.config.read_text(), flags=re.MULTILINE)
        folder.config.write_text(text)
        assert "optim" not in text
        length.record_length(config, folder)
        assert folder.read_config(TrainConfig).optim.epochs == 3


def test_a_resumed_epoch_is_reported_whole(tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    """Stopped between two log lines: the next line and the epoch's line also cover the steps before."""

    def epoch_lines() -> list[str]:
        out = capsys.readouterr().out
        times = r" +[0-9.]+ min|  waiting for data \d+%"
        return [re.sub(times, "", line) for line in out.splitlines() if line.startswith("epoch")]

    options: dict[str, Any] = {"optim": {"epochs": 2, "lr": 0.2}, "log_every": 3}
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"), **options)))
    expected = epoch_lines()
    config = tiny(**options)
    folder = stopped(config, after=5)
    train(config, resume=True)
    assert epoch_lines() == expected
    same(folder, straight)


# --- earlier ---------------------------------------------------------------------------------------------


def score_as(patch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Replace the accuracies of the validations after epochs 1, 2, … by these values."""

    def scored(self: Trainer, epoch: int, score: float, summary: str) -> None:  # noqa: ARG001 (replaced)
        keep(self, epoch, values[epoch - 1], f"accuracy {values[epoch - 1]}")

    keep = Trainer.keep_if_best
    patch.setattr(Trainer, "keep_if_best", scored)


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The validations after epochs 1 to 7 have these accuracies: the second is best, until the sixth."""
    score_as(monkeypatch, [0.25, 0.75, 0.75, 0.5, 0.25, 1.0, 0.5])


@pytest.mark.usefixtures("accuracies")
def test_a_run_stops_when_validations_do_not_improve(tiny: Tiny, tmp_path: Path, capsys: Out) -> None:
    config = tiny(out=str(tmp_path / "run"), optim={"epochs": 7}, early_stopping=2)
    folder = RunFolder(train(config))
    assert [line["epoch"] for line in read_log(folder.log) if line["kind"] == "val"] == [1, 2, 3, 4]
    out = capsys.readouterr().out
    assert "stopped early after epoch 4 of 7: 2 validations without improvement\n" in out
    assert f"best validation: epoch 2, accuracy 0.75: {folder.best}\n" in out
    assert [load_model(path)[1].provenance["epochs"] for path in (folder.best, folder.last)] == [2, 4]

    # Interrupted and resumed, it stops after the same epoch.
    interrupted = stopped(replace(config, out=str(tmp_path / "interrupted")), after=14)
    capsys.readouterr()
    train(replace(config, out=str(interrupted.path)), resume=True)
    assert "stopped early after epoch 4 of 7" in capsys.readouterr().out
    same(interrupted, folder)

    # Resumed once more, it stays as it is and says why.
    before = {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    train(config, resume=True)
    assert "stopped early after epoch 4 of 7" in capsys.readouterr().out
    assert before == {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}


@pytest.mark.usefixtures("accuracies")
def test_a_run_that_stopped_early_is_trained_longer_by_more_patience(tiny: Tiny, tmp_path: Path) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"), optim={"epochs": 7}, early_stopping=4)))
    assert header_of(straight)["progress"].items() >= {"best_epoch": 6, "since_best": 1}.items()
    config = tiny(optim={"epochs": 7}, early_stopping=2)
    folder = RunFolder(train(config))
    with pytest.raises(ConfigError, match=r"stopped early, after 2 .* Set early_stopping to more than 2, or"):
        train(longer(config, 9), resume=True)
    for epochs in (9, 5):  # shorter than planned, too: it would stop again where it is
        with pytest.raises(ConfigError, match=rf"optim\.epochs is {epochs}, but .* stopped early"):
            train(longer(config, epochs), resume=True)
    assert folder.read_config(TrainConfig) == config
    train(replace(config, early_stopping=4), resume=True)
    same(folder, straight)
    assert folder.read_config(TrainConfig).early_stopping == 4


@pytest.mark.usefixtures("accuracies")
def test_early_stopping_counts_validations_and_not_epochs(tiny: Tiny) -> None:
    folder = RunFolder(train(tiny(optim={"epochs": 7}, early_stopping=1, eval_every=2)))
    assert [line["epoch"] for line in read_log(folder.log) if line["kind"] == "val"] == [2, 4]


@pytest.mark.parametrize(
    ("sixth", "epochs"),
    [
        pytest.param(0.5, [2, 4, 6], id="the run stops, although the additional validation was better"),
        pytest.param(0.8, [2, 4, 6, 8], id="the run does not stop, although the additional one was best"),
    ],
)
@pytest.mark.parametrize("additional", [0.25, 0.9])
def test_an_additional_validation_at_the_first_end_does_not_count(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    additional: float,
    sixth: float,
    epochs: list[int],
) -> None:
    score_as(monkeypatch, [0.0, 0.75, 0.0, 0.5, additional, sixth, 0.0, 0.6])
    options: dict[str, Any] = {"early_stopping": 2, "eval_every": 2}
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"), optim={"epochs": 8}, **options)))
    config = tiny(optim={"epochs": 5}, **options)
    folder = RunFolder(train(config))
    train(longer(config, 8), resume=True)

    def validated(run: RunFolder) -> list[int]:
        return [line["epoch"] for line in read_log(run.log) if line["kind"] == "val"]

    assert validated(straight) == epochs
    assert validated(folder) == sorted([*epochs, 5])
    same(folder, straight, "last.safetensors")


@pytest.mark.usefixtures("accuracies")
def test_a_run_that_reached_its_end_did_not_stop_early(tiny: Tiny) -> None:
    """It may have as many validations without improvement as the new limit."""
    config = tiny(optim={"epochs": 4}, early_stopping=3)
    train(config)
    with pytest.raises(ConfigError) as error:
        train(longer(config, 6, early_stopping=2), resume=True)
    assert str(error.value) == (
        f"optim.epochs is 6, but the run in {config.out} has 2 validations without improvement after 4 "
        "epochs, and with early_stopping = 2 it would stop immediately. Set early_stopping to more than 2, "
        "or to 0"
    )


@pytest.mark.usefixtures("accuracies")
@pytest.mark.parametrize("after", [20, 22])  # after epoch 5, and in the middle of the sixth
def test_a_resumed_run_stops_early_only_after_a_validation(tiny: Tiny, after: int) -> None:
    config = tiny(optim={"epochs": 7}, eval_every=2, early_stopping=2)
    folder = stopped(config, after=after)
    train(replace(config, early_stopping=1), resume=True)
    assert [line["epoch"] for line in read_log(folder.log) if line["kind"] == "val"][-1] == 7
    assert load_model(folder.last)[1].provenance["epochs"] == 7


def test_a_run_is_not_shortened_to_an_end_without_a_validation(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(optim={"epochs": 5}, eval_every=2)
    say = Trainer.say

    def stopping(self: Trainer, epoch: int, note: str = "") -> None:
        say(self, epoch, note)
        if epoch == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "say", stopping)
        with pytest.raises(InterruptedRunError):
            train(config)
    folder = RunFolder(config.out)
    with pytest.raises(ConfigError, match=r"did not validate after the last one \(eval_every is 2\); set it"):
        train(longer(config, 3), resume=True)
    assert folder.read_config(TrainConfig).optim.epochs == 5
    train(longer(config, 4), resume=True)
    assert [line["epoch"] for line in read_log(folder.log) if line["kind"] == "val"] == [2, 4]


def test_early_stopping_needs_videos_to_validate_on(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"early_stopping is 3 .* no validation videos: set data"):
        tiny(early_stopping=3, data={"val": None, "val_fraction": 0.0})
    with pytest.raises(ConfigError, match="early_stopping is -1; it must be at least 0"):
        tiny(early_stopping=-1)
