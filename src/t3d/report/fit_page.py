"""Page of a fit: one self-contained HTML file to send to others."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from t3d.evaluation.config import TestConfig
from t3d.evaluation.figures import interval_text
from t3d.fit.folder import FitFolder
from t3d.fit.plan import plan_sentences
from t3d.fit.result import FitResult
from t3d.io.files import atomic_path
from t3d.progress import in_words
from t3d.report.evaluation_page import evaluation_values
from t3d.report.pages import render


@dataclass(frozen=True)
class Bar:
    """A bar of a chart.

    Args:
        name: What it shows.
        value: Its length, in [0, 1].
        text: The value in words.
        chosen: Whether it is the chosen one.
    """

    name: str
    value: float
    text: str
    chosen: bool = False


def write_fit(result: FitResult) -> Path:
    """Write the report of a fit.

    Args:
        result: The result.

    Returns:
        The file, in the folder of the fit.

    Raises:
        WriteError: It cannot be written.
    """
    folder = FitFolder(result.config.out)
    test = TestConfig(
        str(result.model),
        str(folder.list_of("test")),
        reading=result.config.reading,
        compute=result.config.compute,
    )
    values = evaluation_values(result.test, test)
    values["made"] = [*_made(result), *values["made"]]
    values["figures"] = [*values["figures"], ("per video", f"{result.milliseconds:.0f} ms")]
    count = len(result.looked.videos.classes)
    page = render(
        "fit.html",
        title=f"A classifier of {count} classes from {Path(result.config.videos).name}",
        lists=_lists(folder, result),
        list_names=list(result.counts),
        bad_files=[str(failed) for failed in result.looked.bad],
        joined=result.looked.joined,
        candidates=_candidates(result),
        choice=result.choice_sentence(),
        plan=plan_sentences(result.config, result.plan, spent=0.0)[:-1],
        orders=_orders(result),
        order_sentence=result.order_sentence(),
        exports=[] if result.export is None else result.export.rows,
        exported=result.exported,
        uses=_uses(result),
        **values,
    )
    with atomic_path(folder.report) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder.report


def _lists(folder: FitFolder, result: FitResult) -> list[tuple[str, list[int]]]:
    """Return the number of videos of each class in each list, then those of all videos and recordings."""
    classes = result.looked.videos.classes
    parts = folder.read_lists(classes)
    counts = [part.class_counts() for part in parts.values()]
    rows = [(name, [count[name] for count in counts]) for name in classes]
    rows.append(("all videos", [videos for videos, _ in result.counts.values()]))
    rows.append(("recordings", [groups for _, groups in result.counts.values()]))
    return rows


def _candidates(result: FitResult) -> list[Bar]:
    return [
        Bar(
            name,
            line.accuracy,
            f"{line.accuracy:.1%} (95% interval {interval_text(line.interval)})",
            name == result.winner,
        )
        for name, line in result.lines()
    ]


def _orders(result: FitResult) -> list[Bar]:
    tests: dict[str, Any] = {"in order": result.test} | {
        str(name): each for name, each in result.orders.items()
    }
    bars = []
    for name, each in tests.items():
        metrics = each.metrics
        bars.append(
            Bar(
                name,
                metrics.best_by,
                f"{metrics.best_by:.1%} (95% interval {interval_text(metrics.interval)})",
                name == "in order",
            )
        )
    return bars if result.orders else []


def _uses(result: FitResult) -> list[tuple[str, str]]:
    """Return commands to use the model: purpose and command."""
    file = shlex.quote(str(result.model_file))
    return [
        ("Classify videos", f"t3d predict {file} VIDEO"),
        ("Find when it happens in a long video", f"t3d timeline {file} VIDEO"),
        ("Test it on other labeled videos", f"t3d test {file} VIDEOS --out FOLDER"),
        ("In Python", f't3d.load({str(result.model_file)!r}).predict("VIDEO")'),
    ]


def _made(result: FitResult) -> list[tuple[str, str]]:
    first = result.estimates[0][1] if result.estimates else 60 * result.minutes
    device = result.config.compute.pick_device()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return [
        ("the same again", result.command()),
        (
            "time",
            f"{in_words(60 * result.minutes)}; estimated after looking at the videos: {in_words(first)}",
        ),
        ("device", f"{where}, {torch.get_num_threads()} threads"),
    ]
