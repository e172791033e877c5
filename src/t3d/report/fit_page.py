"""Page of a fit: one self-contained HTML file to send to others."""

from __future__ import annotations

import platform
import shlex
from dataclasses import replace
from pathlib import Path

import torch

from t3d.errors import Failed
from t3d.evaluation.config import TestConfig
from t3d.evaluation.figures import interval_text
from t3d.fit.folder import FitFolder
from t3d.fit.plan import plan_sentences
from t3d.fit.result import FitResult
from t3d.progress import in_words
from t3d.report.evaluation_page import curves_of, made_of_test
from t3d.report.pages import headline_figures, write_page
from t3d.report.pictures import Camera
from t3d.report.sections import Bar, order_section, result_section
from t3d.runtime.load import read_model_card


def write_fit(result: FitResult, *, command: str = "", again: str = "") -> Path:
    """Write the report of a fit.

    Args:
        result: The result.
        command: Command that made it.
        again: Command with every choice, which makes the same models again.

    Returns:
        The file, in the folder of the fit.

    Raises:
        WriteError: It cannot be written.
    """
    config, test, looked = result.config, result.test, result.looked
    folder = FitFolder(config.out)
    tested = TestConfig(str(result.model), str(folder.list_of("test")), compute=config.compute)
    classes = looked.videos.classes
    network = folder.candidate("network")
    return write_page(
        folder.report,
        "fit.html",
        title=f"A classifier of {len(classes)} classes from {Path(config.videos).resolve().name}",
        headline=test.metrics.headline(),
        remarks=[*test.metrics.remarks(), *test.shared_sentences()],
        figures=[*headline_figures(test.metrics), ("per video", f"{result.milliseconds:.0f} ms")],
        uses=_uses(result),
        list_names=list(result.counts),
        lists=_lists(folder, result),
        held=" ".join(filter(None, (_held(result), looked.shared_sentence(), looked.joined_sentence()))),
        left_out=[_below(failed, config.videos) for failed in looked.bad],
        plan=plan_sentences(config, result.plan),
        choice=result.choice_sentence(),
        candidates=_candidates(result),
        section=result_section(test.metrics, test.scores, Camera(config.limits, config.image_fps)),
        orders=None if result.orders is None else order_section(result.orders),
        speed=" ".join(filter(None, (result.speed_sentence(), result.not_exported))),
        exports=[] if result.export is None else result.export.rows,
        curves=curves_of(str(network.path)) if network.log.is_file() else [],
        bad=[str(failed) for failed in test.scores.bad],
        made=[*_made(result, again), *made_of_test(tested, read_model_card(str(result.model)), command)],
    )


def _below(failed: Failed, videos: str) -> str:
    """Return a file with its problem, as a path below the folder of videos: the page goes to others."""
    path, folder = Path(failed.path), Path(videos).resolve()
    if folder.is_dir() and path.is_relative_to(folder):
        failed = replace(failed, path=str(path.relative_to(folder)))
    return str(failed)


def _held(result: FitResult) -> str:
    """Return where the test videos are from."""
    if result.config.test is not None:
        return f"The test videos are those of {result.config.test}. No recording is in two lists."
    return "Whole recordings are held out: no recording is in two lists."


def _lists(folder: FitFolder, result: FitResult) -> list[tuple[str, list[int]]]:
    """Return the number of videos of each class in each list, then those of all videos and recordings."""
    classes = result.looked.videos.classes
    counts = [part.class_counts() for part in folder.read_lists(classes).values()]
    rows = [(name, [count[name] for count in counts]) for name in classes]
    rows.append(("all videos", [videos for videos, _ in result.counts.values()]))
    rows.append(("recordings", [groups for _, groups in result.counts.values()]))
    return rows


def _candidates(result: FitResult) -> list[Bar]:
    return [
        Bar(name, line.accuracy, f"{line.accuracy:.1%} (95% interval {interval_text(line.interval)})")
        for name, line in result.lines()
    ]


def _uses(result: FitResult) -> list[tuple[str, str]]:
    """Return commands to use the model: purpose and command."""
    folder = shlex.quote(result.config.out)
    return [
        ("Classify videos", f"t3d predict {folder} VIDEO"),
        ("Find when it happens in a long video", f"t3d timeline {folder} VIDEO"),
        ("See why it decides", f"t3d explain {folder} VIDEO --out why"),
        ("Show it to others on a web page", f"t3d serve {folder}"),
        ("Test it on other labeled videos", f"t3d test {folder} VIDEOS"),
        ("In Python", f't3d.load({result.config.out!r}).predict("VIDEO")'),
    ]


def _made(result: FitResult, again: str) -> list[tuple[str, str]]:
    first = result.estimates[0][1] if result.estimates else 60 * result.minutes
    device = result.config.compute.pick_device()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return [
        ("the same again", again),
        (
            "time",
            f"{in_words(60 * result.minutes)}; estimated after looking at the videos: {in_words(first)}",
        ),
        ("device", f"{where}, {torch.get_num_threads()} threads"),
    ]
