"""The table of scores: one row per video."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from t3d.evaluation.scores import Scores
from t3d.evaluation.task import TASKS
from t3d.io.files import atomic_path


def write_scores(scores: Scores, path: Path) -> None:
    """Write one row per video: path, start, end, label, prediction, clips and the probability of each class.

    `start` and `end` are the time span of a row, empty for the file's beginning and end.
    Several labels, and the classes with a probability of at least 0.5, are written as in a manifest's table.
    """
    task = TASKS[scores.targets]
    clips = np.bincount(scores.clip_video, minlength=len(scores.labels))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "start", "end", *task.columns, "clips", *scores.classes])
        for row, video in enumerate(scores.paths):
            probs = scores.video_probs[row]
            readable = bool(np.isfinite(probs).all())
            writer.writerow(
                [
                    video,
                    *(scores.spans[row] if scores.spans else (None, None)),
                    task.labeled(scores, row),
                    task.predicted(scores, row) if readable else "",
                    int(clips[row]),
                    *([f"{p:.6f}" for p in probs] if readable else [""] * len(probs)),
                ]
            )
