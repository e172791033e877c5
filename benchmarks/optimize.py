"""Measure what `t3d.optimize` chooses, and by how much it is faster than the plain network.

    python benchmarks/optimize.py --threads 2 --clip t3d_tiny:16:72:8 t3d121:16:112:2

`--clip` takes NET:FRAMES:SIZE:BATCH, or RUN:FRAMES:SIZE:BATCH with a run folder. BatchNorm of untrained
networks gets the statistics of random clips. The ways take turns, so that other work on the machine slows
all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from t3d.models.registry import create_model
from t3d.models.weights import load_model
from t3d.runtime.optimize import optimize


def main() -> None:
    """Print a table per clip."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clip", nargs="+", default=["t3d_tiny:16:72:8", "t3d121:16:112:2"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    for clip in chosen.clip:
        name, *sizes = clip.rsplit(":", 3)
        frames, size, batch = map(int, sizes)
        torch.manual_seed(0)
        if Path(name).exists():
            net = load_model(name)[0].eval()
        else:
            net = create_model(name, num_classes=101)
            with torch.no_grad():
                for _ in range(3):
                    net(torch.randn(2, 3, frames, size, size))
            net.eval()
        x = torch.randn(batch, 3, frames, size, size)
        fast = optimize(net, example_input=x, rounds=chosen.rounds, compile=chosen.compile)
        plain = fast.candidates[0].seconds or 0.0
        print(f"\n`{name}`, {batch} clips of {frames} × {size}², {chosen.threads} threads: {fast.choice}\n")
        print("| | ms | faster than plain by | difference |\n|---|---|---|---|")
        for each in fast.candidates:
            speed = each.rejected or f"{1000 * each.seconds:.0f} | × {plain / each.seconds:.2f}"  # type: ignore[operator]
            print(f"| {each.name} | {speed} | {each.difference or 0:.1e} |", flush=True)


if __name__ == "__main__":
    main()
