"""Shared by the golden tests: inputs made by hand, from formulas, without any random generator.

The values in these tests were produced once by running the code. Users' splits, orders, crops and weights
rest on them. A refactoring that turns one red has changed somebody's data: fix the code, not the value.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.manifest.manifest import Manifest

HEIGHT, WIDTH = 40, 48


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


def _digest(*arrays: Any) -> str:
    """SHA-256 over shapes, dtypes and values in C order, the first 16 hexadecimal digits."""
    total = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array.numpy() if isinstance(array, torch.Tensor) else array)
        total.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
    return total.hexdigest()[:16]


@pytest.fixture(scope="session")
def digest() -> Callable[..., str]:
    """Digest of arrays and tensors: equal only for equal shape, dtype and values."""
    return _digest


@pytest.fixture(scope="session")
def machine() -> str:
    """Versions and CPU kernels, which determine the last bits of floating-point results."""
    cpu = {"model name": platform.processor(), "cpu family": "", "model": "", "cache size": ""}
    facts = Path("/proc/cpuinfo")
    for line in facts.read_text().splitlines() if facts.is_file() else []:
        name, _, value = line.partition(":")
        if name.strip() in cpu:
            cpu[name.strip()] = value.strip()
    return " | ".join(
        [
            f"torch {torch.__version__}",
            f"numpy {np.__version__}",
            torch.backends.cpu.get_cpu_capability(),
            f"{torch.get_num_threads()} thread(s)",
            *cpu.values(),
        ]
    )


@pytest.fixture
def exact_pixels() -> None:
    """Skip where torch resizes and colors uint8 images by other kernels: a few pixels differ by 1."""
    kernels = torch.backends.cpu.get_cpu_capability()
    if kernels not in ("AVX2", "AVX512"):
        pytest.skip(
            f"digests of resized and colored frames are those of AVX2 and AVX512; this CPU uses {kernels}"
        )


def _manifest(rows: Sequence[tuple[str, Any, str]], classes: str) -> Manifest:
    paths, labels, sources = zip(*rows, strict=True)
    names = tuple(classes.split())
    columns: dict[str, pa.Array] = {"path": pa.array(paths, pa.string())}
    if any(isinstance(label, list) for label in labels):
        columns["labels"] = pa.array(labels, pa.list_(pa.int32()))
    else:
        columns["label"] = pa.array(labels, pa.int32())
    columns |= {name: pa.nulls(len(rows), pa.float64()) for name in ("start", "end")}
    columns["source"] = pa.array(sources, pa.string())
    return Manifest(names, pa.table(columns))


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Manifest]:
    """Maker of a manifest from rows (path, label, source) and class names separated by blanks."""
    return _manifest


def coded_frames(count: int, *, height: int = HEIGHT, width: int = WIDTH, number: int = 0) -> Any:
    """Frames whose pixels tell where they come from: red the frame, green the column, blue video and row.

    Args:
        count: Frames, at most 24.
        height: At most 48.
        width: At most 48.
        number: Of the video, at most 23.

    Returns:
        uint8 [T, 3, H, W]: 10 per frame; 5 per column; 10 per video plus a fifth of the row.
    """
    t, y, x = np.ogrid[:count, :height, :width]
    return np.stack(np.broadcast_arrays(10 * t, 5 * x, 10 * number + y // 5), axis=1).astype(np.uint8)


@pytest.fixture(scope="session")
def coded() -> Callable[..., Any]:
    """The function `coded_frames`."""
    return coded_frames


@dataclass
class FakeStore:
    """Frames without files: every video has 24 coded frames, 25 per second; what is asked for is recorded."""

    spec: ClipSpec
    count: int = 24
    asked: list[list[int]] = field(default_factory=list)

    def open(self, path: Path) -> SimpleNamespace:
        frames = torch.from_numpy(coded_frames(min(self.count, 24), number=int(path.stem)))

        def get(indices: Any) -> torch.Tensor:
            self.asked.append(indices.tolist())
            return frames[torch.from_numpy(indices) % len(frames)]

        return SimpleNamespace(times=np.arange(self.count) / 25, get=get)


@pytest.fixture
def fake_store() -> Callable[..., Any]:
    """Maker of a `FakeStore`, called with a clip spec and a number of frames."""
    return FakeStore


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve lossless videos of coded frames in the folders a and b, named by their numbers, and `list.csv`.

    Two videos share a source: 0 and 1 the source s0, 2 and 3 s1, and so on. The even sources are of class a.
    """
    root = tmp_path_factory.mktemp("golden")
    lines = ["path,label,source"]
    for number in range(12):
        label = "ab"[number // 2 % 2]
        (root / label).mkdir(exist_ok=True)
        frames = coded_frames(24 - number % 3, number=number)
        _write(root / label / f"{number:02d}.mkv", frames)
        lines.append(f"{label}/{number:02d}.mkv,{label},s{number // 2}")
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    return root


def _write(path: Path, frames: Any) -> None:
    """FFV1 in RGB: what is decoded is what was written, whatever the version of FFmpeg."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "bgr0"
        for image in np.ascontiguousarray(frames.transpose(0, 2, 3, 1)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
