"""`t3d train`, `t3d transfer` and `t3d teacher`."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

from t3d.cli.command_line import command_line
from t3d.cli.options import Spelling
from t3d.device import is_main
from t3d.errors import T3DError
from t3d.training.config import TrainConfig
from t3d.transfer.config import TransferConfig
from t3d.transfer.teachers.config import TeacherTraining


@Spelling(
    yaml=True,
    short={
        "--videos": "data.train",
        "--val": "data.val",
        "--root": "data.root",
        "--label-fraction": "data.label_fraction",
        "--soft": "data.soft",
        "--cache": "data.cache",
        "--workers": "data.workers",
        "--model": "model.name",
        "--init": "model.init",
        "--freeze": "model.freeze",
        "--epochs": "optim.epochs",
        "--batch-size": "optim.batch_size",
        "--lr": "optim.lr",
    },
    first=(
        "data.train",
        "data.val",
        "out",
        "model.name",
        "model.init",
        "recipe",
        "optim.epochs",
        "optim.batch_size",
        "optim.lr",
        "data.cache",
        "data.workers",
        "resume",
    ),
)
def train(config: TrainConfig, *, resume: bool = False) -> int:
    """Train a model on labeled videos.

    A recipe sets many options. Options that you give override it. Without a recipe, the defaults below
    hold. `--print-config` shows all values.

        t3d train --videos clips --out runs/first --recipe modern
    """
    from t3d.training.run import train as run

    _write_page(run(config, resume=resume), "train")
    return 0


@Spelling(
    yaml=True,
    short={
        "--videos": "data.videos",
        "--root": "data.root",
        "--cache": "data.cache",
        "--workers": "data.workers",
        "--teacher": "teacher.name",
        "--student": "model.name",
        "--student-input": "clip.modality",
        "--labels": "labels.videos",
        "--label-fraction": "labels.fraction",
        "--exclude": "data.exclude",
        "--objective": "pairs.objective",
        "--epochs": "optim.epochs",
        "--batch-size": "optim.batch_size",
        "--lr": "optim.lr",
    },
    first=(
        "data.videos",
        "out",
        "labels.videos",
        "teacher.name",
        "model.name",
        "recipe",
        "pairs.objective",
        "optim.epochs",
        "optim.batch_size",
        "optim.lr",
        "data.cache",
        "resume",
    ),
)
def transfer(config: TransferConfig, *, resume: bool = False) -> int:
    """Train a 3D model on unlabeled videos with a frozen 2D model.

    With --labels, a few labeled videos define the task: the 2D model learns their classes, labels all other
    videos, and the 3D model learns from these soft labels. The result is a classifier.

    A recipe sets many options. Options that you give override it. Without a recipe, the defaults below
    hold. `--print-config` shows all values.

        t3d transfer --videos clips --teacher resnet50 --out runs/student
    """
    from t3d.transfer.run import transfer as run

    folder = run(config, resume=resume)
    _write_page(folder, "transfer")
    teacher_file = folder / "teacher.safetensors"
    if config.labels.videos and teacher_file.exists() and is_main():
        print("To see which of the two is better, test both on labeled videos that neither has learned from:")
        words = ["t3d", "compare", str(folder), str(teacher_file)]
        words += ["--videos", config.data.exclude or "TEST_VIDEOS"]
        words += ["--root", config.data.root] if config.data.exclude and config.data.root else []
        print(f"  {shlex.join(words)}")
    return 0


def _write_page(folder: Path, name: str) -> None:
    """Write the page of a finished run. The run is complete without it, so a failure is only reported."""
    if not is_main():
        return
    from t3d.report.training_page import write_training

    try:
        print(f"report: {write_training(folder, command=command_line(name))}")
    except (T3DError, OSError) as error:
        warnings.warn(f"the run is complete, but its report.html was not written: {error}", stacklevel=2)


def teacher(config: TeacherTraining) -> int:
    """Train a small 2D model on still images, to use as a teacher."""
    from t3d.transfer.teachers.train import train_teacher

    path, accuracy = train_teacher(config)
    print(f"{path}: held-out images correct: {accuracy}")
    return 0
