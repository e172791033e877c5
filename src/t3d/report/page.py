"""A page of one file that shows a run: figures, curves, confusion matrix, sample frames, configuration."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.evaluation.run_test import TestResult
from t3d.io.files import atomic_path
from t3d.report.pages import headline_figures, render
from t3d.report.plots import confusion_figure, curves_figure, data_uri, frames_figure, race_figure
from t3d.training.config import TrainConfig
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder

_FRAMES_A_ROW = 8  # shown of each sample video


@dataclass(frozen=True)
class Sample:
    """A test video that the report shows.

    Args:
        path: The file.
        label: Its true class.
        prediction: The predicted class.
        probability: Probability of the predicted class, in [0, 1].
    """

    path: Path
    label: str
    prediction: str
    probability: float

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


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


def samples_of(outcome: TestResult) -> list[Sample]:
    """Return the first test video of each class, with the scores the model gives it."""
    scores = outcome.scores
    chosen = []
    for label, name in enumerate(scores.classes):
        rows = np.flatnonzero((scores.labels == label) & np.isfinite(scores.video_probs).all(1))
        for row in rows[:1]:
            probs = scores.video_probs[row]
            best = int(probs.argmax())
            chosen.append(Sample(Path(scores.paths[row]), name, scores.classes[best], float(probs[best])))
    return chosen


def write_report(
    path: str | Path,
    run: RunFolder,
    outcomes: Mapping[str, TestResult],
    *,
    title: str,
    lead: str,
    minutes: float,
    rivals: Sequence[Rival] = (),
) -> Path:
    """Write the page.

    Args:
        path: The .html file.
        run: The training run.
        outcomes: Test outcome for each order of frames; `normal` is the one that counts.
        title: Heading of the page.
        lead: A sentence below it.
        minutes: What everything took.
        rivals: Ways that are compared, with a table and their curves; the run itself is one of them.
    """
    outcome = outcomes["normal"]
    metrics = outcome.single
    config = run.read_config(TrainConfig)
    samples = samples_of(outcome)
    chance = metrics.chance
    page = render(
        "report.html",
        title=title,
        lead=lead,
        headline=metrics.headline(),
        remarks=metrics.remarks(),
        shared=outcome.shared_sentences(),
        figures=[*headline_figures(metrics), ("minutes", f"{minutes:.1f}")],
        chance=chance,
        rivals=rivals,
        race=data_uri(race_figure({r.name: r.log for r in rivals if r.log}, chance=chance)) if rivals else "",
        orders=[(name, one.single) for name, one in outcomes.items()],
        curves=data_uri(curves_figure(read_log(run.log), chance=chance)),
        confusion=data_uri(confusion_figure(metrics.confusion, outcome.scores.classes)),
        frames=data_uri(frames_figure(_frames(samples, config.clip))),
        predictions=samples,
        metrics=metrics,
        made=(
            f"{config.model.name}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
            f"{platform.machine()}"
        ),
        config=run.config.read_text(encoding="utf-8"),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


def _frames(samples: Sequence[Sample], spec: ClipSpec) -> list[tuple[str, np.ndarray]]:
    store = FrameStore(spec)
    rows = []
    for sample in samples:
        frames = store.open(sample.path)
        wanted = np.linspace(0, len(frames.times) - 1, _FRAMES_A_ROW).round().astype(np.int64)
        rows.append((sample.label, frames.get(wanted).numpy()))
    return rows
