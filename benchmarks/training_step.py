"""Measure a training step with `precision: auto` against eager float32, as torch builds a network.

    python benchmarks/training_step.py --threads 1 --clip t3d_tiny:16:72:16 t3d121:16:112:4

Both use AdamW. `auto` has the memory format and the autocast of a run of `t3d train`. The two take turns; the
figure is the median ratio of neighboring steps.
"""

from __future__ import annotations

import argparse
import time
from statistics import median, quantiles

import torch
import torch.nn.functional as F

from t3d.device import use_bf16
from t3d.models.registry import create_model


class Step:
    """A network with its optimizer and a batch.

    Args:
        name: Name of the network.
        clips: Clips, B C T H W.
        auto: Compute as `t3d train` does. False: float32, contiguous.
    """

    def __init__(self, name: str, clips: torch.Tensor, *, auto: bool) -> None:
        torch.manual_seed(0)
        layout = torch.channels_last_3d if auto else torch.contiguous_format
        self.net = create_model(name, num_classes=101).to(memory_format=layout)
        self.clips = clips.to(memory_format=layout)
        self.bf16 = auto and use_bf16("auto", clips.device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-4, foreach=True)
        self.labels = torch.zeros(len(clips), dtype=torch.long)

    def seconds(self) -> float:
        """Take a step, and return its time."""
        began = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16):
            scores = self.net(self.clips)
        F.cross_entropy(scores.float(), self.labels).backward()
        self.optimizer.step()
        return time.perf_counter() - began


def main() -> None:
    """Print a row per clip."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clip", nargs="+", default=["t3d_tiny:16:72:16", "t3d121:16:112:4"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print("| net | clips | threads | eager fp32, s | auto, s | faster by | quartiles |")
    print("|---|---|---|---|---|---|---|")
    for clip in chosen.clip:
        name, *sizes = clip.split(":")
        frames, size, batch = map(int, sizes)
        x = torch.rand(batch, 3, frames, size, size)
        steps = [Step(name, x, auto=auto) for auto in (False, True)]
        for step in steps:
            step.seconds()
        pairs = [[step.seconds() for step in steps] for _ in range(chosen.steps)]
        ratios = [eager / auto for eager, auto in pairs]
        low, _, high = quantiles(ratios, n=4)
        eager, auto = (median(pair[i] for pair in pairs) for i in (0, 1))
        print(
            f"| `{name}` | {batch} of {frames} × {size}² | {chosen.threads} | {eager:.2f} | {auto:.2f} | "
            f"× {median(ratios):.2f} | {low:.2f} … {high:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
