"""Fixtures of a fit: colored videos, and a small teacher with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from t3d.models.image_models import build_image_model
from t3d.models.tensor_files import write_tensors
from t3d.transfer.teachers.base import TEACHER_KEY
from t3d.video.encode import write_video

COLORS = {"blue": (40, 60, 200), "red": (200, 60, 40)}


def _write_videos(folder: Path, *, per_class: int, frames: int = 12, seed: int = 0) -> Path:
    """Write smooth videos in the colors of their classes, one folder per class."""
    generator = torch.Generator().manual_seed(seed)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            coarse = torch.randint(-60, 61, (frames, 3, 5, 6), generator=generator).float()
            noise = torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")
            pixels = (torch.tensor(color).view(3, 1, 1) + noise).clamp(0, 255).byte()
            write_video(folder / name / f"{name}{number}.mp4", pixels)
    return folder


@pytest.fixture(scope="session")
def write_videos() -> Callable[..., Path]:
    """Writer of colored videos: `write_videos(folder, per_class=3, frames=12, seed=0)`."""
    return _write_videos


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of each of two classes."""
    return _write_videos(tmp_path_factory.mktemp("fit") / "clips", per_class=5)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file as `t3d teacher` writes it."""
    torch.manual_seed(0)
    net = build_image_model("timm", "resnet10t").net
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    card = {"name": "timm:resnet10t", "size": 32}
    write_tensors(net.state_dict(), path, metadata={TEACHER_KEY: json.dumps(card)})
    return str(path)
