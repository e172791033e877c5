"""Write and print the result of a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3d.data.clips.views import PAPER_VIEWS
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores_table import write_scores
from t3d.io.files import atomic_path
from t3d.report.plots import confusion_figure, save_figure


def write_result(result: TestResult, folder: str | Path) -> None:
    """Write `metrics.json`, `scores.csv` (a row a video) and, of videos with one label, `confusion.png`."""
    folder = Path(folder)
    with atomic_path(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(result.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
    write_scores(result.scores, folder / "scores.csv")
    if isinstance(result.metrics, Metrics):
        figure = confusion_figure(result.metrics.confusion, result.scores.classes)
        save_figure(figure, folder / "confusion.png")


def print_result(result: TestResult) -> None:
    """Print accuracies, and the videos that could not be read."""
    title = f"{result.metrics.videos} videos"
    if result.views != PAPER_VIEWS:
        title += f"\n{result.views}"
    if isinstance(result.metrics, MultiMetrics):
        _print_multi(result.metrics, title=title)
    else:
        _print_single(result.metrics, title=title)
    for video in result.scores.bad:
        print(f"could not be read: {video.path}: {video.reason}", file=sys.stderr)


def _print_single(metrics: Metrics, *, title: str) -> None:
    table = Table("", "top-1", "top-5", title=title)
    table.add_row("video", f"{metrics.video_top1:.2%}", f"{metrics.video_top5:.2%}")
    table.add_row("clip", f"{metrics.clip_top1:.2%}", f"{metrics.clip_top5:.2%}")
    per_class = Table("class", "accuracy", title=f"mean over classes {metrics.mean_class:.2%}")
    for name, accuracy in metrics.per_class.items():
        per_class.add_row(Text(name), f"{accuracy:.1%}")
    Console().print(table, per_class)


def _print_multi(metrics: MultiMetrics, *, title: str) -> None:
    table = Table("", "mAP", "micro F1", "macro F1", title=title)
    table.add_row("video", f"{metrics.video_map:.2%}", f"{metrics.micro_f1:.2%}", f"{metrics.macro_f1:.2%}")
    table.add_row("clip", f"{metrics.clip_map:.2%}", "", "")
    per_class = Table("class", "average precision", "videos", caption="F1 at a probability of 0.5")
    for name, count in metrics.positives.items():
        precision = f"{metrics.per_class[name]:.1%}" if count else "–"
        per_class.add_row(Text(name), precision, str(count))
    Console().print(table, per_class)
