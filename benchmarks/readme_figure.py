"""Draw the figure of the README from a demo: test videos, predictions, and accuracy by start and frame order.

    t3d demo --out demo
    python benchmarks/readme_figure.py demo docs/images/demo.png

The videos are the first ones of the test list whose classes are all different, right or wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

from t3d import Video
from t3d.data.clips.views import FrameOrder
from t3d.evaluation.config import TestConfig
from t3d.evaluation.run_test import TestResult, run_test

VIDEOS, FRAMES = 4, 6


def measured(demo: Path, run: str, order: FrameOrder = "normal") -> TestResult:
    """Test a model of the demo."""
    weights, videos = demo / run / "last.safetensors", demo / "videos" / "action_test.csv"
    return run_test(TestConfig(str(weights), str(videos), frame_order=order))


def show_videos(grid: Any, result: TestResult) -> None:
    """Draw frames of some videos with class and prediction: green if right, red if wrong."""
    scores = result.scores
    rows: dict[int, int] = {}
    for row, label in enumerate(scores.labels):
        rows.setdefault(int(label), row)
    for cells, row in zip(grid, list(rows.values())[:: len(rows) // VIDEOS], strict=False):
        predicted = int(np.argmax(scores.video_probs[row]))
        right = predicted == int(scores.labels[row])
        with Video(scores.paths[row]) as video:
            frames = video.frames_at(np.linspace(0, len(video) - 1, FRAMES).astype(int))
        for cell, frame in zip(cells, frames, strict=True):
            cell.imshow(frame.permute(1, 2, 0).numpy())
            cell.set(xticks=[], yticks=[])
        name = scores.classes[predicted].replace("_", " ")
        text = f"{name}\n{scores.video_probs[row, predicted]:.0%} {'✓' if right else '✗'}"
        cells[0].set_ylabel(
            text, rotation=0, ha="right", va="center", color="C2" if right else "C3", labelpad=8
        )


def show_accuracy(axis: Any, results: dict[str, TestResult]) -> None:
    """Draw the accuracies as bars, with counts of right videos."""
    colors = ["C0", "0.55", *["#9ecae1"] * (len(results) - 2)]
    for place, (result, color) in enumerate(zip(results.values(), colors, strict=True)):
        metrics = result.single
        right = round(metrics.video_top1 * metrics.videos)
        axis.barh(place, 100 * metrics.video_top1, color=color)
        text = f"{100 * metrics.video_top1:.0f} %  ({right} of {metrics.videos})"
        axis.text(100 * metrics.video_top1 + 1, place, text, va="center")
    chance = 100 / len(next(iter(results.values())).scores.classes)
    axis.axvline(chance, color="0.3", linestyle="--", linewidth=1)
    axis.text(chance + 0.5, len(results) - 0.45, "chance", fontsize=8, va="center")
    axis.set_yticks(range(len(results)), results.keys())
    axis.set(xlim=(0, 95), ylim=(len(results) - 0.3, -0.6), xlabel="test accuracy (%)")
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("png", type=Path)
    chosen = parser.parse_args()
    best = measured(chosen.demo, "tuned")
    results = {
        "after transfer": best,
        "from scratch": measured(chosen.demo, "scratch"),
        "after transfer,\nframes shuffled": measured(chosen.demo, "tuned", "shuffled"),
        "after transfer,\nframes reversed": measured(chosen.demo, "tuned", "reversed"),
        "after transfer,\none frame": measured(chosen.demo, "tuned", "static"),
    }
    figure = plt.figure(figsize=(12, 3.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
    grid = left.subplots(VIDEOS, FRAMES, squeeze=False)
    show_videos(grid, best)
    left.suptitle("Test videos and predictions of t3d_tiny", fontsize=11)
    show_accuracy(right.subplots(), results)
    right.suptitle("128 test videos, 16 classes, 128 labels", fontsize=11)
    figure.savefig(chosen.png, dpi=100)


if __name__ == "__main__":
    main()
