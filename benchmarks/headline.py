"""Draw the two main results in one figure, from the tables of results of both studies.

    python benchmarks/headline.py docs/images/headline.png

Left: accuracy on drawn motions of 32 frames by the span that distinguishes classes. Right: accuracy on 11
classes of UCF101 by the share of labels, from scratch and after transfer. ± is the standard deviation over
runs.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from nets_report import SPANS, arms, chosen_rates
from study import read_results
from transfer_report import SHARES, rows

HERE = Path(__file__).parent
MODELS = {
    "densenet3d": "DenseNet3D",
    "t3d-depths-1": "T3D,\ndepth 1 only",
    "t3d": "T3D",
    "densenet3d-equal-macs": "DenseNet3D, wider\n(as many\nmultiply-accumulates)",
}
STARTS = {"scratch": ("from scratch", "0.45", -0.18), "regress": ("after transfer", "C2", 0.18)}


def bar(axis: Any, place: float, values: list[float], **style: Any) -> None:
    """Draw the mean of accuracies in percent, with their standard deviation and the number above."""
    mean = 100 * statistics.mean(values)
    error = 100 * statistics.stdev(values) if len(values) > 1 else 0
    axis.bar(place, mean, yerr=error, capsize=2, **style)
    axis.text(place, mean + error + 1, f"{mean:.3g}", ha="center", fontsize=8)


def motions(axis: Any) -> None:
    """Draw accuracy by span for each model, on clips of 32 frames."""
    runs_of = chosen_rates(arms(read_results(HERE / "nets_study.jsonl")))
    for place, net in enumerate(MODELS):
        runs = list(runs_of["motion", net, "32x1x32"].values())
        for shift, span in enumerate(SPANS):
            style = {"color": f"C{shift}", "label": f"{span} motions" if place == 0 else None}
            bar(axis, place + 0.28 * (shift - 1), [run["spans"][span] for run in runs], width=0.26, **style)
    axis.axhline(12.5, color="0.3", linestyle="--", linewidth=1, label="chance")
    axis.set_xticks(range(len(MODELS)), MODELS.values(), fontsize=9)
    axis.set(ylim=(0, 125), yticks=range(0, 101, 20), ylabel="test accuracy (%)")
    axis.set_title("Drawn motions, 32 frames: temporal depth", fontsize=11)
    axis.legend(frameon=False, ncols=2, loc="upper left", fontsize=8)


def transfer(axis: Any) -> None:
    """Draw accuracy by share of labels, from scratch and after transfer."""
    results = read_results(HERE / "transfer_study.jsonl")
    tested = rows(results, "test")
    for start, (name, color, shift) in STARTS.items():
        for place, share in enumerate(SHARES):
            runs = [
                run["normal"]
                for key, each in tested.items()
                if key[:3] == ("ucf101_11", share, start)
                for run in each
            ]
            label = name if place == 0 else None
            bar(axis, place + shift, runs, width=0.34, color=color, label=label)
    axis.axhline(100 / 11, color="0.3", linestyle="--", linewidth=1, label="chance")
    axis.set_xticks(range(len(SHARES)), [f"{share} % of labels" for share in SHARES], fontsize=9)
    axis.set(ylim=(0, 85), ylabel="test accuracy (%)")
    axis.set_title("UCF101, 11 classes: transfer with few labels", fontsize=11)
    axis.legend(frameon=False, loc="upper left", fontsize=8)


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("png", type=Path)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", width_ratios=(1.3, 1))
    motions(left)
    transfer(right)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(parser.parse_args().png, dpi=110)


if __name__ == "__main__":
    main()
