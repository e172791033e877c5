"""Measure memory and time of a training step, per mode of gradient checkpointing.

    python benchmarks/recompute.py --net t3d121 densenet3d121 t3d_tiny --frames 32 --size 224 --steps 3

Memory is what the forward pass keeps for the backward pass. The modes take turns, so that other work on the
machine slows all of them. Times are relative to `none`.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import get_args

import torch
import torch.nn.functional as F

from t3d.models.grad_checkpointing import GradCheckpointing
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.saved_bytes import saved_bytes

MODES: tuple[GradCheckpointing, ...] = get_args(GradCheckpointing)


def measure(net: VideoNet, clips: torch.Tensor, *, bf16: bool, steps: int) -> str:
    """Return the cells of a row of the table."""
    labels = torch.zeros(len(clips), dtype=torch.long)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            return net(clips)

    kept, seconds = {}, {mode: list[float]() for mode in MODES}
    for mode in MODES:  # also warms up
        net.set_grad_checkpointing(mode)
        kept[mode] = saved_bytes(net, forward)
    for _ in range(steps):
        for mode in MODES:
            net.set_grad_checkpointing(mode)
            net.zero_grad()
            began = time.perf_counter()
            F.cross_entropy(forward().float(), labels).backward()
            seconds[mode].append(time.perf_counter() - began)
    cells = [f"{kept['none'] / 1e6:.0f} MB", f"{median(seconds['none']):.2f} s"]
    for mode in MODES[1:]:
        ratios = [s / plain for s, plain in zip(seconds[mode], seconds["none"], strict=True)]
        cells.append(f"{kept[mode] / kept['none']:.1%}, × {median(ratios):.2f}")
    return " | ".join(cells)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", nargs="+", default=["t3d121", "densenet3d121", "t3d_tiny"])
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(f"| net | precision | kept | step | {' | '.join(MODES[1:])} |\n|---|---|---|---|---|---|")
    for name in chosen.net:
        net = create_model(name, num_classes=101).to(memory_format=torch.channels_last_3d)
        shape = (chosen.batch_size, chosen.frames, chosen.size, chosen.size, 3)
        clips = torch.rand(shape).permute(0, 4, 1, 2, 3)
        for precision in ("fp32", "bf16"):
            row = measure(net, clips, bf16=precision == "bf16", steps=chosen.steps)
            print(f"| `{name}` | {precision} | {row} |", flush=True)


if __name__ == "__main__":
    main()
