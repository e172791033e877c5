"""Scores of videos: what a model says of each clip and each video, and the table of them.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from t3d.clip import Targets
from t3d.data.manifest.labels import SEPARATOR
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed
from t3d.io.files import atomic_path

ClipRow = tuple[int, int, npt.NDArray[np.float64]]
THRESHOLD = 0.5
"""Probability from which on a class is said to apply, for F1 and in tables of scores."""


@dataclass(frozen=True)
class Scores:
    """What a net says of some videos.

    Args:
        classes: Class names, K.
        clip_probs: Class probabilities of every clip, the mean over its crops where several are scored,
            float64 [N, K], in order of video and clip.
        clip_video: Row of each clip's video, int64 [N].
        video_probs: Mean over the clips of each video, float64 [V, K]; NaN for a video that cannot be read.
        labels: Row of each video's class, int64 [V]; -1 where there is none. Where a video may have several
            labels, int8 [V, K]: 1 where a class applies, else 0; -1 throughout a video that is unlabelled.
        paths: File of each video.
        bad: The videos that could not be read.
        targets: `single`: the probabilities of a clip sum to 1; `multi`: each class has one of its own.
    """

    classes: tuple[str, ...]
    clip_probs: npt.NDArray[np.float64]
    clip_video: npt.NDArray[np.int64]
    video_probs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.int8]
    paths: tuple[str, ...]
    bad: tuple[Failed, ...]
    targets: Targets = "single"


def collect(
    manifest: Manifest, rows: list[ClipRow], bad: list[Failed], *, targets: Targets = "single"
) -> Scores:
    """Bring the probabilities of clips together into those of videos.

    Args:
        manifest: The videos.
        rows: What `each_clip` gave, in any order; the vectors are probabilities.
        bad: The videos whose clips do not count.
        targets: What the probabilities are of.
    """
    broken = {failed.row for failed in bad}
    rows = sorted((row for row in rows if row[0] not in broken), key=lambda row: row[:2])
    width = len(rows[0][2]) if rows else len(manifest.classes)
    clip_probs = np.array([probs for _, _, probs in rows]).reshape(-1, width)
    clip_video = np.array([video for video, _, _ in rows], dtype=np.int64)
    video_probs = np.full((len(manifest), width), np.nan)
    for video in np.unique(clip_video):
        video_probs[video] = clip_probs[clip_video == video].mean(0)
    return Scores(
        classes=manifest.classes,
        clip_probs=clip_probs,
        clip_video=clip_video,
        video_probs=video_probs,
        labels=manifest.labels if targets == "single" else manifest.multi_hot(),
        paths=tuple(str(manifest[i].path) for i in range(len(manifest))),
        bad=tuple(sorted(bad, key=lambda failed: failed.row)),
        targets=targets,
    )


def write_scores(scores: Scores, path: Path) -> None:
    """Write one row a video: path, label, prediction, clips and the probability of each class.

    Several labels, and the classes with a probability of at least 0.5, stand as in a manifest's table.
    """
    clips = np.bincount(scores.clip_video, minlength=len(scores.labels))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        said = ["label", "prediction"] if scores.targets == "single" else ["labels", "predictions"]
        writer.writerow(["path", *said, "clips", *scores.classes])
        for row, path_ in enumerate(scores.paths):
            probs = scores.video_probs[row]
            readable = bool(np.isfinite(probs).all())
            writer.writerow(
                [
                    path_,
                    _labels_of(scores, row),
                    _predictions_of(scores, row) if readable else "",
                    int(clips[row]),
                    *([f"{p:.6f}" for p in probs] if readable else [""] * len(probs)),
                ]
            )


def _labels_of(scores: Scores, row: int) -> str:
    labels = scores.labels[row]
    if scores.targets == "single":
        return scores.classes[labels] if labels >= 0 else ""
    return _named(scores.classes, labels == 1) if (labels >= 0).all() else ""


def _predictions_of(scores: Scores, row: int) -> str:
    probs = scores.video_probs[row]
    if scores.targets == "single":
        return scores.classes[int(probs.argmax())]
    return _named(scores.classes, probs >= THRESHOLD)


def _named(classes: Sequence[str], applies: npt.NDArray[np.bool_]) -> str:
    names = [name for name, there in zip(classes, applies.tolist(), strict=True) if there]
    return SEPARATOR.join(names) or SEPARATOR
