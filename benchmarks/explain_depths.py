"""Do the shares of temporal depths rank like the effect of switching off single branches?

    python benchmarks/explain_depths.py RUN LIST [--root FOLDER] [--videos 100] [--seed 0]

RUN is a run of a network with Temporal Transition Layers, LIST holds its test videos. The script draws
videos, takes the middle clip of each, and explains the predicted class. It compares the contributions with
the fall of the score if the output of one branch is zero, by Spearman's rank correlation. `all pairs` is the
correlation over all pairs of video and branch. `per video` is the mean over videos of the correlation over
the branches of one video. If the classes are the drawn motions, the mean shares of classes with short, middle
and long motions are printed, too.

Methods:
- shapley: `t3d explain`, all selections of the branches of a layer
- path per layer: gradient at the gates of a layer, averaged while they rise together (8 points)
- path of all: the same, while the gates of all layers rise together
- gradient: gradient at the gates, all of which are 1 (gradient × activation)
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr

from t3d.data.catalog import open_manifest
from t3d.data.clips.dataset import ClipItem, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.synthetic.scene import MOTIONS
from t3d.explanation.depths import (
    Scores,
    ablation_drops,
    depth_shares,
    path_values,
    shapley_values,
)
from t3d.explanation.gates import Branch, by_stage
from t3d.explanation.network import ExplainedNet
from t3d.models.weights import load_model

Values = npt.NDArray[np.float64]


def per_layer(values: Callable[[Scores, list[Branch]], list[float]]) -> Callable[..., list[float]]:
    """Return a function that computes the values layer by layer."""

    def compute(scores: Scores, branches: list[Branch]) -> list[float]:
        layers = by_stage(branches).values()
        return [each for numbers in layers for each in values(scores, [branches[n] for n in numbers])]

    return compute


METHODS: dict[str, Callable[[Scores, list[Branch]], list[float]]] = {
    "shapley": per_layer(shapley_values),
    "path per layer": per_layer(path_values),
    "path of all": path_values,
    "gradient": lambda scores, branches: path_values(scores, branches, [1.0]),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("run")
    parser.add_argument("list")
    parser.add_argument("--root")
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    model, card = load_model(chosen.run)
    net = ExplainedNet(model, card.clip)
    manifest = open_manifest(chosen.list, root=chosen.root)
    rows = np.random.default_rng(chosen.seed).permutation(len(manifest))[: chosen.videos]
    clips = VideoClips(manifest, card.clip, store=FrameStore(card.clip))
    measured: dict[str, list[list[float]]] = {name: [] for name in ["ablation", *METHODS]}
    seconds = dict.fromkeys(METHODS, 0.0)
    labels = []
    for row in rows.tolist():
        items = [item for item in clips.of(row) if isinstance(item, ClipItem)]
        if not items:
            continue
        x = net.input_of(items[len(items) // 2].frames)
        with torch.no_grad():
            label = int(net.net(x).mean(0).argmax())
        scores = net.scores(x, label)
        measured["ablation"].append(ablation_drops(scores, net.branches))
        for name, method in METHODS.items():
            start = time.perf_counter()
            measured[name].append(method(scores, net.branches))
            seconds[name] += time.perf_counter() - start
        labels.append(card.classes[label])
    values = {name: np.array(each) for name, each in measured.items()}
    names = [f"{each.stage}/{each.depth}" for each in net.branches]
    print(f"{chosen.run}: {len(labels)} videos, {len(names)} branches, classes as predicted")
    print(f"{'method':16} {'all pairs':>9} {'per video':>9} {'ms per clip':>11}")
    for name in METHODS:
        pairs = rank_correlation(values[name].ravel(), values["ablation"].ravel())
        each_video = np.mean(
            [rank_correlation(a, b) for a, b in zip(values[name], values["ablation"], strict=True)]
        )
        print(f"{name:16} {pairs:9.3f} {each_video:9.3f} {1000 * seconds[name] / len(labels):11.0f}")
    print(f"{'':16} " + " ".join(f"{name:>13}" for name in names))
    for name in ("ablation", "shapley"):
        print(f"mean {name:11} " + " ".join(f"{value:13.2f}" for value in values[name].mean(0)))
    if set(labels) <= set(MOTIONS):
        print_spans(labels, values["shapley"], net.branches)


def rank_correlation(one: Values, other: Values) -> float:
    """Return Spearman's rank correlation."""
    return float(spearmanr(one, other).statistic)


def print_spans(labels: list[str], values: Values, branches: list[Branch]) -> None:
    """Print the mean shares of the classes of each span of time, and of each class."""
    groups = {
        span: [name for name in MOTIONS if MOTIONS[name] == span] for span in ("short", "middle", "long")
    }
    groups |= {name: [name] for name in MOTIONS}
    for group, classes in groups.items():
        rows = [row for row, label in enumerate(labels) if label in classes]
        if rows:
            shares = depth_shares(branches, values[rows].mean(0).tolist())
            text = " ".join(f"{each.share:13.0%}" for each in shares)
            print(f"{group[:16]:16} {text}  ({len(rows)} videos)")


if __name__ == "__main__":
    main()
