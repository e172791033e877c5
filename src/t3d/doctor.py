"""Checks of the installation: decoding, torch, the device, and bfloat16 compared with float32."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from t3d.device import has_bf16, pick_device
from t3d.errors import T3DError
from t3d.models.registry import create_model
from t3d.video.encode import write_video
from t3d.video.video import Video


class _UnfitError(T3DError):
    """A check failed."""


def examine(device: str = "auto") -> bool:
    """Run every check and print its result.

    Args:
        device: `auto`, or the name of a torch device.

    Returns:
        Whether all checks passed.
    """
    console = Console(soft_wrap=True)
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "decoding": _decoding,
        "device": lambda: _device(device),
        "training step": lambda: _training_step(device),
        "bfloat16": lambda: _bfloat16(device),
        "optional": _optional,
    }
    passed = True
    for name, check in checks.items():
        try:
            mark, text = "ok  ", check()
        except (T3DError, RuntimeError, OSError) as error:
            passed, mark, text = False, "FAIL", str(error)
        console.print(f"{mark}  {name:<14} {text}", markup=False, highlight=False)
    return passed


def _packages() -> str:
    names = ("t3d", "torch", "torchvision", "av", "accelerate")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return f"Python {platform.python_version()}, {versions}"


def _decoding() -> str:
    """Write a video, read its frames in another order and compare them."""
    levels = np.linspace(20, 230, 24).round().astype(np.uint8)
    frames = np.broadcast_to(levels[:, None, None, None], (24, 3, 64, 96)).copy()
    order = [23, 0, 11, 12, 5, 5]
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "gray.mp4", frames)
        began = time.perf_counter()
        with Video(path) as video:
            got = video.frames_at(order).double().mean((1, 2, 3)).numpy()
        milliseconds = 1000 * (time.perf_counter() - began)
    if np.abs(got - levels[order]).max() > 4:
        raise _UnfitError(f"H.264: frames {order} have levels {got.round()}, expected {levels[order]}")
    return f"H.264 frames exact in any order ({milliseconds:.0f} ms for {len(order)} frames)"


def _device(name: str) -> str:
    device = pick_device(name)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"{device}: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _clip(device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(2, 3, 16, 64, 64, generator=generator)
    return clip.to(device, memory_format=torch.channels_last_3d)


def _training_step(name: str) -> str:
    device = pick_device(name)
    torch.manual_seed(0)
    model = create_model("t3d_tiny", num_classes=10).to(device)
    loss = model(_clip(device)).square().mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    if not all(g is not None and bool(g.isfinite().all()) for g in gradients):
        raise _UnfitError("a gradient of t3d_tiny is missing or not finite")
    return f"t3d_tiny forward and backward, loss {float(loss.detach()):.4f}"


def _bfloat16(name: str) -> str:
    device = pick_device(name)
    torch.manual_seed(0)
    model = create_model("t3d_tiny", num_classes=10).to(device).eval()
    clip = _clip(device)
    with torch.inference_mode():
        exact = model(clip)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            rough = model(clip).float()
    error = float((exact - rough).norm() / exact.norm())
    if not error < 0.1:
        raise _UnfitError(f"bfloat16 differs from float32 by {error:.1%}; set `precision` to fp32")
    used = (
        "in hardware, used by default" if has_bf16(device) else "not in hardware, so float32 is the default"
    )
    return f"within {error:.2%} of float32; {used}"


def _optional() -> str:
    installed = [name for name in ("tensorboard", "timm") if importlib.util.find_spec(name)]
    return "installed: " + (", ".join(installed) or "none")
