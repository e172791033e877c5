"""Does a Temporal Transition Layer help? T3D beside DenseNet3D at equal parameters and multiply-adds.

    python benchmarks/ttl_study.py DATA OUT [PATTERN …] [--workers 0]

DATA holds `ucf101_11`. Each job is a net, a share of the labels and a seed, such as
`20/t3d/s0`; PATTERN chooses some (default: all, seed by seed). The labels of a seed, and 300 of the videos
whose labels are not used, to validate by, are the same for every net. OUT keeps the runs, which go on where
they were, and `rows.jsonl`, a row a finished job with its accuracy on the test list: a net's best weights by
validation are tested once. Then the table of what is there is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.manifest import Manifest
from t3d.data.sampling import ClipSpec
from t3d.models.flops import model_size
from t3d.testing import run_test
from t3d.train.config import ModelConfig, OptimConfig, TrainConfig
from t3d.train.loop import train
from t3d.train.run_folder import RunFolder

CLIP = ClipSpec(num_frames=16, stride=4, size=64, resize=72, tail="shift")
LEARN = OptimConfig(
    name="adamw",
    lr=3e-3,
    weight_decay=0.05,
    batch_size=16,
    schedule="cosine",
    warmup_epochs=2,
    label_smoothing=0.1,
    ema=0.99,
    clip_grad=1.0,
)
AUGMENT = AugmentConfig(crop="random_resized", min_area=0.5, flip=0.5, color=0.2)
EPOCHS = {20: 40, 100: 24}
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "t3d": ("t3d_tiny", {}),
    "densenet3d": ("densenet3d_tiny", {}),
    "densenet3d, equal parameters": ("densenet3d_tiny", {"growth_rate": 31}),
    "densenet3d, equal multiply-adds": ("densenet3d_tiny", {"growth_rate": 40}),
    "ttl 1,1,1": ("t3d_tiny", {"ttl_depths": [[1, 1, 1]] * 3}),
    "ttl 3,3,3": ("t3d_tiny", {"ttl_depths": [[3, 3, 3]] * 3}),
}
SEEDS = (0, 1, 2)
VALIDATED = 300


def jobs() -> dict[str, tuple[str, int, int]]:
    """Net, percent of the labels and seed of each job."""
    return {
        f"{percent}/{net.replace(', ', '-').replace(' ', '_').replace(',', '')}/s{seed}": (net, percent, seed)
        for percent in EPOCHS
        for seed in SEEDS
        for net in NETS
    }


def lists(data: Path, out: Path, percent: int, seed: int) -> tuple[Path, Path | None]:
    """The videos whose labels are used, and those that validate."""
    files = [out / f"lists/{percent}-s{seed}-{part}.csv" for part in ("train", "val")]
    full = Manifest.from_ucf101(data / "ucf101_11/videos", data / "ucf101_11/splits/trainlist01.txt")
    known = full.label_subset(percent / 100, seed=seed)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    known.write_csv(files[0])
    if percent == 100:
        return files[0], None
    used = {entry.path for entry in known}
    rest = np.array([row for row, entry in enumerate(full) if entry.path not in used])
    held = np.random.default_rng(seed).permutation(rest)[:VALIDATED]
    full.select(np.sort(held)).write_csv(files[1])
    return files[0], files[1]


def run(data: Path, out: Path, name: str, *, workers: int) -> dict[str, Any]:
    """Train and test a job."""
    net, percent, seed = jobs()[name]
    architecture, options = NETS[net]
    known, held = lists(data, out, percent, seed)
    epochs = EPOCHS[percent]
    config = TrainConfig(
        out=str(out / "runs" / name),
        seed=seed,
        data=DataConfig(
            train=str(known),
            val=None if held is None else str(held),
            val_fraction=0.0,
            cache=str(out / "cache"),
            workers=workers,
        ),
        clip=CLIP,
        augment=AUGMENT,
        model=ModelConfig(name=architecture, options=options),
        optim=replace(LEARN, epochs=epochs),
        eval_every=epochs // 4,
    )
    folder = RunFolder(train(config, resume=RunFolder(config.out).config.exists()))
    outcome = run_test(
        str(folder.best if folder.best.exists() else folder.weights),
        str(data / "ucf101_11/splits/testlist01.txt"),
        videos=str(data / "ucf101_11/videos"),
        cache=str(out / "cache"),
        workers=workers,
    )
    size = model_size(architecture, num_classes=11, options=options, num_frames=16, size=64)
    return {
        "job": name,
        "net": net,
        "percent": percent,
        "seed": seed,
        "parameters": size.parameters,
        "macs": size.macs,
        "top1": outcome.single.video_top1,
        "torch": torch.__version__,
    }


def table(rows: list[Mapping[str, Any]]) -> str:
    """Means and spreads over seeds."""
    lines = ["| labels | net | M parameters | MMAC | test top-1, % | seeds |", "|---|---|---|---|---|---|"]
    for percent in EPOCHS:
        for net in NETS:
            found = [row for row in rows if row["net"] == net and row["percent"] == percent]
            if found:
                each = [100 * row["top1"] for row in found]
                spread = f" ± {statistics.stdev(each):.1f}" if len(each) > 1 else ""
                one = found[0]
                lines.append(
                    f"| {percent} % | {net} | {one['parameters'] / 1e6:.2f} | {one['macs'] / 1e6:.0f} | "
                    f"{statistics.mean(each):.1f}{spread} | {len(each)} |"
                )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("patterns", nargs="*", default=["*"])
    parser.add_argument("--workers", type=int, default=0)
    chosen = parser.parse_args()
    rows_file = chosen.out / "rows.jsonl"
    chosen.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()] if rows_file.exists() else []
    done = {row["job"] for row in rows}
    for name in jobs():
        if name not in done and any(fnmatch(name, pattern) for pattern in chosen.patterns):
            rows.append(run(chosen.data, chosen.out, name, workers=chosen.workers))
            with rows_file.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
