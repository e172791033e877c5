"""Page of a test: one self-contained HTML file to send to others."""

from __future__ import annotations

import base64
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.errors import T3DError
from t3d.evaluation.calibration import calibration_of
from t3d.evaluation.config import TestConfig
from t3d.evaluation.figures import accuracy_interval, interval_text
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.pictures import inline_svg
from t3d.evaluation.run_test import TestResult
from t3d.io.files import atomic_path, content_digest
from t3d.models.weights_file import weights_file
from t3d.report.pages import headline_figures, render
from t3d.report.plots import curves_figure
from t3d.report.reliability import reliability
from t3d.runtime.load import read_model_card
from t3d.training.logging import read_log

MOST_CELLS = 40
"""Largest number of classes whose confusion matrix is shown whole."""
_ERRORS = 12  # shown with pictures
_CONFUSED = 20  # pairs of classes listed if the matrix is not shown
_THUMBNAIL = ClipSpec(num_frames=10, stride=1, size=96, resize=96)
_MILLISECONDS = 160  # per frame of a thumbnail


@dataclass(frozen=True)
class ClassRow:
    """A class in the page.

    Args:
        name: Its name.
        value: Its recall, or its average precision, in [0, 1].
        text: The value and what it is of.
    """

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class WrongAnswer:
    """A video that the model got wrong.

    Args:
        name: Folder and name of its file.
        label: True class.
        answer: Class that the model gave.
        probability: Probability of that class.
        picture: Some of its frames, as a moving picture in a data URI; empty if it cannot be read.
    """

    name: str
    label: str
    answer: str
    probability: float
    picture: str = ""


def write_evaluation(result: TestResult, path: str | Path, config: TestConfig, *, command: str = "") -> Path:
    """Write the page of a test.

    Args:
        result: The result.
        path: The .html file.
        config: What was tested, and how.
        command: Command that made the page.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    card = read_model_card(config.model, allow_unfinished=config.allow_unfinished)
    metrics = result.metrics
    page = render(
        "evaluation.html",
        title=f"{Path(config.model).name} on {Path(config.videos).name}",
        headline=metrics.headline(),
        remarks=[*metrics.remarks(), *result.shared_sentences()],
        figures=headline_figures(metrics),
        classes=_class_rows(metrics),
        names=result.scores.classes,
        curves=_curves(config.model),
        bad=[str(failed) for failed in result.scores.bad],
        made=_made(config, card, command),
        **_answers(result, metrics, config),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def _answers(result: TestResult, metrics: Metrics | MultiMetrics, config: TestConfig) -> dict[str, Any]:
    """Return the parts of the page that only videos with one label have."""
    if isinstance(metrics, MultiMetrics):
        return {
            "measure": "average precision",
            "confusion": None,
            "confused": [],
            "errors": [],
            "calibration": None,
        }
    calibration = calibration_of(result.scores)
    classes = result.scores.classes
    return {
        "measure": "recall",
        "confusion": metrics.confusion if len(classes) <= MOST_CELLS else None,
        "confused": _confused(metrics, classes),
        "errors": wrong_answers(result, config),
        "calibration": calibration,
        "reliability": inline_svg(lambda: reliability(calibration)),
    }


def wrong_answers(result: TestResult, config: TestConfig, *, most: int = _ERRORS) -> list[WrongAnswer]:
    """Return the wrong answers that the model is most confident of, with moving pictures of their videos.

    Of each group (column `source`), one is chosen.

    Args:
        result: Test with one label per video.
        config: How the videos are read.
        most: Largest number of answers.
    """
    scores = result.scores
    probs = np.nan_to_num(scores.video_probs, nan=-1.0)
    answers, confidence = probs.argmax(1), probs.max(1)
    wrong = np.flatnonzero((answers != scores.labels) & (scores.labels >= 0) & (confidence >= 0))
    rows = wrong[np.argsort(-confidence[wrong], kind="stable")]
    if scores.groups:  # videos of a group are similar: the first of each
        rows = rows[np.sort(np.unique(np.array(scores.groups)[rows], return_index=True)[1])]
    store = FrameStore(_THUMBNAIL, limits=config.reading.limits, image_fps=config.reading.image_fps)
    return [
        WrongAnswer(
            "/".join(Path(scores.paths[row]).parts[-2:]),
            scores.classes[int(scores.labels[row])],
            scores.classes[int(answers[row])],
            float(confidence[row]),
            _moving_picture(store, Path(scores.paths[row]), *(scores.spans[row] if scores.spans else ())),
        )
        for row in rows[:most].tolist()
    ]


def _moving_picture(
    store: FrameStore, path: Path, start: float | None = None, end: float | None = None
) -> str:
    """Return frames spread over a video as an animated WebP in a data URI; empty if it cannot be read."""
    try:
        frames = store.open(path)
        low, high = np.searchsorted(frames.times, [start or 0.0, np.inf if end is None else end])
        wanted = np.linspace(low, max(high - 1, low), _THUMBNAIL.num_frames).round().astype(np.int64)
        images = frames.get(wanted).permute(0, 2, 3, 1).numpy()
    except (T3DError, IndexError):  # such as a video in a shard, or one that has moved
        return ""
    first, *others = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    buffer = io.BytesIO()
    first.save(
        buffer, "WEBP", save_all=True, append_images=others, duration=_MILLISECONDS, loop=0, quality=60
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _class_rows(metrics: Metrics | MultiMetrics) -> list[ClassRow]:
    """Return the classes from the worst to the best."""
    rows = []
    if isinstance(metrics, MultiMetrics):
        for name, value in metrics.per_class.items():
            count = metrics.positives[name]
            rows.append(ClassRow(name, value, f"{value:.1%} ({count} {'video' if count == 1 else 'videos'})"))
    else:
        counts = [(row[number], sum(row)) for number, row in enumerate(metrics.confusion) if sum(row)]
        for (name, recall), (right, count) in zip(metrics.per_class.items(), counts, strict=True):
            interval = accuracy_interval(np.arange(count) < right)
            text = f"{recall:.0%} ({right} of {count}; 95% interval {interval_text(interval)})"
            rows.append(ClassRow(name, recall, text))
    return sorted(rows, key=lambda row: row.value)


def _confused(metrics: Metrics, names: Sequence[str]) -> list[tuple[int, str, str]]:
    """Return the most frequent confusions: count, true class and predicted class."""
    counts = np.array(metrics.confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_CONFUSED]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [(int(counts[i, j]), names[i], names[j]) for i, j in pairs if counts[i, j]]


def _curves(model: str) -> str:
    """Return the curves of the run that the model is from; empty for other models."""
    path = Path(model)
    log = (path if path.is_dir() else path.parent) / "log.jsonl"
    if not log.exists():
        return ""
    lines = read_log(log)
    return inline_svg(lambda: curves_figure(lines)) if lines else ""


def _made(config: TestConfig, card: ModelCard | None, command: str) -> list[tuple[str, str]]:
    """Return where the figures come from: names and values."""
    weights = weights_file(config.model, allow_unfinished=config.allow_unfinished)
    videos = Path(config.videos)
    rows: list[tuple[str, Any]] = [
        ("command", command),
        ("model", f"{config.model} ({'' if card is None else card.architecture})"),
        ("weights", f"{weights.name}, digest {content_digest(weights)}"),
        ("videos", config.videos + (f", digest {content_digest(videos)}" if videos.is_file() else "")),
        ("clip", "" if card is None else _clip(card.clip)),
        ("frame order", config.frame_order),
        ("precision", config.compute.precision),
        *(
            ()
            if card is None
            else ((f"model: {name}", _plain(value)) for name, value in card.provenance.items())
        ),
        ("versions", f"t3d {version('t3d')}, torch {version('torch')}, Python {platform.python_version()}"),
        ("machine", platform.machine()),
    ]
    return [(name, str(value)) for name, value in rows if value not in ("", None)]


def _plain(value: object) -> str:
    """Return a value of a model card as text: numbers with four digits, dictionaries without quotes."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clip(spec: ClipSpec) -> str:
    every = f"{spec.fps:g} frames per second" if spec.fps is not None else f"stride {spec.step}"
    return f"{spec.num_frames} frames of {spec.size} × {spec.size} pixels, {every}"
