"""Tables and plots of the study of nets and clips.

    python benchmarks/nets_report.py benchmarks/nets_study.jsonl --add OUT --plot docs/nets.png

`--add` brings the results of `nets_study.py … OUT` into the table of results, one JSON object a job; then the
table is all that is needed. ± is the standard deviation over seeds, how many in brackets. A difference is of
two nets with the same seed, and so with the same labels and test videos; ± is its standard error over seeds.
Of the learning rates that a net was trained with, comparisons and plots take the one that validated best.
"""

from __future__ import annotations

import argparse
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
"""Nets that are compared."""
USUAL = {"motion": "16x2x32", "ucf101_11": "16x4x48", "hockey_fights": "16x2x48", "arid6": "16x2x48"}
"""The clip that nets are compared on."""
Arm = tuple[str, str, str]  # set, net, clip
Seeds = dict[int, Result]
Found = dict[Arm, Seeds]


def arms(results: list[Result]) -> dict[Arm, dict[float, Seeds]]:
    """Results of each set, net and clip, by learning rate and seed."""
    found: dict[Arm, dict[float, Seeds]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        found[result["set"], result["net"], result["clip"]][result["lr"]][result["seed"]] = result
    return found


def chosen_rates(found: dict[Arm, dict[float, Seeds]]) -> Found:
    """Of each arm the learning rate whose best epochs validate best, or the only one."""
    return {arm: max(rates.values(), key=_validated) for arm, rates in found.items()}


def _validated(seeds: Seeds) -> float:
    return statistics.mean(max(result["val"].values(), default=0.0) for result in seeds.values())


def show(every: dict[Arm, dict[float, Seeds]], found: Found) -> None:
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
        for clip, net, rate, each in sorted(mine, key=lambda row: row[:3]):
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
        print("\n| net | less | points |\n|---|---|---|")
        for one, other in PAIRS:
            points = differences(found, videos, one, other)
            if points:
                print(f"| {one} | {other} | {difference(points)} |")


def differences(found: Found, videos: str, one: str, other: str) -> list[float]:
    """Test accuracy of one net less that of another, in points, a seed each."""
    a, b = (found.get((videos, net, USUAL[videos]), {}) for net in (one, other))
    return [100 * (a[seed]["normal"] - b[seed]["normal"]) for seed in sorted(a.keys() & b.keys())]


def difference(points: list[float]) -> str:
    """Mean and standard error, and how many."""
    mean = statistics.mean(points)
    if len(points) == 1:
        return f"{mean:+.1f} (1)"
    return f"{mean:+.1f} ± {statistics.stdev(points) / len(points) ** 0.5:.1f} ({len(points)})"


def plot(found: Found, path: Path) -> None:
    """What there are results of: nets by cost, motions by span, strides."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    panels: list[Callable[[Any, Found], None]] = [
        partial(_nets, videos=videos) for videos in USUAL if any(arm[0] == videos for arm in found)
    ]
    if any(arm[0] == "motion" for arm in found):
        panels.append(_spans)
    if any(arm[0] == "ucf101_11" and arm[2] == "16x16x48" for arm in found):
        panels.append(_strides)
    figure, axes = plt.subplots(
        (len(panels) + 1) // 2, 2, figsize=(11, 4 * ((len(panels) + 1) // 2)), layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel(axis, found)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def _nets(axis: Any, found: Found, *, videos: str) -> None:
    """Accuracy by multiply-adds."""
    for net in sorted({net for name, net, clip in found if (name, clip) == (videos, USUAL[videos])}):
        each = list(found[videos, net, USUAL[videos]].values())
        mean, error = _bar([result["normal"] for result in each])
        marker = "s" if net.startswith("resnet") else "o" if net.startswith("t3d") else "^"
        axis.errorbar(each[0]["macs"] / 1e6, mean, error, fmt=marker, capsize=3, label=net)
    axis.set(xlabel="multiply-adds of a clip (millions)", ylabel="test top-1 (%)", title=f"Nets: {videos}")


def _bar(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation in per cent."""
    return 100 * statistics.mean(values), 100 * statistics.stdev(values) if len(values) > 1 else 0.0


def _spans(axis: Any, found: Found) -> None:
    """Accuracy on short, middle and long motions, by net."""
    order = ("densenet3d", "densenet3d-equal-macs", "t3d-depths-1", "t3d-depths-3", "t3d", "resnet3d")
    nets = [net for net in order if ("motion", net, USUAL["motion"]) in found]
    for place, net in enumerate(nets):
        each = list(found["motion", net, USUAL["motion"]].values())
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
    axis.set_xticks(range(len(nets)), [net.replace("-equal-", "\nequal ") for net in nets], fontsize=8)
    axis.set(ylabel="test top-1 (%)", title="motion: by the span that tells classes apart", ylim=(0, 118))


def _strides(axis: Any, found: Found) -> None:
    """Accuracy by the temporal stride, on UCF101's 11 classes."""
    for colour, net in enumerate(("t3d", "densenet3d")):
        for order, line in (("normal", "o-"), ("shuffled", "s--"), ("static", "^:")):
            strides = [s for s in (1, 2, 4, 16) if ("ucf101_11", net, f"16x{s}x48") in found]
            runs = [found["ucf101_11", net, f"16x{s}x48"].values() for s in strides]
            points = [_bar([result[order] for result in each]) for each in runs]
            if points:
                means, errors = zip(*points, strict=True)
                label = net if order == "normal" else f"{net}, {order}"
                axis.errorbar(strides, means, errors, fmt=line, color=f"C{colour}", label=label, capsize=3)
    axis.set_xscale("log", base=2)
    axis.set_xticks([1, 2, 4, 16], ["1", "2", "4", "16"])
    axis.set(xlabel="stride of 16 frames", ylabel="test top-1 (%)", title="Strides: ucf101_11")


def main() -> None:
    """Show what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--add", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    chosen = parser.parse_args()
    if chosen.add:
        add_results(chosen.table, chosen.add)
    every = arms(read_results(chosen.table))
    found = chosen_rates(every)
    show(every, found)
    if chosen.plot:
        plot(found, chosen.plot)


if __name__ == "__main__":
    main()
