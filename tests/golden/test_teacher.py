"""Training of a teacher: which images or frames it sees, how they are varied, and what it starts from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from t3d.clip import IMAGENET_MEAN, IMAGENET_STD
from t3d.transfer.teachers.train import TeacherTraining, train_teacher

Make = Callable[..., Any]


@contextmanager
def seen() -> Iterator[list[Tensor]]:
    """The batches that a network in training takes, as uint8 [N, 3, S, S]."""
    batches: list[Tensor] = []
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))

    def note(module: nn.Module, args: Any) -> None:
        if type(module).__name__ == "ResNet" and module.training:
            batches.append(((args[0] * std + mean) * 255).round().to(torch.uint8))

    handle = register_module_forward_pre_hook(note)
    yield batches
    handle.remove()


def corners(view: Tensor) -> tuple[int, ...]:
    """Green at the left and right end; blue at the top and bottom."""
    return tuple(map(int, (view[1, 0, 0], view[1, 0, -1], view[2, 0, 0], view[2, -1, 0])))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, coded: Make) -> Path:
    """Ten images of two classes; red is 20 times the image's number."""
    root = tmp_path_factory.mktemp("images")
    pixels = coded(24)[::2]
    for number in range(10):
        path = root / "ab"[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[number].transpose(1, 2, 0)).save(path)
    return root


def run(images: str, out: Path, **options: Any) -> list[Tensor]:
    defaults: dict[str, Any] = {"size": 32, "epochs": 2, "batch_size": 3, "workers": 0, "val_fraction": 0.3}
    with seen() as batches:
        train_teacher(TeacherTraining(images, out=str(out), device="cpu", **(defaults | options)))
    return batches


def test_images(images: Path, tmp_path: Path) -> None:
    batches = run(str(images), tmp_path / "teacher.safetensors", seed=1)
    assert [[int(view[0, 16, 16]) // 20 for view in batch] for batch in batches] == [
        [5, 2, 4],
        [3, 6, 9],
        [9, 4, 3],
        [2, 1, 6],
    ]
    # fmt: off
    assert [value for batch in batches for view in batch for value in corners(view)] == pytest.approx([
        224, 88, 0, 7, 2, 212, 0, 6, 229, 50, 0, 7, 169, 22, 0, 7, 2, 185, 0, 5, 24, 233, 0, 7, 208, 33, 0, 7,
        29, 233, 0, 7, 229, 60, 0, 6, 207, 28, 0, 7, 185, 6, 0, 6, 223, 44, 0, 7
    ], abs=1)
    # fmt: on


@pytest.mark.usefixtures("exact_pixels")
def test_images_to_the_bit(images: Path, tmp_path: Path, digest: Make) -> None:
    batches = run(str(images), tmp_path / "teacher.safetensors", seed=1, epochs=1)
    assert digest(*batches) == "9d514e1f9593d486"


def test_frames_of_videos(videos: Path, tmp_path: Path) -> None:
    """Red tells the frame, blue the video: 10 per number."""
    batches = run(
        str(videos / "list.csv"),
        tmp_path / "t.safetensors",
        seed=2,
        frames=2,
        min_area=1.0,
        flip=0.5,
        epochs=1,
    )
    drawn = [(int(view[0, 16, 16]) // 10, int(view[2, 0, 0]) // 10) for view in torch.cat(batches)]
    assert all(one[1] == two[1] for one, two in zip(drawn[::2], drawn[1::2], strict=True))
    # fmt: off
    assert drawn == [
        (2, 10), (4, 10), (22, 9), (5, 9), (9, 11), (14, 11), (18, 2), (12, 2), (3, 3), (4, 3), (10, 8),
        (12, 8)
    ]
    # fmt: on
