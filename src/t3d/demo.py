"""The whole way on videos that the project draws itself: write videos, train, test, predict, report."""

from __future__ import annotations

import time
from pathlib import Path

from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.dataset import FrameOrder
from t3d.data.sampling import ClipSpec
from t3d.data.synthetic import SyntheticSpec, write_synthetic
from t3d.predict import Predictor
from t3d.report import samples_of, write_report
from t3d.testing import Outcome, run_test, write_result
from t3d.train.config import ModelConfig, OptimConfig, TrainConfig
from t3d.train.loop import train
from t3d.train.run_folder import RunFolder

ORDERS: tuple[FrameOrder, ...] = ("normal", "shuffled", "reversed", "static")


def run_demo(out: str | Path, *, seed: int = 0, quick: bool = False) -> Path:
    """Draw the synthetic set, train a T3D on it, test it, predict, and write an HTML report.

    A demo that was made before is made again in the same place; the drawn videos are kept. One frame does
    not tell the classes apart, so that shuffled and static frames bring the accuracy down.

    Args:
        out: Folder for videos, run, test and report.
        seed: Of the training.
        quick: Few videos and one epoch, to see in a minute that all parts work.

    Returns:
        The report.

    Raises:
        ConfigError: The folder holds something else.
    """
    began = time.monotonic()
    out = Path(out)
    # Seed 0 drew the videos by which speeds and sizes were chosen; these are others.
    spec = SyntheticSpec(train=8, val=8, test=8, seed=1) if quick else SyntheticSpec(seed=1)
    videos = write_synthetic(out / "videos", spec)
    print(f"{spec.count} videos drawn in {videos} ({(time.monotonic() - began) / 60:.1f} min)", flush=True)
    run = RunFolder(train(demo_config(out, seed=seed, quick=quick)))
    outcomes: dict[str, Outcome] = {}
    for order in ORDERS:
        outcomes[order] = run_test(
            run.weights, str(videos / "test.csv"), frames=order, cache=str(out / "cache"), workers=0
        )
        print(f"{order:>8} frames: video top-1 {outcomes[order].metrics.video_top1:.1%}", flush=True)
    write_result(outcomes["normal"], out / "test")
    some = samples_of(outcomes["normal"])[:3]
    for prediction in Predictor(run.weights).many([sample.path for sample in some]):
        print(f"{Path(prediction.path).name}: {prediction.classes[0]} {prediction.probs[0]:.0%}", flush=True)
    return write_report(
        out / "report.html",
        run,
        outcomes,
        title="T3D demo: motion that one frame does not show",
        lead=(
            f"A T3D learned {len(outcomes['normal'].scores.classes)} kinds of motion from scratch, "
            f"from {len(run.read_videos()[0])} drawn videos."
        ),
        minutes=(time.monotonic() - began) / 60,
    ).absolute()


def demo_config(out: Path, *, seed: int, quick: bool) -> TrainConfig:
    """The demo's training run. No flips: mirrored left is right."""
    videos = out / "videos"
    return TrainConfig(
        out=str(out / "run"),
        seed=seed,
        overwrite=True,
        data=DataConfig(
            train=str(videos / "train.csv"), val=str(videos / "val.csv"), cache=str(out / "cache"), workers=0
        ),
        clip=ClipSpec(num_frames=16, stride=2, size=64, resize=64),
        augment=AugmentConfig(flip=0.0),
        model=ModelConfig(name="t3d_tiny"),
        optim=OptimConfig(
            name="adamw",
            lr=3e-3,
            weight_decay=0.05,
            decay_norm=False,
            epochs=1 if quick else 20,
            batch_size=16,
            schedule="cosine",
            warmup_epochs=0 if quick else 1,
            clip_grad=1.0,
        ),
        eval_every=4,
    )
