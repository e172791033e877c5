"""Damaged files give the same frames in any order, checked as `benchmarks/fuzz.py` does."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks/fuzz.py"
SEEDS = range(4)


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """A textured scene that moves, frames T C H W."""
    scene = np.random.default_rng(0).integers(0, 256, (3, 64, 260), dtype=np.uint8)
    return torch.from_numpy(np.stack([scene[:, :, 4 * at : 4 * at + 96] // 2 + at for at in range(40)]))


def source(fuzz: ModuleType, images: torch.Tensor, folder: Path, name: str) -> bytes:
    fuzz.encode(folder / name, images, *fuzz.KINDS[name])
    return bytes((folder / name).read_bytes())


KINDS = [
    "h264.mp4",
    "h264.mkv",
    "h264.ts",
    "h264.avi",
    "h264-refresh.mp4",
    "mpeg4.avi",
    "mpeg4-b.avi",
    "mpeg2.ts",
    "mpeg2.mpg",
    "mjpeg.avi",
    "mjpeg.mov",
    "vp8.webm",
    "vp9.webm",
    "hevc.mp4",
    "ffv1.mkv",
    "flv1.flv",
    "wmv2.asf",
]


@pytest.mark.slow
@pytest.mark.situation(
    "Damaged files",
    "Any damage: bits, bytes and runs changed, removed or repeated",
    "The same pictures in any order, with and without an index",
    ffmpeg="depends on the seek",
)
@pytest.mark.parametrize("name", KINDS)
def test_mutations_depend_on_no_order(
    fuzz: ModuleType, images: torch.Tensor, tmp_path: Path, name: str
) -> None:
    content = source(fuzz, images, tmp_path, name)
    for seed in SEEDS:
        path = tmp_path / f"{seed}-{name}"
        path.write_bytes(fuzz.mutate(content, random.Random(f"{name} {seed}")))
        assert fuzz.isolated(path, seed)["wrong"] == {}, seed


def test_the_check_finds_a_frame_that_depends_on_the_order(
    fuzz: ModuleType, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source(fuzz, images[:12], tmp_path, "h264.mp4")
    picture: Callable[..., str | None] = fuzz.picture
    assert fuzz.wrongs(tmp_path / "h264.mp4", 0)["wrong"] == {}
    asked: list[int] = []

    def other(video: object, number: int) -> str | None:
        asked.append(number)
        return "other" if len(asked) > 12 else picture(video, number)

    monkeypatch.setattr(fuzz, "picture", other)
    assert fuzz.wrongs(tmp_path / "h264.mp4", 0)["wrong"] == {"picture": 24, "index: picture": 24}
