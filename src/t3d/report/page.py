"""Page of the demo: a training run, its rival, and what the frames' order is worth."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t3d.evaluation.figures import interval_text
from t3d.evaluation.frame_orders import FrameOrders
from t3d.evaluation.pictures import inline_svg
from t3d.evaluation.run_test import TestResult
from t3d.report.pages import headline_figures, write_page
from t3d.report.pictures import Camera, first_of_each_class
from t3d.report.plots import validation_figure
from t3d.report.sections import Bar, curve_drawings, order_section, result_section
from t3d.training.config import TrainConfig
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder


@dataclass(frozen=True)
class Rival:
    """Another model for the same classes, which the report compares with the run.

    Args:
        name: What it is called.
        outcome: Its test on the same videos.
        log: Lines of its run's log; empty where it has no curve.
        note: A description, such as the training data.
    """

    name: str
    outcome: TestResult
    log: Sequence[dict[str, Any]] = ()
    note: str = ""


def write_report(
    path: str | Path,
    run: RunFolder,
    outcome: TestResult,
    *,
    title: str,
    lead: str,
    minutes: float,
    orders: FrameOrders | None = None,
    rivals: Sequence[Rival] = (),
) -> Path:
    """Write the page.

    Args:
        path: The .html file.
        run: The training run.
        outcome: Its test.
        title: Heading of the page.
        lead: A sentence below it.
        minutes: What everything took.
        orders: Accuracies with the frames in other orders.
        rivals: Ways that are compared, with their curves; the run itself is one of them.
    """
    metrics = outcome.single
    config = run.read_config(TrainConfig)
    camera = Camera(config.data.limits, config.data.image_fps)
    chance = metrics.chance
    logs = {rival.name: rival.log for rival in rivals if rival.log}
    return write_page(
        path,
        "report.html",
        title=title,
        lead=lead,
        headline=metrics.headline(),
        remarks=[*metrics.remarks(), *outcome.shared_sentences()],
        figures=[*headline_figures(metrics), ("minutes", f"{minutes:.1f}")],
        rivals=[_bar(rival) for rival in rivals],
        race=inline_svg(lambda: validation_figure(logs, chance=chance)) if rivals else "",
        orders=None if orders is None else order_section(orders),
        curves=curve_drawings(read_log(run.log), chance=chance),
        predictions=first_of_each_class(outcome.scores, camera),
        section=result_section(metrics, outcome.scores, camera),
        bad=[str(failed) for failed in outcome.scores.bad],
        made=(
            f"{config.model.name}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"{platform.machine()}"
        ),
        config=run.config.read_text(encoding="utf-8"),
    )


def _bar(rival: Rival) -> Bar:
    metrics = rival.outcome.single
    text = f"{metrics.video_top1:.1%} ({metrics.correct} of {metrics.videos}; "
    text += f"95% interval {interval_text(metrics.interval)})"
    return Bar(f"{rival.name}: {rival.note}" if rival.note else rival.name, metrics.video_top1, text)
