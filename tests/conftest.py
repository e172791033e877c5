"""What tests share: the real clips, and videos whose frames can be told apart by their pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

_REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real clips. Without it a test is skipped; in CI its absence is a failure."""
    root = Path(os.environ.get("T3D_REAL_DATA", _REAL))
    if (root / "ucf101_11").is_dir():
        return root
    message = f"no real clips in {root}: set T3D_REAL_DATA to their folder"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them: runs that are compared bit for bit all use one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _numbered_frames(count: int, *, height: int = 48, width: int = 80, first: int = 0) -> torch.Tensor:
    frames = torch.full((count, 3, height, width), 40, dtype=torch.uint8)
    rows, columns = height // 2, width // 5
    for i in range(count):
        for bit in range(10):
            if (first + i) >> bit & 1:
                top, left = bit // 5 * rows, bit % 5 * columns
                frames[i, :, top : top + rows, left : left + columns] = 220
    return frames


def _read_numbers(frames: torch.Tensor) -> list[int]:
    rows, columns = frames.shape[2] // 2, frames.shape[3] // 5
    numbers = []
    for frame in frames.float():
        blocks = frame[:, : 2 * rows, : 5 * columns].reshape(3, 2, rows, 5, columns).mean(dim=(0, 2, 4))
        numbers.append(sum(1 << bit for bit, light in enumerate(blocks.flatten().tolist()) if light > 130))
    return numbers


@pytest.fixture(scope="session")
def numbered_frames() -> Callable[..., torch.Tensor]:
    """Maker of frames, uint8 T C H W, with their number (below 1024) as ten black or white blocks.

    Called as `numbered_frames(count, height=48, width=80, first=0)`.
    """
    return _numbered_frames


@pytest.fixture(scope="session")
def read_numbers() -> Callable[[torch.Tensor], list[int]]:
    """Reader of the numbers that `numbered_frames` drew, from frames T C H W that were en- and decoded."""
    return _read_numbers
