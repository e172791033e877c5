"""Write and print the result of a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3d.data.clips.views import PAPER_VIEWS
from t3d.errors import printable
from t3d.evaluation.figures import interval_text
from t3d.evaluation.frame_orders import FrameOrders
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores_table import write_scores
from t3d.io.files import atomic_path
from t3d.report.plots import confusion_figure, save_figure


def write_result(result: TestResult, folder: str | Path, orders: FrameOrders | None = None) -> None:
    """Write `metrics.json`, `scores.csv` (one row per video) and, for one label each, `confusion.png`.

    Args:
        result: The result of a test.
        folder: Folder of the files.
        orders: Accuracies with the frames in other orders, for `metrics.json`.
    """
    folder = Path(folder)
    figures = result.to_json() | ({} if orders is None else orders.to_json())
    with atomic_path(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1, ensure_ascii=False), encoding="utf-8")
    write_scores(result.scores, folder / "scores.csv")
    if isinstance(result.metrics, Metrics):
        figure = confusion_figure(result.metrics.confusion, result.scores.classes)
        save_figure(figure, folder / "confusion.png")


def print_result(result: TestResult) -> None:
    """Print the metrics, what limits them, and the videos that could not be read."""
    views = [] if result.views == PAPER_VIEWS else [str(result.views)]
    if result.frame_order != "normal":
        views.append(f"frame order: {result.frame_order}")
    metrics = result.metrics
    say(*result.sentences())
    tables = _multi_tables(metrics) if isinstance(metrics, MultiMetrics) else _single_tables(metrics)
    tables[0].title = "; ".join(views) or None
    Console().print(*tables)
    for video in result.scores.bad:
        print(f"could not be read: {printable(f'{video.path}: {video.reason}')}", file=sys.stderr)


def say(*sentences: str) -> None:
    """Print each sentence on its own line, as it is."""
    console = Console()
    for sentence in sentences:
        console.print(printable(sentence), markup=False, highlight=False, soft_wrap=not console.is_terminal)


def _single_tables(metrics: Metrics) -> list[Table]:
    table = Table("", "accuracy", "95% interval", "correct")
    clips = round(metrics.clip_top1 * metrics.clips)
    table.add_row(
        "videos",
        f"{metrics.video_top1:.2%}",
        interval_text(metrics.interval),
        f"{metrics.correct:,} of {metrics.videos:,}",
    )
    table.add_row(
        "clips",
        f"{metrics.clip_top1:.2%}",
        interval_text(metrics.clip_interval),
        f"{clips:,} of {metrics.clips:,}",
    )
    if metrics.video_top5 is not None and metrics.clip_top5 is not None:
        table.add_row("videos, top-5", f"{metrics.video_top5:.2%}", "", "")
        table.add_row("clips, top-5", f"{metrics.clip_top5:.2%}", "", "")
    if metrics.uneven:
        table.add_row("balanced (mean recall)", f"{metrics.balanced_accuracy:.2%}", "", "")
    per_class = Table("class", "recall", "correct")
    counts = [(sum(row), row[number]) for number, row in enumerate(metrics.confusion) if sum(row)]
    for (name, recall), (count, correct) in zip(metrics.per_class.items(), counts, strict=True):
        per_class.add_row(Text(printable(name)), f"{recall:.1%}", f"{correct:,} of {count:,}")
    return [table, per_class]


def _multi_tables(metrics: MultiMetrics) -> list[Table]:
    table = Table("", "mAP", "95% interval", "micro F1", "macro F1")
    table.add_row(
        "videos",
        f"{metrics.video_map:.2%}",
        interval_text(metrics.interval),
        f"{metrics.micro_f1:.2%}",
        f"{metrics.macro_f1:.2%}",
    )
    table.add_row("clips", f"{metrics.clip_map:.2%}", "", "", "")
    per_class = Table("class", "average precision", "videos", caption="F1 at a probability of 0.5")
    for name, count in metrics.positives.items():
        precision = f"{metrics.per_class[name]:.1%}" if count else "–"
        per_class.add_row(Text(printable(name)), precision, str(count))
    return [table, per_class]
