"""Tables and plots of the study of transfer.

    python benchmarks/transfer_report.py benchmarks/transfer_study.jsonl --plot docs/images/transfer.png

`--add` adds the results of `transfer_study.py … OUT` to the table of results, one JSON object per job.
Without `--add`, only the table is needed. ± is the standard deviation over runs, with other labels, random
draws and, if there are several, seeds of the pre-training.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from study import Result, add_results, read_results, spread

# Set, percent of the labels, start without the seed of its pre-training, recipe.
Row = tuple[str, int, str, str]
SHARES = (5, 20, 100)  # of the labels, in percent


def rows(results: Iterable[Result], stage: str) -> dict[Row, list[Result]]:
    """Return the results of a stage, grouped by repetition."""
    runs: dict[Row, list[Result]] = defaultdict(list)
    for result in results:
        if result["name"].startswith(f"{stage}/"):
            start = result["start"].rpartition("-p")[0] or result["start"]
            runs[result["set"], result["percent"], start, result["recipe"]].append(result)
    return runs


def show(results: list[Result]) -> None:
    """Print tables in Markdown."""
    tune, test = rows(results, "tune"), rows(results, "test")
    print("| set | labels | start | recipe | validation | test | shuffled | static | minutes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in sorted(tune):
        curves = [list(result["val"].values()) for result in tune[row]]
        cells = [spread([curve[-1] for curve in curves]) if all(curves) else ""]
        for order in ("normal", "shuffled", "static"):
            cells.append(spread([result[order] for result in test[row]]) if row in test else "")
        cells.append(f"{statistics.median(result['minutes'] for result in tune[row]):.1f}")
        print(f"| {row[0]} | {row[1]} % | {row[2]} | {row[3]} | {' | '.join(cells)} |")
    print("\n| set | features | " + "labels: test |\n|---|---|---|")
    for result in results:
        if result["name"].startswith("probe/"):
            shares = [f"{key} %: {spread(value)}" for key, value in result.items() if key.isdigit()]
            print(f"| {result['set']} | {result['start']} | {', '.join(shares)} |")
    print("\n| frozen features, training list | linear | 3 shots | 10 shots |\n|---|---|---|---|")
    for result in results:
        if result["name"].startswith("select/"):
            figures = " | ".join(f"{100 * result[key]:.1f}" for key in ("linear", "3-shot", "10-shot"))
            print(f"| {result['start']} | {figures} |")
    print("\n| pre-training | minutes | held-out pairs, last epoch |\n|---|---|---|")
    for result in results:
        if result["name"].startswith("pretrain/"):
            last = result["held_out"][-1]
            figures = [f"{k} {v:.3f}" for k, v in last.items() if k not in ("kind", "step", "time", "epoch")]
            print(f"| {result['name'][9:]} | {result['minutes']:.1f} | {', '.join(figures)} |")


def plot(results: list[Result], path: Path) -> None:
    """Test accuracy by share of the labels, and validation accuracy by epoch, on UCF101's 11 classes.

    Of each start the recipe that was tested is shown: the one that validated best.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    order = ("scratch", "match", "contrastive", "regress", "sum")
    colors = dict(zip(order, ("0.45", "C1", "C0", "C2", "C3"), strict=True))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    tune, test = rows(results, "tune"), rows(results, "test")
    for start in order:
        chosen = {
            key[1]: [100 * r["normal"] for r in runs]
            for key, runs in test.items()
            if (key[0], key[2]) == ("ucf101_11", start)
        }
        if chosen:
            shares = sorted(chosen)
            means = [statistics.mean(chosen[share]) for share in shares]
            errors = [statistics.stdev(v) if len(v := chosen[share]) > 1 else 0 for share in shares]
            places = [SHARES.index(share) + 0.06 * (order.index(start) - 2) for share in shares]
            left.errorbar(places, means, errors, fmt="o-", label=start, color=colors[start], capsize=3)
        recipes = [key[3] for key in test if key[:3] == ("ucf101_11", 20, start)]
        runs = tune.get(("ucf101_11", 20, start, recipes[0] if recipes else "base"), [])
        if runs:
            epochs = sorted(map(int, runs[0]["val"]))
            curves = [[100 * r["val"][str(epoch)] for epoch in epochs] for r in runs]
            means = [statistics.mean(values) for values in zip(*curves, strict=True)]
            right.plot(epochs, means, "o-", label=start, color=colors[start])
            for curve in curves:
                right.plot(epochs, curve, color=colors[start], alpha=0.25, linewidth=0.8)
    for probe in results:
        if probe["name"] == "probe/ucf101_11/teacher":
            shares = sorted(int(key) for key in probe if key.isdigit())
            means = [100 * statistics.mean(probe[str(share)]) for share in shares]
            left.plot(
                [SHARES.index(share) for share in shares], means, "k:", label="linear probe of the teacher"
            )
    left.set_xticks(range(len(SHARES)), map(str, SHARES))
    left.set_xlim(-0.3, len(SHARES) - 0.7)
    left.set(xlabel="labels used (%)", ylabel="test top-1 (%)", title="UCF101, 11 classes")
    right.set(xlabel="epoch", ylabel="validation top-1 (%)", title="20 % of the labels")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the tables and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--add", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    chosen = parser.parse_args()
    if chosen.add:
        add_results(chosen.table, chosen.add)
    results = read_results(chosen.table)
    show(results)
    if chosen.plot:
        plot(results, chosen.plot)


if __name__ == "__main__":
    main()
