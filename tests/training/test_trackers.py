"""Trackers record a run next to its log, and never end it."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from t3d.errors import ConfigError
from t3d.training import trackers
from t3d.training.logging import RunLog, read_log
from t3d.training.start import make_accelerator
from t3d.training.trackers import Trackers, check_trackers

pytestmark = pytest.mark.usefixtures("_started")
OPTIONS = {"optim": {"lr": 0.1}, "seed": 0, "clip": {"size": None}}


class Recorder:
    """Stands for Accelerate's class of a tracker."""

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, Any], int]] = []
        self.options: dict[str, Any] = {}
        self.finished = False
        self.full = False

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.options = values

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.full:
            raise RuntimeError("the server is gone\nmore")
        self.lines.append((values, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def _started() -> None:
    """Accelerate's trackers need its state, which every run has."""
    make_accelerator()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setitem(trackers._OPENERS, "mlflow", lambda _, known: (made, known or "new"))
    return made


def test_numbers_and_options_arrive(tmp_path: Path, recorder: Recorder) -> None:
    with RunLog(tmp_path / "log.jsonl", main=True, steps=2, trackers=["mlflow"], options=OPTIONS) as log:
        log.write("train", 1, loss=0.5)
        log.write("val", 1, top1=0.25)
    assert recorder.options == {"optim.lr": 0.1, "seed": 0, "clip.size": "None"}
    assert recorder.lines == [({"train/loss": 0.5}, 1), ({"val/top1": 0.25}, 1)]
    assert recorder.finished
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": "new"}


@pytest.mark.usefixtures("recorder")
def test_a_resumed_run_continues_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trackers(["mlflow"], tmp_path, OPTIONS).close()
    seen = []
    again = Recorder()
    monkeypatch.setitem(trackers._OPENERS, "mlflow", lambda _, known: (seen.append(known) or again, known))
    Trackers(["mlflow"], tmp_path, OPTIONS).close()
    assert seen == ["new"]
    assert again.options == {}  # they are recorded already


def test_a_tracker_that_fails_is_reported_once(tmp_path: Path, recorder: Recorder) -> None:
    with RunLog(tmp_path / "log.jsonl", main=True, steps=9, trackers=["mlflow"]) as log:
        recorder.full = True
        with pytest.warns(UserWarning, match=r"no longer writing for mlflow: the server is gone$"):
            log.write("train", 1, loss=0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            log.write("train", 2, loss=0.5)
            log.write("train", 3, loss=0.5)
    assert len(read_log(tmp_path / "log.jsonl")) == 3


def test_a_tracker_that_does_not_start_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str, __: str | None) -> tuple[Any, str]:
        raise ConnectionError("no login")

    monkeypatch.setitem(trackers._OPENERS, "wandb", broken)
    with pytest.warns(UserWarning, match="no longer writing for wandb: no login"):
        made = Trackers(["wandb"], tmp_path, {})
    made.log({"a": 1.0}, 1)
    made.close()


def test_a_missing_package_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"`tracker` is wandb, .*`pip install wandb`"):
        check_trackers(["wandb"])


def test_each_run_has_a_name_in_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: what Accelerate passes on to `trackio.init`."""
    calls = []

    def init(**options: Any) -> SimpleNamespace:
        calls.append(options)
        return SimpleNamespace(log=lambda _, **__: None, finish=lambda: None)

    fake = ModuleType("trackio")
    fake.__dict__.update(init=init, config=SimpleNamespace(update=lambda _, **__: None))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    folder = tmp_path / "mine"
    folder.mkdir()
    for _ in range(2):
        Trackers(["trackio"], folder, OPTIONS).close()
    assert calls[0]["project"] == "t3d"
    assert calls[0]["name"].startswith("mine-")
    assert calls[0] == calls[1]


def installed(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@installed("mlflow")
def test_mlflow_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    for step in (1, 2):
        made = Trackers(["mlflow"], folder, OPTIONS)
        made.log({"train/loss": 1 / step}, step)
        made.close()
    run = json.loads((folder / "trackers.json").read_text())["mlflow"]
    history = mlflow.MlflowClient().get_metric_history(run, "train/loss")
    assert [(each.step, each.value) for each in history] == [(1, 1.0), (2, 0.5)]
    assert mlflow.get_run(run).data.params["optim.lr"] == "0.1"


@installed("wandb")
def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    made = Trackers(["wandb"], tmp_path, OPTIONS)
    made.log({"train/loss": 0.5}, 1)
    made.close()
    identifier = json.loads((tmp_path / "trackers.json").read_text())["wandb"]
    assert list(tmp_path.glob(f"wandb/offline-run-*-{identifier}/*.wandb"))


@installed("trackio")
def test_trackio_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    made = Trackers(["trackio"], tmp_path, OPTIONS)
    made.log({"train/loss": 0.5}, 1)
    made.close()
    assert list((tmp_path / "trackio").glob("*.db"))
