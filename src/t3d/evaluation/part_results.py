"""Predictions and timelines from the scores of a few videos.

Legend: K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from t3d.card import ModelCard
from t3d.errors import Failed
from t3d.evaluation.result import ClipPrediction, Prediction
from t3d.evaluation.scores import ClipTimes, ScoredPart, Scores
from t3d.evaluation.timeline import Timeline, TimelineConfig, make_timeline


def predictions_of(part: ScoredPart, card: ModelCard, *, per_clip: bool) -> Iterator[Prediction]:
    """Yield the prediction of each video, in their order.

    Args:
        part: The scores of the videos.
        card: The classes of the model.
        per_clip: Also give the times and probabilities of each clip.
    """
    scores = part.scores
    reasons = {failed.row: failed.reason for failed in scores.bad}
    clips = np.bincount(scores.clip_video, minlength=len(scores.paths))
    for row, path in enumerate(scores.paths):
        start, end = scores.spans[row]
        if row in reasons:
            yield Prediction(path, error=reasons[row], start=start, end=end)
            continue
        classes, probs = _ranked(scores.video_probs[row], card.classes)
        yield Prediction(
            path,
            classes=classes,
            probs=probs,
            clips=int(clips[row]),
            targets=card.targets,
            start=start,
            end=end,
            per_clip=_clips(scores, row, part.times, card.classes) if per_clip else None,
        )


def timelines_of(part: ScoredPart, card: ModelCard, rules: TimelineConfig) -> Iterator[Timeline | Failed]:
    """Yield the timeline of each video in their order, or why it cannot be read.

    Args:
        part: The scores of the videos.
        card: The classes of the model.
        rules: Rules that turn the scores of clips into segments.
    """
    scores = part.scores
    bad = {failed.row: failed for failed in scores.bad}
    spans: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)
    for (video, _), span in sorted(part.times.items()):
        spans[video].append(span)
    for row, path in enumerate(scores.paths):
        if row in bad:
            yield bad[row]
            continue
        probs = scores.clip_probs[scores.clip_video == row]
        yield make_timeline(path, np.array(spans[row]), probs, card.classes, rules, targets=card.targets)


def _clips(scores: Scores, row: int, times: ClipTimes, classes: Sequence[str]) -> tuple[ClipPrediction, ...]:
    """Return the clips of a video, in their order."""
    numbers = sorted(clip for video, clip in times if video == row)
    probs = scores.clip_probs[scores.clip_video == row]
    return tuple(
        ClipPrediction(*times[row, number], *_ranked(clip, classes))
        for number, clip in zip(numbers, probs, strict=True)
    )


def _ranked(
    probs: npt.NDArray[np.float64], classes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return all classes and their probabilities [K], most probable first."""
    order = np.argsort(-probs, kind="stable")
    return tuple(classes[i] for i in order), tuple(float(probs[i]) for i in order)
