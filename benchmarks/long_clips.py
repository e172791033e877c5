"""Measure the memory of a training step of one clip, by the number of frames.

    python benchmarks/long_clips.py --net t3d121 densenet3d121 --frames 16 32 64 128 --size 112

Each step (forward and backward in float32) runs in a separate process on the CPU. The result is the peak
memory of the process, minus the memory with only the model and the clip, minus the gradients of the weights.
It includes the working memory of convolutions on CPUs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from typing import get_args

from t3d.training.config import GradCheckpointing

# Freed memory is returned immediately, so that the peak contains only memory in use at the same time.
MODES = get_args(GradCheckpointing)
_EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}


def peak() -> float:
    """Peak memory of this process, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def step(net: str, frames: int, size: int, *, mode: GradCheckpointing) -> float:
    """Memory that a step needs, in GB."""
    import torch

    from t3d.models.registry import create_model

    torch.set_num_threads(1)
    model = create_model(net, num_classes=101).to(memory_format=torch.channels_last_3d)
    model.set_grad_checkpointing(mode)
    clip = torch.rand(1, 3, frames, size, size)
    before = peak()
    model(clip).logsumexp(1).sum().backward()
    gradients = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    return peak() - before - gradients


def main() -> None:
    """Measure every model and length, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--net", nargs="+", default=["t3d121", "densenet3d121"])
    parser.add_argument("--frames", nargs="+", type=int, default=[16, 32, 64, 128])
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--one", choices=MODES, help="measure a single step here, in this mode")
    chosen = parser.parse_args()
    if chosen.one:
        (net,), (frames,) = chosen.net, chosen.frames
        print(step(net, frames, chosen.size, mode=chosen.one))
        return
    print(f"| net, {chosen.size} × {chosen.size} | frames | GB, {' | '.join(MODES)} |\n|---|---|---|---|---|")
    for net in chosen.net:
        for frames in chosen.frames:
            cells = []
            for mode in MODES:
                command = [sys.executable, __file__, "--one", mode, "--size", str(chosen.size)]
                command += ["--net", net, "--frames", str(frames)]
                printed = subprocess.run(
                    command, check=True, capture_output=True, text=True, env=os.environ | _EXACT
                ).stdout
                cells.append(f"{float(printed):.2f}")
            print(f"| {net} | {frames} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
