"""Few labels on a GPU: T3D, DenseNet3D and a wider DenseNet3D, from scratch and with transfer.

    python benchmarks/few_labels_gpu.py pack DATA PACK --parts 4
    python benchmarks/few_labels_gpu.py run PACK OUT --minutes 9

`pack` runs on a machine with T3D. DATA contains the official lists of UCF101 and the videos. PACK gets up
to three clips per video as JPEG images (16 frames of 128 × 128, every fourth), and the features of
EfficientNet-Lite0. For each share of the labels and each seed, it also gets the soft labels of a
classifier on these features. Several parts are easier to copy.

`run` needs torch, numpy, safetensors and Pillow, and the folders `src` and `benchmarks`. It trains every
model on random crops of 112 × 112: from scratch on the labels alone, or with transfer, on labels, soft
labels and the features of all training videos, for the same number of steps. After `--minutes`, it saves
its state and prints "run again". Each finished training is one line of OUT/results.jsonl. The test list
is used once per line, after the last step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from few_labels_pack import FRAMES, SIDE, decoded, pack, part_file
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))  # where T3D is not installed

from t3d.clip import IMAGENET_MEAN, IMAGENET_STD
from t3d.models.registry import create_model

CROP = 112
# The last has 29.8 GMAC per clip with 101 classes, T3D-121 has 30.5, and DenseNet3D-121 7.8.
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "t3d121": ("t3d121", {}),
    "densenet3d121": ("densenet3d121", {}),
    "densenet3d121-wide": ("densenet3d121", {"growth_rate": 64, "stem_channels": 128}),
}
SHARES = (0.05, 0.2, 1.0)
SEEDS = (0, 1)
SAVE_EVERY = 120.0  # seconds
clock = time.monotonic


# --- data on the GPU machine ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """All clips in memory. C clips, V videos, K classes.

    Args:
        clips: Frames, uint8 [C, T, 3, H, W].
        features: The teacher's features, float [C, D].
        first: First clip of each video, int64 [V].
        count: Number of clips of each video, int64 [V].
        label: Class of each video, int64 [V].
        test: Which videos are for the test, bool [V].
        shares: `soft` and `labeled` tensors of each share and seed; see `soft_labels`.
        classes: Class names.
    """

    clips: Tensor
    features: Tensor
    first: Tensor
    count: Tensor
    label: Tensor
    test: Tensor
    shares: dict[str, Tensor]
    classes: list[str]


def unpack(folder: Path, device: torch.device) -> Packed:
    """Read and decode PACK. On a GPU, all clips are in its memory."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    labels = load_file(folder / "labels.safetensors")
    clips, video, features = [], [], []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for number in range(index["parts"]):
            part = load_file(part_file(folder, number))
            images = part["bytes"].tensor_split(part["ends"][:-1])
            frames = torch.stack(list(threads.map(decoded, images)))
            clips.append(frames.view(-1, FRAMES, 3, SIDE, SIDE))
            video.append(part["video"])
            features.append(part["features"].float())
    order = torch.cat(video).argsort(stable=True)
    count = torch.cat(video).bincount(minlength=len(labels["label"]))
    return Packed(
        torch.cat(clips)[order].to(device),
        torch.cat(features)[order].to(device),
        count.cumsum(0) - count,
        count,
        labels.pop("label"),
        labels.pop("test"),
        labels,
        index["classes"],
    )


def crops(clips: Tensor, generator: torch.Generator | None) -> Tensor:
    """Cut and normalize clips: at random, flipped and brightened in training, or the center.

    Args:
        clips: uint8 [B, T, 3, H, W].
        generator: Source of the draws. None for the center.

    Returns:
        float32 [B, 3, T, 112, 112].
    """
    x = clips.transpose(1, 2).float() / 255
    edge = (SIDE - CROP) // 2
    if generator is None:
        x = x[..., edge : edge + CROP, edge : edge + CROP]
    else:
        batch = len(x)
        draws = torch.rand(5, batch, generator=generator)
        side = (0.3 + 0.7 * draws[0]).sqrt()  # of the frame: an area of 0.3 to 1
        flip = torch.where(draws[1] < 0.5, -1.0, 1.0)
        theta = torch.zeros(batch, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = side * flip, side
        theta[:, :, 2] = ((2 * draws[2:4] - 1) * (1 - side)).T
        flat = x.flatten(1, 2)  # B, 3 · T, H, W
        grid = F.affine_grid(theta.to(x.device), [batch, 1, CROP, CROP], align_corners=False)
        x = F.grid_sample(flat, grid, align_corners=False).view(batch, 3, -1, CROP, CROP)
        light = 1 + 0.4 * (2 * draws[4] - 1)
        x = (x * light.to(x.device).view(-1, 1, 1, 1, 1)).clamp(0, 1)
    mean, std = (
        torch.tensor(values, device=x.device).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last_3d)


# --- run --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experiment:
    """One training and its test."""

    net: str
    share: float
    seed: int
    transfer: bool

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.net}-{self.share:g}-{'transfer' if self.transfer else 'scratch'}-{self.seed}"


class Student(nn.Module):
    """A network with a classifier, and a linear layer that predicts the teacher's features.

    Args:
        net: Name in `NETS`.
        classes: Number of classes.
        features: Number of the teacher's features.
    """

    def __init__(self, net: str, classes: int, features: int) -> None:
        super().__init__()
        name, options = NETS[net]
        self.net = create_model(name, num_classes=classes, options=options)
        self.standardize = nn.BatchNorm1d(features, affine=False)
        self.predict = nn.Linear(self.net.num_features, features)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores, [B, K], and predicted features, [B, D], in float32."""
        maps = self.net.forward_features(clips)
        pooled = self.net.forward_head(maps, pre_logits=True)
        return self.net.forward_head(maps).float(), self.predict(pooled).float()


class Training:
    """Training of one experiment, whose every step depends only on its number.

    Args:
        experiment: What to train.
        packed: All clips.
        steps: Optimizer steps.
        batch: Clips per step.
    """

    def __init__(self, experiment: Experiment, packed: Packed, *, steps: int, batch: int) -> None:
        self.experiment, self.packed, self.steps, self.batch = experiment, packed, steps, batch
        self.device = packed.clips.device
        torch.manual_seed(experiment.seed)
        self.student = Student(experiment.net, len(packed.classes), packed.features.shape[1]).to(self.device)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-3, weight_decay=0.05)
        key = f"{experiment.share} {experiment.seed}"
        self.targets, labeled = packed.shares[f"soft {key}"], packed.shares[f"labeled {key}"]
        chosen = torch.ones_like(labeled) if experiment.transfer else labeled
        self.videos = chosen.nonzero()[:, 0]
        self.step = 0

    def clips_of_step(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the videos of a step and one random clip of each. Every video appears once per epoch."""
        places = torch.arange(self.step * self.batch, (self.step + 1) * self.batch)
        count = len(self.videos)
        rows = torch.empty_like(places)
        for epoch in (places // count).unique().tolist():
            order = torch.randperm(
                count, generator=torch.Generator().manual_seed(1000 * self.experiment.seed + epoch)
            )
            mine = places // count == epoch
            rows[mine] = self.videos[order[places[mine] % count]]
        at = (torch.rand(self.batch, generator=generator) * self.packed.count[rows]).long()
        return rows, self.packed.first[rows] + at

    def take_step(self) -> float:
        """Take one step and return its loss."""
        generator = torch.Generator().manual_seed(1_000_003 * (self.experiment.seed + 1) + self.step)
        rows, clips = self.clips_of_step(generator)
        there = clips.to(self.device)
        warm = min(1.0, (self.step + 1) / max(1, self.steps // 20))
        rate = 1e-3 * warm * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.student.train()
        bf16 = self.device.type == "cuda"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
            scores, predicted = self.student(crops(self.packed.clips[there], generator))
        loss = F.cross_entropy(scores, self.targets[rows].to(self.device))
        if self.experiment.transfer:
            teacher = self.student.standardize(self.packed.features[there])
            loss = loss + 1 - F.cosine_similarity(predicted, teacher).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    @torch.inference_mode()
    def accuracy(self) -> tuple[float, int]:
        """Return the accuracy on the test videos, each the mean of its clips, and their number."""
        self.student.eval()
        packed, right = self.packed, 0
        videos = packed.test.nonzero()[:, 0]
        bf16 = self.device.type == "cuda"
        for video in videos.tolist():
            clips = packed.clips[packed.first[video] : packed.first[video] + packed.count[video]]
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=bf16):
                scores, _ = self.student(crops(clips, None))
            right += int(scores.softmax(1).mean(0).argmax()) == int(packed.label[video])
        return right / len(videos), len(videos)

    def save(self, file: Path) -> None:
        """Write the state."""
        state = {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        temporary = file.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(file)

    def load(self, file: Path) -> None:
        """Read the state, if there is one."""
        if file.exists():
            state = torch.load(file, map_location=self.device, weights_only=True)
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]


def run(
    folder: Path,
    out: Path,
    *,
    minutes: float,
    steps: int,
    batch: int,
    nets: Sequence[str],
    device: torch.device,
) -> bool:
    """Run experiments until all are finished, or the time is over.

    Args:
        folder: PACK.
        out: Folder for results and states.
        minutes: Time of this call.
        steps: Optimizer steps per training.
        batch: Clips per step.
        nets: Names in `NETS`.
        device: Device.

    Returns:
        Whether all experiments are finished.
    """
    end = clock() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    options = {"steps": steps, "batch": batch}
    known = {result["name"] for result in read_results(out) if options.items() <= result.items()}
    todo = [
        experiment
        for seed in index["seeds"]
        for share in index["shares"]
        for net in nets
        for transfer in (False, True)
        if (experiment := Experiment(net, share, seed, transfer)).name not in known
    ]
    packed = unpack(folder, device) if todo else None
    for number, experiment in enumerate(todo):
        assert packed is not None
        training, state = (
            Training(experiment, packed, **options),
            out / f"{experiment.name}-{steps}-{batch}.pt",
        )
        training.load(state)
        print(f"{experiment.name}: step {training.step} of {steps}, {len(todo) - number} to do", flush=True)
        saved, loss = clock(), math.nan
        while training.step < steps:
            if clock() > end:
                training.save(state)
                return False
            if clock() - saved > SAVE_EVERY:
                training.save(state)
                saved = clock()
            loss = training.take_step()
        training.save(state)
        if clock() > end:  # the test belongs to the next call
            return False
        top1, videos = training.accuracy()
        add_result(
            out, asdict(experiment) | options | {"name": experiment.name, "top1": top1, "videos": videos}
        )
        state.unlink()
        print(f"{experiment.name}: {100 * top1:.1f} % of {videos} videos, last loss {loss:.3f}", flush=True)
    return True


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return the finished experiments."""
    file = out / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def add_result(out: Path, result: dict[str, Any]) -> None:
    """Add a finished experiment."""
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(result) + "\n")


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the mean accuracy over seeds, in percent, and the range, as a Markdown table."""
    lines = ["| | labels | steps | scratch | transfer | seeds |", "|---|---:|---:|---:|---:|---:|"]
    kinds = {(r["net"], r["share"], r["steps"], r["batch"]) for r in results}
    for kind in sorted(kinds):
        mine = [r for r in results if (r["net"], r["share"], r["steps"], r["batch"]) == kind]
        cells = []
        for transfer in (False, True):
            top1 = [100 * r["top1"] for r in mine if r["transfer"] is transfer]
            cells.append(f"{fmean(top1):.1f} ({min(top1):.1f}–{max(top1):.1f})" if top1 else "")
        seeds = len({r["seed"] for r in mine})
        lines.append(f"| {kind[0]} | {kind[1]:.0%} | {kind[2]} | {' | '.join(cells)} | {seeds} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="on a machine with T3D")
    packing.add_argument("data", type=Path)
    packing.add_argument("pack", type=Path)
    packing.add_argument("--parts", type=int, default=1)
    packing.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    packing.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    running = commands.add_parser("run", help="on the GPU machine")
    running.add_argument("pack", type=Path)
    running.add_argument("out", type=Path)
    running.add_argument("--minutes", type=float, default=9.0)
    running.add_argument("--steps", type=int, default=6000)
    running.add_argument("--batch", type=int, default=32)
    running.add_argument("--nets", nargs="+", choices=list(NETS), default=list(NETS))
    running.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    if given.command == "pack":
        from t3d.progress import show_progress

        show_progress()
        pack(given.data, given.pack, parts=given.parts, shares=given.shares, seeds=given.seeds)
        return
    finished = run(
        given.pack,
        given.out,
        minutes=given.minutes,
        steps=given.steps,
        batch=given.batch,
        nets=given.nets,
        device=torch.device(given.device),
    )
    print(table(read_results(given.out)))
    print("finished" if finished else "run again")


if __name__ == "__main__":
    main()
