"""`t3d train`, `t3d transfer` and `t3d teacher`."""

from __future__ import annotations

from t3d.cli.options import spelled
from t3d.training.config import TrainConfig
from t3d.transfer.config import TransferConfig


@spelled(
    yaml=True,
    short={
        "--videos": "data.train",
        "--val": "data.val",
        "--root": "data.root",
        "--label-fraction": "data.label_fraction",
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

    A recipe sets defaults; options override them.

        t3d train --videos clips --out runs/first --recipe modern
    """
    from t3d.training.run import train as run

    run(config, resume=resume)
    return 0


@spelled(
    yaml=True,
    short={
        "--videos": "data.videos",
        "--root": "data.root",
        "--cache": "data.cache",
        "--workers": "data.workers",
        "--teacher": "teacher.name",
        "--student": "model.name",
        "--student-input": "clip.modality",
        "--objective": "pairs.objective",
        "--epochs": "optim.epochs",
        "--batch-size": "optim.batch_size",
        "--lr": "optim.lr",
    },
    first=(
        "data.videos",
        "out",
        "teacher.name",
        "model.name",
        "recipe",
        "pairs.objective",
        "optim.epochs",
        "optim.batch_size",
        "optim.lr",
        "data.cache",
        "data.workers",
        "resume",
    ),
)
def transfer(config: TransferConfig, *, resume: bool = False) -> int:
    """Train a 3D model on unlabeled videos with a frozen 2D model.

    A recipe sets defaults; options override them.

        t3d transfer --videos clips --teacher resnet50 --out runs/student
    """
    from t3d.transfer.run import transfer as run

    run(config, resume=resume)
    return 0


def teacher(
    images: str,
    *,
    out: str,
    name: str = "resnet10t",
    size: int = 64,
    epochs: int = 20,
    batch_size: int = 32,
    frames: int = 1,
    lr: float = 2e-3,
    min_area: float = 0.5,
    flip: float = 0.5,
    val_fraction: float = 0.1,
    seed: int = 0,
    root: str | None = None,
    cache: str | None = None,
    workers: int = 2,
    device: str = "auto",
    overwrite: bool = False,
) -> int:
    """Train a small 2D model on still images, to use as a teacher.

    Args:
        images: Folder of still images, with one folder per class; or labeled videos, to take frames from.
        out: The `.safetensors` file to write.
        name: A timm model.
        size: Side of the square that it sees, in pixels.
        epochs: Passes over the images.
        batch_size: Images per step.
        frames: Frames per video and epoch.
        lr: Peak learning rate of AdamW.
        min_area: Least share of the image that a random crop takes.
        flip: Probability of a horizontal flip.
        val_fraction: Share held out to measure the accuracy, whole sources at a time.
        seed: Seed of every random draw.
        root: Folder that the files of a list are in.
        cache: Folder for decoded frames of videos.
        workers: Processes that read. 0 reads in this process.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        overwrite: Replace `out` if it exists.
    """
    from t3d.transfer.teachers.train import TeacherTraining, train_teacher

    config = TeacherTraining(
        images=images,
        out=out,
        name=name,
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        frames=frames,
        lr=lr,
        min_area=min_area,
        flip=flip,
        val_fraction=val_fraction,
        seed=seed,
        videos=root,
        cache=cache,
        workers=workers,
        device=device,
        overwrite=overwrite,
    )
    path, accuracy = train_teacher(config)
    print(f"{path}: held-out top-1 {accuracy:.1%}")
    return 0
