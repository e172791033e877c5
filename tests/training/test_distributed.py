"""Two processes on the CPU, forked or started by torchrun (slow). One start runs all scenes."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scoring import score_videos
from t3d.evaluation.task import measure
from t3d.models.weights import load_model
from t3d.training.config import TrainConfig
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder

# The script of each process: a whole run; the same run stopped by a signal to the second process, then
# resumed; and a run that stops early. It writes its observations to seen_RANK.json.
SCENES = """
import atexit, json, os, signal, sys
from pathlib import Path
import torch
from t3d.training.config import TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.evaluation.task import measure
from t3d.training import run
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.step import SingleLabelStep
from t3d.training.trainer import Trainer
from dataclasses import replace

torch.set_num_threads(1)
root, rank = Path(sys.argv[1]), int(os.environ["RANK"])
seen = {"rows": [], "stopped": []}
# Registered before any run, so called after the functions that the runs register.
atexit.register(lambda: (root / f"in_group_{rank}").write_text(str(torch.distributed.is_initialized())))
loss, take = SingleLabelStep.loss, Trainer.take_step

def watching(self, model, batch, rng):
    seen["rows"].append([self.place, batch.videos.tolist()])
    return loss(self, model, batch, rng)

def take_step(self, batches, *, epoch, step):
    self.train_step.place = total = epoch * self.steps + step
    take(self, batches, epoch=epoch, step=step)
    if seen["stop"] and rank == 1 and total == 2:
        os.kill(os.getpid(), signal.SIGTERM)

SingleLabelStep.loss, Trainer.take_step = watching, take_step
seen["stop"] = False
config = RunFolder(root / "template").read_config(TrainConfig)
train(replace(config, out=str(root / "whole")))

SingleLabelStep.loss = loss
seen["stop"] = True
# Recomputing changes neither the weights nor what the processes exchange.
parts = replace(config, out=str(root / "parts"), model=replace(config.model, grad_checkpointing="blocks"))
try:
    train(parts)
except InterruptedRunError as error:
    seen["stopped"].append(error.signal)
seen["stop"] = False
train(parts, resume=True)

accuracies = iter([0.5, 0.75, 0.75, 0.5, 1.0])
run.measure = lambda scores, **_: replace(measure(scores), video_top1=next(accuracies))
early = replace(config, out=str(root / "early"), early_stopping=2)
train(replace(early, optim=replace(early.optim, epochs=5)))
seen["left"] = list(accuracies)
(root / f"seen_{rank}.json").write_text(json.dumps(seen))
"""


@pytest.fixture(scope="module", params=["forked", pytest.param("torchrun", marks=pytest.mark.slow)])
def scenes(
    request: pytest.FixtureRequest,
    colors: Path,
    tmp_path_factory: pytest.TempPathFactory,
    in_two_processes: Callable[[Callable[[int], str]], list[str]],
) -> Path:
    """The folder in which two processes ran the scenes."""
    from t3d.clip import ClipSpec
    from t3d.data.config import DataConfig
    from t3d.data.manifest.manifest import Manifest
    from t3d.training.config import ModelConfig, OptimConfig

    root = tmp_path_factory.mktemp("distributed")
    config = TrainConfig(
        out=str(root / "template"),
        data=DataConfig(train=str(colors / "train.csv"), val=str(colors / "val.csv"), workers=0),
        clip=ClipSpec(num_frames=8, stride=1, size=32, resize=32),
        model=ModelConfig(
            name="densenet3d_tiny",
            options={"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1},
        ),
        optim=OptimConfig(
            lr=0.05, epochs=2, batch_size=8, grad_accum_steps=2, schedule="constant", ema_decay=0.5
        ),
        precision="fp32",
        log_every=1,
    )
    RunFolder(config.out).start(config, Manifest.from_csv(config.data.train), None, [])
    (root / "scenes.py").write_text(SCENES)
    if request.param == "torchrun":
        printed = _by_torchrun(root)
    else:
        outputs = in_two_processes(lambda _: _forked(root))
        assert all(isinstance(output, str) for output in outputs), outputs  # else the errors that they raised
        printed = "".join(outputs)
    assert printed.count("epoch   2/2") == 2, printed  # once per run, not once per process
    return root


def _forked(root: Path) -> str:
    """Run the scenes in this process, and return what they print."""
    sys.argv = ["scenes.py", str(root)]
    with redirect_stdout(StringIO()) as printed:
        runpy.run_path(str(root / "scenes.py"))
    return printed.getvalue()


def _by_torchrun(root: Path) -> str:
    """Run the scenes in new processes, and return what they print."""
    command = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", root / "scenes.py", root]
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def seen(root: Path, rank: int) -> dict[str, Any]:
    observations: dict[str, Any] = json.loads((root / f"seen_{rank}.json").read_text())
    return observations


def test_there_is_one_run_folder_and_one_log(scenes: Path) -> None:
    assert {path.name for path in scenes.iterdir() if path.is_dir()} == {
        "template",
        "whole",
        "parts",
        "early",
    }
    kinds = [(line["kind"], line["step"]) for line in read_log(scenes / "whole" / "log.jsonl")]
    assert kinds == [("train", 1), ("train", 2), ("val", 2), ("train", 3), ("train", 4), ("val", 4)]


def test_each_clip_of_a_batch_is_seen_by_one_process(scenes: Path) -> None:
    for epoch in range(2):
        rows: list[int] = []
        for step in (2 * epoch, 2 * epoch + 1):
            shares = [
                [videos for place, videos in seen(scenes, rank)["rows"] if place == step] for rank in (0, 1)
            ]
            assert [[len(part) for part in share] for share in shares] == [[2, 2], [2, 2]]
            rows += [row for share in shares for part in share for row in part]
        assert sorted(rows) == list(range(16))


def test_the_logged_scores_are_those_of_one_process(scenes: Path) -> None:
    folder = RunFolder(scenes / "whole")
    model, card = load_model(folder.last)
    _, val = folder.read_videos()
    assert val is not None
    metrics = measure(score_videos(model, val, Protocol(card.clip)))
    last = read_log(folder.log)[-1]
    assert last["loss"] == pytest.approx(metrics.loss, abs=1e-9)
    assert (last["top1"], last["clip_top1"]) == (metrics.video_top1, metrics.clip_top1)


def test_all_processes_stop_early_after_the_same_validation(scenes: Path) -> None:
    assert seen(scenes, 0)["left"] == seen(scenes, 1)["left"] == [1.0]
    steps = [line["step"] for line in read_log(scenes / "early" / "log.jsonl") if line["kind"] == "val"]
    assert steps == [2, 4, 6, 8]


@pytest.mark.parametrize("scenes", [pytest.param("torchrun", marks=pytest.mark.slow)], indirect=True)
def test_every_process_leaves_its_group_before_it_exits(scenes: Path) -> None:
    assert [(scenes / f"in_group_{rank}").read_text() for rank in range(2)] == ["False", "False"]


def test_a_signal_to_one_process_stops_all_and_no_step_is_lost(scenes: Path) -> None:
    assert seen(scenes, 0)["stopped"] == seen(scenes, 1)["stopped"] == [15]
    for name in ("checkpoint.safetensors", "last.safetensors"):
        whole, parts = load_file(scenes / "whole" / name), load_file(scenes / "parts" / name)
        assert whole.keys() == parts.keys()
        for key, value in whole.items():
            # The order of the sum over processes may differ.
            torch.testing.assert_close(value, parts[key], rtol=1e-5, atol=1e-6, msg=f"{name} {key}")
    steps = [line["step"] for line in read_log(scenes / "parts" / "log.jsonl") if line["kind"] == "train"]
    assert steps == [1, 2, 3, 4]
