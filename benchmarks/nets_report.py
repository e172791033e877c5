"""Tables and plots of the study of nets and clips.

    python benchmarks/nets_report.py benchmarks/nets_study.jsonl --add OUT --plot docs/images/nets.png

`--add` brings the results of `nets_study.py … OUT` into the table of results, one JSON object a job; then the
table is all that is needed. ± is the standard deviation over seeds, how many in brackets. A difference is of
two nets with the same seed, and so with the same labels and test videos; ± is its standard error over seeds.
Of the learning rates that a net was trained with, comparisons and plots take the one that validated best on
the seeds that all of them were run with.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from study import Result, add_results, read_results, spread

SPANS = ("short", "middle", "long")
PAIRS = (
    ("t3d", "densenet3d"),
    ("t3d", "densenet3d-equal-parameters"),
    ("t3d", "densenet3d-equal-macs"),
    ("t3d", "t3d-depths-1"),
    ("t3d", "t3d-depths-3"),
    ("t3d-more-layers", "t3d"),
    ("resnet3d-ttl", "resnet3d"),
    ("resnet3d-ttl-in-place", "resnet3d"),
    ("resnet3d-ttl", "resnet3d-equal-macs"),
)
"""Networks that are compared."""
NAMES = {
    "densenet3d": "DenseNet3D",
    "densenet3d-equal-macs": "DenseNet3D, equal multiply-accumulates",
    "densenet3d-equal-parameters": "DenseNet3D, equal parameters",
    "resnet3d": "ResNet3D",
    "resnet3d-equal-macs": "ResNet3D, equal multiply-accumulates",
    "resnet3d-ttl": "ResNet3D + TTLs",
    "resnet3d-ttl-in-place": "ResNet3D, TTLs instead of maps",
    "t3d": "T3D",
    "t3d-depths-1": "T3D, depth 1 only",
    "t3d-depths-3": "T3D, depth 3 only",
    "t3d-more-layers": "T3D, more layers",
}
"""Names of nets in plots."""
TITLES = {"motion": "drawn motions", "ucf101_11": "UCF101, 11 classes", "hockey_fights": "Hockey Fights"}
"""Names of sets in plots."""
USUAL = {"motion": "16x2x32", "ucf101_11": "16x4x48", "hockey_fights": "16x2x48", "arid6": "16x2x48"}
"""Clip of the comparison of networks."""
Arm = tuple[str, str, str]  # set, net, clip
Seeds = dict[int, Result]
Found = dict[Arm, Seeds]


def arms(results: list[Result]) -> dict[Arm, dict[float, Seeds]]:
    """Results of each set, net and clip, by learning rate and seed."""
    seeds_by_arm: dict[Arm, dict[float, Seeds]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        seeds_by_arm[result["set"], result["net"], result["clip"]][result["lr"]][result["seed"]] = result
    return seeds_by_arm


def chosen_rates(seeds_by_arm: dict[Arm, dict[float, Seeds]]) -> Found:
    """Return the learning rate per arm with the best validation accuracy, or the only one."""
    return {arm: _best_rate(list(rates.values())) for arm, rates in seeds_by_arm.items()}


def _best_rate(rates: list[Seeds]) -> Seeds:
    shared = set[int].intersection(*(set(seeds) for seeds in rates))
    if not shared:
        return max(rates, key=len)  # no seed says which is better

    def validated(seeds: Seeds) -> float:
        return statistics.mean(max(seeds[seed]["val"].values(), default=0.0) for seed in shared)

    return max(rates, key=validated)


def show(every: dict[Arm, dict[float, Seeds]], seeds_by_arm: Found) -> None:
    """Print tables in Markdown."""
    for videos in USUAL:
        mine = [
            (clip, net, rate, list(seeds.values()))
            for (name, net, clip), rates in every.items()
            for rate, seeds in rates.items()
            if name == videos
        ]
        if not mine:
            continue
        spans = SPANS if videos == "motion" else ()
        heads = ["net", "clip", "rate", "M parameters", "MMAC", "validation", "test", *spans]
        heads += ["shuffled", "static"]
        print(f"\n## {videos}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for clip, net, rate, each in sorted(mine, key=lambda row: (_numbers(row[0]), *row[1:3])):
            curves = [list(result["val"].values()) for result in each]
            cells = [
                net,
                clip.replace("x", " × "),
                f"{rate:g}",
                f"{each[0]['parameters'] / 1e6:.2f}",
                f"{each[0]['macs'] / 1e6:.0f}",
                spread([max(curve) for curve in curves]) if all(curves) else "",
                spread([result["normal"] for result in each]),
                *(spread([result["spans"][span] for result in each]) for span in spans),
                *(spread([result[order] for result in each]) for order in ("shuffled", "static")),
            ]
            print(f"| {' | '.join(cells)} |")
        clips = sorted({clip for name, _, clip in seeds_by_arm if name == videos}, key=_numbers)
        print("\n| clip | model | minus | points |\n|---|---|---|---|")
        for clip, (one, other) in itertools.product(clips, PAIRS):
            points = differences(seeds_by_arm, (videos, one, clip), (videos, other, clip))
            if points:
                print(f"| {clip.replace('x', ' × ')} | {one} | {other} | {difference(points)} |")


def _numbers(clip: str) -> list[int]:
    return [int(part) for part in clip.split("x")]


def differences(seeds_by_arm: Found, one: Arm, other: Arm) -> list[float]:
    """Difference of two test accuracies, in points, for each seed."""
    a, b = seeds_by_arm.get(one, {}), seeds_by_arm.get(other, {})
    return [100 * (a[seed]["normal"] - b[seed]["normal"]) for seed in sorted(a.keys() & b.keys())]


def difference(points: list[float]) -> str:
    """Mean, standard error, and number of values."""
    mean = statistics.mean(points)
    if len(points) == 1:
        return f"{mean:+.1f} (1)"
    return f"{mean:+.1f} ± {statistics.stdev(points) / len(points) ** 0.5:.1f} ({len(points)})"


def plot(seeds_by_arm: Found, path: Path) -> None:
    """Plot the available results: networks by cost, motions by span, strides, frames and sides."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    nets = {
        videos: len({arm for arm in seeds_by_arm if (arm[0], arm[2]) == (videos, USUAL[videos])})
        for videos in USUAL
    }
    many = [videos for videos, count in nets.items() if count > 3]  # fewer are read in the table
    panels: list[Callable[[Any, Found], None]] = [
        partial(_nets, videos=videos)
        for videos in many or [name for name, count in nets.items() if count > 1]
    ]
    panels += [
        partial(_spans, clip=clip)
        for clip in ("16x2x32", "32x1x32")
        if any((arm[0], arm[2]) == ("motion", clip) for arm in seeds_by_arm)
    ]
    if any(arm[0] == "ucf101_11" and arm[2] == "16x16x48" for arm in seeds_by_arm):
        panels += [_strides, _clips]
    figure, axes = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(11, 4 * ((len(panels) + 1) // 2)), layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis, seeds_by_arm)
        axis.grid(alpha=0.3)
        in_one_row = len(axis.get_legend_handles_labels()[1]) <= len(SPANS)
        axis.legend(frameon=False, fontsize=8, ncols=len(SPANS) if in_one_row else 1)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def _nets(axis: Any, seeds_by_arm: Found, *, videos: str) -> None:
    """Accuracy by multiply-accumulates; a net has the same color in every panel."""
    nets = sorted({net for _, net, _ in seeds_by_arm})
    for net in sorted({net for name, net, clip in seeds_by_arm if (name, clip) == (videos, USUAL[videos])}):
        each = list(seeds_by_arm[videos, net, USUAL[videos]].values())
        mean, error = _bar([result["normal"] for result in each])
        marker = "s" if net.startswith("resnet") else "o" if net.startswith("t3d") else "^"
        color = f"C{nets.index(net)}"
        axis.errorbar(
            each[0]["macs"] / 1e6, mean, error, fmt=marker, color=color, capsize=3, label=NAMES[net]
        )
    left, right = axis.get_xlim()
    axis.set_xlim(left, right + 1.3 * (right - left))  # room for the legend
    title = f"{TITLES[videos]}, {USUAL[videos].replace('x', ' × ')}"
    axis.set(xlabel="million multiply-accumulates per clip", ylabel="test top-1 (%)", title=title)


def _bar(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation in percent."""
    return 100 * statistics.mean(values), 100 * statistics.stdev(values) if len(values) > 1 else 0.0


def _spans(axis: Any, seeds_by_arm: Found, *, clip: str) -> None:
    """Accuracy on short, middle and long motions, by net."""
    order = ("densenet3d", "densenet3d-equal-macs", "t3d-depths-1", "t3d-depths-3", "t3d", "resnet3d")
    nets = [net for net in order if ("motion", net, clip) in seeds_by_arm]
    for place, net in enumerate(nets):
        each = list(seeds_by_arm["motion", net, clip].values())
        for shift, span in enumerate(SPANS):
            mean, error = _bar([result["spans"][span] for result in each])
            axis.bar(
                place + 0.27 * (shift - 1),
                mean,
                0.25,
                yerr=error,
                color=f"C{shift}",
                label=span if place == 0 else None,
                capsize=2,
            )
    axis.set_xticks(
        range(len(nets)),
        [NAMES[net].replace(", ", "\n").replace("equal m", "equal\nm") for net in nets],
        fontsize=8,
    )
    axis.set(
        ylabel="test top-1 (%)",
        title=f"drawn motions, {clip.replace('x', ' × ')}, by span",
        ylim=(0, 118),
    )


def _strides(axis: Any, seeds_by_arm: Found) -> None:
    """Accuracy by the temporal stride, on UCF101's 11 classes."""
    for color, net in enumerate(("t3d", "densenet3d")):
        for order, line in (("normal", "o-"), ("shuffled", "s--"), ("static", "^:")):
            strides = [s for s in (1, 2, 4, 16) if ("ucf101_11", net, f"16x{s}x48") in seeds_by_arm]
            runs = [seeds_by_arm["ucf101_11", net, f"16x{s}x48"].values() for s in strides]
            points = [_bar([result[order] for result in each]) for each in runs]
            if points:
                means, errors = zip(*points, strict=True)
                label = NAMES[net] if order == "normal" else f"{NAMES[net]}, {order}"
                axis.errorbar(strides, means, errors, fmt=line, color=f"C{color}", label=label, capsize=3)
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4, 16], ["1", "2", "4", "16"])
    axis.set(xlabel="stride of 16 frames", ylabel="test top-1 (%)", title="UCF101, 11 classes, by stride")


def _clips(axis: Any, seeds_by_arm: Found) -> None:
    """Accuracy by the multiply-accumulates of a clip, as frames are added or their sides grow."""
    lines = {
        "more frames, same span": (("8x8x48", "16x4x48", "32x2x48"), "o-"),
        "more frames, same stride": (("8x2x48", "16x2x48", "32x2x48"), "s--"),
        "larger frames": (("16x4x32", "16x4x48", "16x4x64"), "^:"),
    }
    for (color, net), (label, (clips, line)) in itertools.product(
        enumerate(("t3d", "densenet3d")), lines.items()
    ):
        seeds = [seeds_by_arm.get(("ucf101_11", net, clip), {}) for clip in clips]
        runs = [list(each.values()) for each in seeds if each]
        if len(runs) > 1:
            means, errors = zip(*(_bar([result["normal"] for result in each]) for each in runs), strict=True)
            macs = [each[0]["macs"] / 1e6 for each in runs]
            axis.errorbar(
                macs, means, errors, fmt=line, color=f"C{color}", label=f"{NAMES[net]}: {label}", capsize=3
            )
    axis.set_xscale("log")
    axis.set_xticks([50, 100, 200, 400, 800], ["50", "100", "200", "400", "800"])
    axis.minorticks_off()
    axis.set_ylim(25, 46)  # room for the legend
    title = "UCF101, 11 classes, by clip"
    axis.set(xlabel="million multiply-accumulates per clip", ylabel="test top-1 (%)", title=title)


def main() -> None:
    """Print the tables and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--add", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    chosen = parser.parse_args()
    if chosen.add:
        add_results(chosen.table, chosen.add)
    every = arms(read_results(chosen.table))
    seeds_by_arm = chosen_rates(every)
    show(every, seeds_by_arm)
    if chosen.plot:
        plot(seeds_by_arm, chosen.plot)


if __name__ == "__main__":
    main()
