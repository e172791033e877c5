"""Fixtures of the training tests: a tiny data set that is easy to learn, and runs of seconds on it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.config import AugmentConfig, DataConfig
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig
from t3d.video.encode import write_video

COLORS = {"blue": (40, 60, 200), "red": (200, 60, 40)}
NET = ModelConfig(
    name="densenet3d_tiny",
    options={"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1},
)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red and blue videos of 12 noisy frames, 32 × 40: `train.csv` (8 per class), `val.csv` (3 per class)."""
    root = tmp_path_factory.mktemp("colors")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 8), ("val", 3)):
        rows = []
        for name, color in COLORS.items():
            for number in range(count):
                noise = torch.randint(-40, 41, (12, 3, 32, 40), generator=generator)
                frames = (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).to(torch.uint8)
                path = root / f"{split}_{name}_{number}.mp4"
                write_video(path, frames, crf=30)
                rows.append((path.name, name, path.stem))
        with (root / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label", "source"), *rows])
    return root


@pytest.fixture
def tiny(colors: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Return a function that makes the options of a run of seconds, with 4 steps per epoch.

    All runs share a cache of decoded frames.

    Example: `tiny(optim={"lr": 1.0}, data={"workers": 1}, seed=3)`. Dictionaries change fields of a part.
    """
    base = TrainConfig(
        out=str(tmp_path / "run"),
        data=DataConfig(
            train=str(colors / "train.csv"),
            val=str(colors / "val.csv"),
            workers=0,
            cache=str(colors / "cache"),
        ),
        clip=ClipSpec(num_frames=8, stride=1, size=32, resize=32),
        augment=AugmentConfig(),
        model=NET,
        optim=OptimConfig(lr=0.05, epochs=1, batch_size=4, schedule="constant"),
        precision="fp32",
        log_every=1,
    )

    def make(**changes: object) -> TrainConfig:
        parts = {
            name: replace(getattr(base, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return replace(base, **parts)

    return make
