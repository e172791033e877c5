"""Cost of rows: GPU-hours from multiply-accumulates and speed, disk space from parameters."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from t3d.clip import ClipSpec
from t3d.device import pick_device, use_bf16
from t3d.models.flops import count_macs, model_size
from t3d.models.registry import create_model
from t3d.reproduce.config import SETS
from t3d.reproduce.runs import Run, Trial, learning
from t3d.reproduce.tables import PaperTable
from t3d.training.config import RunConfig, TrainConfig
from t3d.transfer.config import TransferConfig
from t3d.transfer.teachers.normalization import NAMED
from t3d.transfer.teachers.open import open_teacher

_FORWARD_AND_BACKWARD = 3  # a backward pass takes about twice the operations of a forward pass
_CLASSES = {"ucf101": 101, "hmdb51": 51, "kinetics": 400, "youtube8m": 0}
_MEASURED_NET, _MEASURED_FRAMES, _MEASURED_SIDE = "densenet3d121", 16, 112


@dataclass(frozen=True)
class Cost:
    """Cost of a run or a test.

    Args:
        macs: Multiply-accumulates per clip.
        flops: Total floating-point operations, with one clip per video in validation and tests.
        steps: Optimizer steps.
        disk: Disk space of the files that remain, in bytes.
    """

    macs: int
    flops: float
    steps: int = 0
    disk: int = 0


def run_cost(run: Run) -> Cost:
    """Return the cost of a run, including its validations."""
    config = run.config
    macs, parameters = _size(run)
    learned = learning(config, run.part.count)
    steps = learned // config.optim.batch_size * config.optim.epochs
    clips = steps * config.optim.batch_size
    held_out = round(run.part.count * config.data.val_fraction) * (config.optim.epochs // config.eval_every)
    flops = 2.0 * macs * (_FORWARD_AND_BACKWARD * clips + held_out)
    if isinstance(config, TransferConfig):
        flops += 2.0 * teacher_macs(config.teacher.name) * _teacher_frames(run, clips + held_out)
    moments = 1 if config.optim.name == "sgd" else 2
    weights = 3 if isinstance(config, TrainConfig) else 1  # last, best, and best in the checkpoint
    return Cost(macs, flops, steps, 4 * parameters * (weights + 1 + moments))


def _teacher_frames(run: Run, clips: int) -> int:
    """Return the number of frames that the teacher computes. Stored features are computed once per video."""
    config = run.config
    assert isinstance(config, TransferConfig)
    if not config.teacher.cache:
        return config.teacher.frames * clips
    return run.part.count * math.ceil(config.clip.num_frames * config.clip.step / config.teacher.frame_step)


def test_cost(trial: Trial) -> Cost:
    """Return the cost of the test of a row."""
    macs, _ = _size(trial.runs[-1])
    return Cost(macs, 2.0 * macs * trial.test.count)


def _size(run: Run) -> tuple[int, int]:
    config = run.config
    options = tuple(sorted((name, _frozen(value)) for name, value in config.model.options.items()))
    size = _counted(config.model.name, options, _CLASSES[run.on], config.clip.num_frames, config.clip.size)
    return size[0] * config.clip.segments, size[1]


@cache
def _counted(
    name: str, options: tuple[tuple[str, object], ...], classes: int, frames: int, side: int
) -> tuple[int, int]:
    size = model_size(name, num_classes=classes, options=dict(options), num_frames=frames, size=side)
    return size.macs, size.parameters


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


@cache
def teacher_macs(name: str) -> int:
    """Return the multiply-accumulates of a teacher per frame. 0 for an ONNX file, which is not counted."""
    own = name.lower().endswith((".safetensors", ".onnx"))
    any_values = NAMED["unit"][0]  # the count does not depend on them
    teacher = open_teacher(name, weights=None if own else "random", normalization=any_values)
    with FlopCounterMode(display=False) as counter:
        teacher(torch.zeros(1, 3, teacher.size, teacher.size, dtype=torch.uint8))
    return counter.get_total_flops() // 2


def measure_rate(seconds: float = 3.0) -> float:
    """Measure the training speed of this machine with a model of the paper, in GFLOP/s.

    Args:
        seconds: Duration of the measurement, after one warm-up step.
    """
    device = pick_device()
    bf16 = use_bf16("auto", device)
    batch = 8 if device.type == "cuda" else 2
    model = create_model(_MEASURED_NET, num_classes=101).to(device).to(memory_format=torch.channels_last_3d)
    macs = count_macs(model, num_frames=_MEASURED_FRAMES, size=_MEASURED_SIDE)
    clips = torch.rand(batch, 3, _MEASURED_FRAMES, _MEASURED_SIDE, _MEASURED_SIDE, device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)

    def step() -> float:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            scores = model(clips)
        loss = F.cross_entropy(scores.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()  # waits for the device

    step()
    steps, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        step()
        steps += 1
    return 2.0 * macs * _FORWARD_AND_BACKWARD * batch * steps / taken / 1e9


class _Line(NamedTuple):
    text: str
    cost: Cost
    done: bool
    again: bool


def plan_lines(table: PaperTable, rows: Sequence[Sequence[Trial]], *, rate: float) -> Iterator[str]:
    """Yield the lines of a plan: the runs, the tests and their cost.

    Args:
        table: Table to plan.
        rows: Trials of each row.
        rate: Training speed of the device in GFLOP/s.
    """
    yield f"{table.name}: {table.title}"
    seen: set[str] = set()
    flops = disk = 0.0
    runs = tests = 0
    for trials in rows:
        first = trials[0].runs[-1].config
        yield f"\n{trials[0].row}: {first.model.name}, clips of {_spoken(first.clip)}"
        shown: set[str] = set()
        for trial in trials:
            for line in _lines(trial, seen):
                if line.text in shown:  # a step that several splits share
                    continue
                shown.add(line.text)
                note = "  (already done)" if line.done else "  (the same run as above)" if line.again else ""
                took = _time(line.cost.flops / rate / 1e9)
                yield f"  {line.text}, {line.cost.macs / 1e9:,.1f} GMAC per clip: {took}{note}"
                if not line.done and not line.again:
                    flops += line.cost.flops
                    disk += line.cost.disk
                    runs, tests = runs + bool(line.cost.steps), tests + (not line.cost.steps)
    yield (
        f"\nRemaining: {runs} run(s) and {tests} test(s), {_time(flops / rate / 1e9)} at {rate:,.0f} "
        f"GFLOP/s, {disk / 1e9:,.1f} GB for weights and checkpoints."
    )
    yield (
        "The time is a lower bound: it covers only arithmetic, with one clip per video in validations and "
        "tests. Reading videos takes extra time, and so do longer videos."
    )


def _lines(trial: Trial, seen: set[str]) -> Iterator[_Line]:
    for run in trial.runs:
        config, cost = run.config, run_cost(run)
        where = f"{SETS[run.on]}{_split(trial, run)}"
        clip = "" if config.clip == trial.runs[-1].config.clip else f", clips of {_spoken(config.clip)}"
        yield _Line(
            f"{run.kind} on {where}{_labels(config)}{clip}: {_rate(config)}, {config.optim.epochs} epochs of "
            f"{learning(config, run.part.count):,} videos, {cost.steps:,} steps of {config.optim.batch_size} "
            "clips",
            cost,
            run.mark.exists(),
            config.out in seen,
        )
        seen.add(config.out)
    again = str(trial.folder) in seen
    seen.add(str(trial.folder))
    yield _Line(
        f"test on {SETS[trial.on]}{_split(trial, trial.runs[-1])}: {trial.test.count:,} videos",
        test_cost(trial),
        trial.metrics.exists(),
        again,
    )


def _split(trial: Trial, run: Run) -> str:
    return f" split {trial.split}" if run.on == trial.on and run.on != "kinetics" else ""


def _labels(config: RunConfig) -> str:
    if not isinstance(config, TransferConfig) or not config.labels.videos:
        return ""
    return f" with {config.labels.fraction:.0%} of the labels, teacher {config.teacher.name}"


def _time(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def _rate(config: RunConfig) -> str:
    return f"{config.optim.name} from {config.optim.lr:g}, {config.optim.schedule}"


def _spoken(clip: ClipSpec) -> str:
    segments = f" in {clip.segments} segments" if clip.segments > 1 else ""
    return f"{clip.num_frames} frames of {clip.size} × {clip.size}, stride {clip.stride}{segments}"
