"""From the probabilities of clips to those of videos."""

from __future__ import annotations

import numpy as np

from t3d.clip import Targets
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed
from t3d.evaluation.scores import ClipRow, Scores
from t3d.evaluation.task import TASKS
from t3d.io.video_cache import original


def collect(
    manifest: Manifest, rows: list[ClipRow], bad: list[Failed], *, targets: Targets = "single"
) -> Scores:
    """Average the probabilities of clips into those of videos.

    Args:
        manifest: The videos.
        rows: What `each_clip` returned, in any order; the vectors are probabilities.
        bad: The videos whose clips do not count.
        targets: What the probabilities mean.
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
        labels=TASKS[targets].labels(manifest),
        paths=tuple(original(str(manifest[i].path)) for i in range(len(manifest))),
        bad=tuple(sorted(bad, key=lambda failed: failed.row)),
        targets=targets,
        groups=tuple(manifest.table["source"].to_pylist()),
        spans=tuple(zip(*(manifest.table[name].to_pylist() for name in ("start", "end")), strict=True)),
    )
