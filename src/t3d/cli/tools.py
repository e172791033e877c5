"""`t3d demo` and `t3d doctor`."""

from __future__ import annotations

from pathlib import Path


def demo(*, out: Path = Path("demo"), seed: int = 0, quick: bool = False) -> int:
    """Train, test and predict on generated videos, and write a report.

    Args:
        out: Folder for all files.
        seed: Seed of the training. The videos are always the same.
        quick: Train for one epoch on a few videos, to check in a minute that all parts work.
    """
    from t3d.demo import run_demo

    print(f"report: {run_demo(out, seed=seed, quick=quick)}")
    return 0


def doctor(*, device: str = "auto") -> int:
    """Check that decoding, torch and the device work.

    Args:
        device: Device to compute on: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda` or
            `cuda:1`.
    """
    from t3d.doctor import examine

    return 0 if examine(device) else 1
