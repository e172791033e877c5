"""The table of scores: one row per video."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from t3d.clip import Targets
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError
from t3d.evaluation.collect import collect
from t3d.evaluation.scores import ClipRow, Scores
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


def read_scores(path: Path, manifest: Manifest, *, targets: Targets) -> Scores:
    """Read a table of scores. Each video is taken as one clip, since the table has no scores of clips.

    Args:
        path: File that `write_scores` wrote.
        manifest: The videos of the table, in the same order.
        targets: What the probabilities mean.

    Raises:
        ManifestError: The table is damaged, or has other videos.
    """
    width = len(manifest.classes)
    rows: list[ClipRow] = []
    bad: list[Failed] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file)
        if len(lines) != len(manifest) or tuple(header[-width:]) != manifest.classes:
            raise ValueError(f"{len(lines)} videos and the classes {', '.join(header[-width:])}")
        for row, line in enumerate(lines):
            if all(line[-width:]):
                rows.append((row, 0, np.array(line[-width:], dtype=np.float64)))
            else:
                bad.append(Failed(line[0], "could not be read", row))
    except (ValueError, IndexError, csv.Error) as error:
        raise ManifestError(
            f"{path}: not the scores of these {len(manifest)} videos of {width} classes ({error}); delete it"
        ) from error
    return collect(manifest, rows, bad, targets=targets)
