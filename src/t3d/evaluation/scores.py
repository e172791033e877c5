"""Scores of videos: the probabilities that a model gives to each clip and each video.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t3d.clip import Targets
from t3d.errors import Failed

ClipRow = tuple[int, int, npt.NDArray[np.float64]]
ClipTimes = dict[tuple[int, int], tuple[float, float]]
"""Start and end in seconds of each clip, by row of its video and number of the clip."""
THRESHOLD = 0.5
"""Least probability of a class that applies, for F1 and in tables of scores."""


@dataclass(frozen=True)
class Scores:
    """The scores that a model gives to some videos.

    Args:
        classes: Class names, K.
        clip_probs: Class probabilities of every clip, the mean over its crops where several are scored,
            float64 [N, K], in order of video and clip.
        clip_video: Row of each clip's video, int64 [N].
        video_probs: Mean over the clips of each video, float64 [V, K]; NaN for a video that cannot be read.
        labels: Row of each video's class, int64 [V]; -1 where there is none. If videos may have several
            labels, int8 [V, K]: 1 where a class applies, else 0; -1 throughout a video that is unlabeled.
        paths: File of each video.
        bad: The videos that could not be read.
        targets: `single`: the probabilities of a clip sum to 1; `multi`: each class has its own probability.
        groups: Group (column `source`) of each video; empty if unknown: then each video is its own group.
        spans: Start and end of each video's time span, in seconds; None for the file's beginning or end.
            Empty: all videos are whole files.
    """

    classes: tuple[str, ...]
    clip_probs: npt.NDArray[np.float64]
    clip_video: npt.NDArray[np.int64]
    video_probs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.int8]
    paths: tuple[str, ...]
    bad: tuple[Failed, ...]
    targets: Targets = "single"
    groups: tuple[str, ...] = ()
    spans: tuple[tuple[float | None, float | None], ...] = ()


@dataclass(frozen=True)
class ScoredPart:
    """Scores of neighboring videos.

    Args:
        scores: Scores of the videos.
        times: Times of their clips. Rows count from the first of these videos.
    """

    scores: Scores
    times: ClipTimes
