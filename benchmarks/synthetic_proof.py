"""Proof that one frame of the synthetic set shows its appearance class, but not its motion class.

    python benchmarks/synthetic_proof.py            # three seeds
    python benchmarks/synthetic_proof.py --quick    # one seed, fewer tracks

1. Ground truth: the position of the object in a frame is uniform, and has the same distribution in every
   class (chi-square over all frames and classes). A classifier on k neighboring points of the track is better
   for longer k, and at chance for k = 1.
2. Pixels: a 2D model on single decoded frames is near chance on the motion label of held-out videos. The same
   model with the same budget recognizes the appearance label from the same frames.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from torch import nn
from torch.nn import functional as F

from t3d.data.synthetic.scene import APPEARANCES, MOTIONS, Split, SyntheticSpec, motion_track
from t3d.data.synthetic.videos import videos_of, write_synthetic
from t3d.video.video import Video

CHANCE = 1 / len(MOTIONS)
Labels = npt.NDArray[np.int64]


# --- 1. the drawn ground truth ------------------------------------------------------------------------------


def tracks(spec: SyntheticSpec, split: Split, per_class: int) -> tuple[npt.NDArray[np.float64], Labels]:
    """Positions [N, T, 2] and motion labels [N]."""
    positions = [
        [motion_track(spec, split, motion, index) for index in range(per_class)] for motion in MOTIONS
    ]
    return np.concatenate(positions), np.repeat(np.arange(len(MOTIONS)), per_class)


def place_p_values(
    places: npt.NDArray[np.float64], labels: Labels, size: int, *, grid: int = 4
) -> tuple[float, float]:
    """Smallest p-values over frames: that positions are uniform, and that they are independent of the class.

    Both are multiplied by the number of frames (Bonferroni), so that a value below 0.01 would be news.
    """
    cells = np.minimum((places * grid / size).astype(np.int64), grid - 1)
    cells = cells[..., 0] * grid + cells[..., 1]  # N T
    even, independent = [], []
    for frame in range(cells.shape[1]):
        table = np.zeros((len(MOTIONS), grid * grid))
        np.add.at(table, (labels, cells[:, frame]), 1)
        even.append(stats.chisquare(table.ravel()).pvalue)
        independent.append(stats.chi2_contingency(table).pvalue)
    return min(1.0, min(even) * len(even)), min(1.0, min(independent) * len(independent))


def window_accuracy(spec: SyntheticSpec, frames: int, *, per_class: int) -> float:
    """Accuracy of a random forest that sees `frames` neighboring points of the true track."""
    features = {}
    for split in ("train", "test"):
        places, labels = tracks(spec, split, per_class)  # type: ignore[arg-type]
        start = np.random.default_rng(0).integers(0, spec.frames - frames + 1, len(places))
        window = places[np.arange(len(places))[:, None], start[:, None] + np.arange(frames)]  # N k 2
        steps = np.diff(window, axis=1)
        # The shorter way round the torus is the way that was taken.
        steps = (steps + spec.size / 2) % spec.size - spec.size / 2
        seen = np.concatenate((window[:, 0], np.cumsum(steps, axis=1).reshape(len(places), -1)), axis=1)
        features[split] = (seen, labels)
    forest = RandomForestClassifier(200, random_state=0, min_samples_leaf=2)
    return float(forest.fit(*features["train"]).score(*features["test"]))


# --- 2. the pixels ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """Decoded frames of a split, uint8 [N, T, 3, H, W], and both labels [N]."""

    frames: torch.Tensor
    motion: torch.Tensor
    appearance: torch.Tensor


def decoded(folder: Path, spec: SyntheticSpec, split: Split) -> Shown:
    frames, motion, appearance = [], [], []
    for video in videos_of(spec, split):
        with Video(folder / video.path) as file:
            frames.append(file.frames_at(range(len(file))))
        motion.append(list(MOTIONS).index(video.motion))
        appearance.append(APPEARANCES.index(video.appearance))
    return Shown(torch.stack(frames), torch.tensor(motion), torch.tensor(appearance))


class FrameNet(nn.Module):
    """A plain 2D net: four 3 × 3 convolutions, global max and mean, a linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths, strides = (3, 24, 32, 64, 96), (2, 2, 1, 2)
        layers: list[nn.Module] = []
        for (narrow, wide), stride in zip(pairwise(widths), strides, strict=True):
            layers += [nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * widths[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.body(x)  # B C H W
        return self.head(torch.cat((maps.amax((2, 3)), maps.mean((2, 3))), dim=1))


def scaled(frames: torch.Tensor) -> torch.Tensor:
    return frames.float().div_(64).sub_(2)


def frame_accuracy(
    train: Shown, test: Shown, label: str, *, steps: int, seed: int, batch: int = 64
) -> tuple[float, float]:
    """Accuracy on held-out videos of one middle frame each, and of the mean over eight frames each."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = FrameNet(len(MOTIONS))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    labels = getattr(train, label)
    for _ in range(steps):
        which = torch.from_numpy(rng.integers(0, len(labels), batch))
        moment = torch.from_numpy(rng.integers(0, train.frames.shape[1], batch))
        loss = F.cross_entropy(net(scaled(train.frames[which, moment])), labels[which])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    moments = np.linspace(0, test.frames.shape[1] - 1, 9).astype(int)  # the middle frame is the fifth
    with torch.no_grad():
        scores = torch.stack([net(scaled(test.frames[:, m])).softmax(1) for m in moments])  # 9 N K
    truth = getattr(test, label)
    one = (scores[4].argmax(1) == truth).double().mean()
    many = (scores.mean(0).argmax(1) == truth).double().mean()
    return float(one), float(many)


def main(arguments: list[str] | None = None) -> dict[str, object]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, fewer tracks and steps")
    parser.add_argument("--train", type=int, default=48, help="training videos per class (default 48)")
    parser.add_argument("--test", type=int, default=48, help="held-out videos per class (default 48)")
    parser.add_argument("--steps", type=int, default=300, help="steps of the 2D net, batch 64 (default 300)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    chosen = parser.parse_args(arguments)
    seeds = (0,) if chosen.quick else (0, 1, 2)
    per_class = 250 if chosen.quick else 1000

    spec = SyntheticSpec()
    places, labels = tracks(spec, "train", per_class)
    even, independent = place_p_values(places, labels, spec.size)
    print(
        f"places in {spec.frames} frames, {len(places)} tracks: spread evenly p = {even:.2f}, "
        f"independent of the class p = {independent:.2f} (corrected for the number of frames)"
    )
    windows = {k: window_accuracy(spec, k, per_class=per_class) for k in (1, 2, 4, 13, 31)}
    for k, accuracy in windows.items():
        print(f"random forest on {k:2d} neighboring points of the true track: {accuracy:6.1%}")

    results = []
    for seed in seeds:
        began = time.perf_counter()
        spec = SyntheticSpec(train=chosen.train, val=0, test=chosen.test, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            write_synthetic(folder, spec)
            wrote = time.perf_counter() - began
            train, test = (decoded(Path(folder), spec, split) for split in ("train", "test"))
        motion = frame_accuracy(train, test, "motion", steps=chosen.steps, seed=seed)
        appearance = frame_accuracy(train, test, "appearance", steps=chosen.steps, seed=seed)
        low, high = (
            float(b) / len(test.motion) for b in stats.binom.interval(0.99, len(test.motion), CHANCE)
        )
        results.append(
            {
                "seed": seed,
                "videos": len(test.motion),
                "motion": motion,
                "appearance": appearance,
                "chance_99": (low, high),
            }
        )
        print(
            f"seed {seed}, {len(test.motion)} held-out videos: motion {motion[0]:.1%} by one frame, "
            f"{motion[1]:.1%} by the mean over 9 (99 % of guesses are in {low:.1%} to {high:.1%}); "
            f"appearance {appearance[0]:.1%}, {appearance[1]:.1%}  "
            f"[{wrote:.0f} s to write, {time.perf_counter() - began:.0f} s in all]",
            flush=True,
        )
    figures = {
        "spec": asdict(spec),
        "even_p": even,
        "independent_p": independent,
        "windows": windows,
        "frames": results,
        "steps": chosen.steps,
    }
    if chosen.out:
        chosen.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    main()
