"""Choose how soft labels are made and learned, on training groups only: no test video is read.

    python benchmarks/few_labels_choice.py DATA OUT

The training list of the 11 classes of UCF101 is divided four times: some groups validate, the others are the
pool. A share of the pool has labels (three draws). The teacher is EfficientNet-Lite0 at 224 × 224 pixels, the
students are frozen 2D networks at 128 × 128. Features of 8 frames, spread over each video, are kept in OUT.

Legend: N videos, D features, K classes.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from study import open_list

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import center_view
from t3d.data.manifest.manifest import Manifest
from t3d.models.frames import pool_time
from t3d.transfer.linear import class_probabilities, fit_linear, fit_soft
from t3d.transfer.teachers.open import open_teacher

FRAMES = 8
FOLDS = ((8, 11), (12, 15), (16, 20), (21, 25))  # first and last group number that validates
STRENGTHS = (1e-3, 1e-2, 1e-1)

Floats = npt.NDArray[np.float64]


def features(videos: Manifest, out: Path, teacher: str, size: int) -> Floats:
    """Return mean and standard deviation over 8 frames of each video, [N, 2 D]."""
    path = out / f"{teacher}-{size}.npy"
    if not path.exists():
        net = open_teacher(teacher, size=size)
        store = FrameStore(ClipSpec(num_frames=FRAMES, stride=1, size=size, resize=size))
        rows = []
        for entry in videos:
            video = store.open(entry.path)
            chosen = ((np.arange(FRAMES) + 0.5) * len(video.times) / FRAMES).astype(int)
            with torch.inference_mode():
                seen = net(center_view(video.get(chosen), store.spec))  # 8 D
            rows.append(pool_time(seen, "mean_std", dim=0).numpy())
        np.save(path, np.stack(rows))
    return np.load(path).astype(np.float64)


class Trial:
    """One division of the videos, with one draw of labels.

    Args:
        videos: The training list, N.
        validating: Which videos validate, bool [N].
        share: Share of the labels.
        seed: Seed of the draw.
    """

    def __init__(self, videos: Manifest, validating: npt.NDArray[np.bool_], share: float, seed: int) -> None:
        self.held = np.flatnonzero(validating)
        self.pool = np.flatnonzero(~validating)
        pool = videos.select(self.pool)
        self.known = pool.label_subset(share, seed=seed)
        paths = {entry.path for entry in self.known}
        self.labeled = np.array([entry.path in paths for entry in pool])
        self.labels = videos.labels
        self.classes = len(videos.classes)
        _, self.groups = np.unique(pool.table["source"].to_pylist(), return_inverse=True)

    def on_labels(self, x: Floats) -> Any:
        """Fit a classifier on the labels alone."""
        rows = [(row, 0, vector) for row, vector in enumerate(x[self.pool][self.labeled])]
        return fit_linear(self.known, rows).classifier

    def on_soft(self, x: Floats, targets: Floats, strength: float) -> Any:
        """Fit a classifier on the targets of the whole pool."""
        return fit_soft(x[self.pool], targets, strength=strength).classifier

    def targets(self, classifier: Any, x: Floats, *, by_group: bool = True) -> Floats:
        """Label the pool: the probabilities of a classifier, averaged per group, and the known labels."""
        soft = class_probabilities(classifier, x[self.pool], self.classes)
        if by_group:
            sums = np.zeros((self.groups.max() + 1, self.classes))
            np.add.at(sums, self.groups, soft)
            soft = (sums / np.bincount(self.groups)[:, None])[self.groups]
        soft[self.labeled] = np.eye(self.classes)[self.labels[self.pool][self.labeled]]
        return soft

    def accuracy(self, classifier: Any, x: Floats) -> float:
        """Return the accuracy on the validation videos, in percent."""
        likely = class_probabilities(classifier, x[self.held], self.classes).argmax(1)
        return 100 * float((likely == self.labels[self.held]).mean())


def measure(trial: Trial, big: Floats, small: Floats) -> dict[str, float]:
    """Return the accuracies of one trial: `big` are the teacher's features, `small` the student's."""
    teacher = trial.on_labels(big)
    targets = trial.targets(teacher, big)
    rows = {"teacher, labels": trial.accuracy(teacher, big)}
    rows["student, labels"] = trial.accuracy(trial.on_labels(small), small)
    for strength in STRENGTHS:
        again = trial.on_soft(big, targets, strength)
        rows[f"teacher, fitted again, strength {strength:g}"] = trial.accuracy(again, big)
        student = trial.on_soft(small, targets, strength)
        rows[f"student, soft labels, strength {strength:g}"] = trial.accuracy(student, small)
    second = trial.targets(trial.on_soft(big, targets, 1e-2), big)
    rows["student, soft labels of the second fit"] = trial.accuracy(trial.on_soft(small, second, 1e-2), small)
    single = trial.targets(teacher, big, by_group=False)
    rows["student, soft labels not averaged"] = trial.accuracy(trial.on_soft(small, single, 1e-2), small)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    videos = open_list(options.data, "ucf101_11", 0)
    big, small = (features(videos, options.out, "lite0", size) for size in (224, 128))
    number = np.array([int(name.rpartition("g")[2][:2]) for name in videos.table["source"].to_pylist()])
    results: defaultdict[str, dict[float, list[float]]] = defaultdict(lambda: {0.05: [], 0.2: []})
    for low, high in FOLDS:
        for share in (0.05, 0.2):
            for seed in range(3):
                trial = Trial(videos, (number >= low) & (number <= high), share, seed)
                for name, value in measure(trial, big, small).items():
                    results[name][share].append(value)
    print("| | 5 % of the labels | 20 % |\n|---|---|---|")
    for name, shares in results.items():
        cells = [f"{statistics.mean(each):.1f} ± {statistics.stdev(each):.1f}" for each in shares.values()]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
