"""The demo on generated videos: teacher, transfer, fine-tuning, test, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from t3d.clip import ClipSpec
from t3d.data.clips.views import FrameOrder
from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.synthetic.scene import SyntheticSpec
from t3d.data.synthetic.videos import write_synthetic
from t3d.device import Compute
from t3d.errors import at_least
from t3d.evaluation.config import Reading, TestConfig
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.run_test import TestResult, run_test
from t3d.report.page import Rival, samples_of, write_report
from t3d.report.result import write_result
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.run import transfer
from t3d.transfer.teachers.config import TeacherTraining

ORDERS: tuple[FrameOrder, ...] = ("normal", "shuffled", "reversed", "static")


def run_demo(out: str | Path, *, seed: int = 0, quick: bool = False) -> Path:
    """Draw the synthetic set, transfer from a 2D net, fine-tune, train from scratch, test, report.

    - A 2D model learns to recognize the pattern of an object from stills of other scenes.
    - It teaches a T3D with all training videos, without their labels.
    - This T3D and one with random weights then learn pattern and direction from the sixth of the videos that
      has labels.

    The pattern takes many examples to learn, since its colors are not informative: transfer helps here. No
    still shows the direction. It is learned from the labels, and is lost when frames are shuffled or static.
    An earlier demo in the same folder is replaced; its generated videos are kept.

    Args:
        out: Folder for videos, runs, tests and report.
        seed: Seed of all training, not of the videos.
        quick: Few videos and one epoch, to check in a minute that all parts work.

    Returns:
        The report.

    Raises:
        ConfigError: The folder holds other files.
    """
    at_least("seed", seed, 0)
    began = time.monotonic()
    out = Path(out)
    # The speeds were chosen with the videos of seed 0; these are others.
    spec = SyntheticSpec(train=96, val=32, test=64, seed=1)
    if quick:
        spec = replace(spec, train=8, val=8, test=8)
    write_synthetic(out / "videos", spec)
    stills = replace(spec, val=0, test=0, frames=8, seed=2)  # short, since single frames are taken of them
    write_synthetic(out / "stills", stills)
    print(f"{spec.count + stills.count} videos generated in {out} ({_minutes(began)} min)", flush=True)

    print("\n1. A 2D model learns the pattern of an object from still images", flush=True)
    from t3d.transfer.teachers.train import train_teacher  # here: importing timm takes longer than torch

    teacher, accuracy = train_teacher(teacher_training(out, seed=seed, quick=quick))
    print("\n2. It teaches a 3D model from videos without labels", flush=True)
    student = RunFolder(transfer(transfer_config(out, seed=seed, quick=quick)))
    runs = {}
    for number, (name, init) in enumerate((("after transfer", student.last), ("from scratch", None)), 3):
        print(f"\n{number}. A few labels, {name}", flush=True)
        runs[name] = RunFolder(train(demo_config(out, init=init, seed=seed, quick=quick)))

    print("\n5. Test", flush=True)
    orders = {"after transfer": ORDERS, "from scratch": ORDERS[:1]}
    results = {name: _test(out, name, run, orders[name]) for name, run in runs.items()}
    best = results["after transfer"]
    write_result(best["normal"], out / "test")
    paths = [sample.path for sample in samples_of(best["normal"])[:3]]
    for prediction in Predictor(runs["after transfer"].last).many(paths):
        print(f"{Path(prediction.path).name}: {prediction.classes[0]} {prediction.probs[0]:.0%}", flush=True)
    labels = len(runs["from scratch"].read_videos()[0])
    pool = len(student.read_videos()[0])
    notes = {
        "after transfer": f"taught before by {Path(teacher).name} on {pool} unlabeled videos",
        "from scratch": "random weights",
    }
    return write_report(
        out / "report.html",
        runs["after transfer"],
        best,
        title="T3D demo: a 2D net teaches a 3D net",
        lead=(
            "A 2D net that learned from stills which pattern an object has "
            f"(right in {accuracy:.0%} of held-out stills) taught a T3D from {pool} videos without labels. "
            f"{labels} labeled videos then showed it, and a net with random weights, which pattern goes "
            "where. The pattern is what the teacher can give; the direction, which no still shows, comes "
            "from the labels alone."
        ),
        minutes=(time.monotonic() - began) / 60,
        rivals=[
            Rival(name, results[name]["normal"], log=read_log(run.log), note=notes[name])
            for name, run in runs.items()
        ],
    ).absolute()


def _test(out: Path, name: str, run: RunFolder, orders: Sequence[FrameOrder]) -> dict[str, TestResult]:
    """Test a run's weights with the frames of each clip in these orders."""
    results: dict[str, TestResult] = {}
    for order in orders:
        results[order] = run_test(
            TestConfig(
                str(run.last),
                str(out / "videos" / "action_test.csv"),
                frame_order=order,
                reading=Reading(cache=str(out / "cache")),
                compute=Compute(workers=0),
            )
        )
        print(f"{name}, {order} frames: {results[order].single.headline()}", flush=True)
    return results


def teacher_training(out: Path, *, seed: int, quick: bool) -> TeacherTraining:
    """The demo's 2D net."""
    return TeacherTraining(
        images=str(out / "stills" / "appearance_train.csv"),
        out=str(out / "teacher.safetensors"),
        overwrite=True,
        size=64,
        epochs=1 if quick else 10,
        seed=seed,
        cache=str(out / "cache"),
        workers=0,
    )


def transfer_config(out: Path, *, seed: int, quick: bool) -> TransferConfig:
    """The demo's transfer: all training videos, no labels."""
    base = demo_config(out, init=None, seed=seed, quick=quick)
    return TransferConfig(
        out=str(out / "transfer"),
        seed=seed,
        overwrite=True,
        data=PoolConfig(videos=str(out / "videos" / "train.csv"), cache=str(out / "cache"), workers=0),
        clip=base.clip,
        augment=base.augment,
        model=base.model,
        teacher=TeacherConfig(
            name=str(out / "teacher.safetensors"), frames=4, cache=str(out / "features"), frame_step=8
        ),
        pairs=PairConfig(objective="regress"),
        optim=replace(base.optim, epochs=1 if quick else 10),
    )


def demo_config(out: Path, *, init: Path | None, seed: int, quick: bool) -> TrainConfig:
    """The demo's training with labels. No flips: mirrored left is right."""
    videos = out / "videos"
    return TrainConfig(
        out=str(out / ("scratch" if init is None else "tuned")),
        seed=seed,
        overwrite=True,
        data=DataConfig(
            train=str(videos / "action_train.csv"),
            val=str(videos / "action_val.csv"),
            label_fraction=1.0 if quick else 2 / 3,
            cache=str(out / "cache"),
            workers=0,
        ),
        # Neighboring frames: over longer steps a pattern seems to run backward, as wheels do in films.
        clip=ClipSpec(num_frames=8, stride=1, size=64, resize=64),
        augment=AugmentConfig(flip=0.0),
        model=ModelConfig(name="t3d_tiny", init=None if init is None else str(init)),
        optim=OptimConfig(
            name="adamw",
            lr=3e-3,
            weight_decay=0.05,
            decay_norm=False,
            epochs=1 if quick else 30,
            batch_size=8 if quick else 16,
            schedule="cosine",
            warmup_epochs=0 if quick else 1,
            max_grad_norm=1.0,
        ),
        eval_every=1 if quick else 3,
    )


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f}"
