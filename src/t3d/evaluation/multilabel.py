"""Metrics for several labels per video: average precision and F1.

Average precision is the area under the curve of precision over recall, in steps at each threshold and
without interpolation, as in Charades and HVU. Its mean is over the classes that apply to some video, since
other classes have no recall.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t3d.errors import ManifestError
from t3d.evaluation.figures import RESAMPLES, Interval, average_precisions, interval_text, map_interval
from t3d.evaluation.metrics import groups_of, groups_sentence, known_rows
from t3d.evaluation.scores import THRESHOLD, Scores


@dataclass(frozen=True)
class MultiMetrics:
    """Metrics of labeled videos with any number of classes each; all but `loss` and counts in [0, 1].

    Args:
        videos: Videos scored.
        bad: Videos that could not be read. They count nowhere.
        groups: Groups (column `source`) that the videos come from.
        video_map: Mean of `per_class`.
        interval: 95 % interval of `video_map`, see `t3d.evaluation.figures.map_interval`.
        chance: About the `video_map` of random scores: the mean share of videos that a class applies to.
        clip_map: Mean average precision of clips (see `Scores.clip_probs`), each with its video's labels.
        micro_f1: F1 of all decisions at 0.5 together, one for each video and class.
        macro_f1: Mean over the classes of `per_class` of each class's F1 at 0.5.
        loss: Binary cross-entropy of the videos' probabilities, mean over videos and classes, in nats.
        per_class: Average precision of each class that applies to some video.
        positives: Videos that each class applies to. The average precision of random scores is about
            `positives / videos`.
    """

    videos: int
    bad: int
    groups: int
    video_map: float
    interval: Interval
    chance: float
    clip_map: float
    micro_f1: float
    macro_f1: float
    loss: float
    per_class: dict[str, float]
    positives: dict[str, int]

    @property
    def best_by(self) -> float:
        """The figure that selects the best weights of a run."""
        return self.video_map

    def log_line(self) -> dict[str, float | int]:
        """Return the figures for a line in a run's log."""
        return {
            "loss": self.loss,
            "map": self.video_map,
            "clip_map": self.clip_map,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "low": self.interval.low,
            "high": self.interval.high,
            "chance": self.chance,
            "videos": self.videos,
            "bad": self.bad,
        }

    def headline(self) -> str:
        """Return one plain sentence with the mAP, and one with the figure to compare it with."""
        return (
            f"mAP {self.video_map:.1%} over {len(self.per_class):,} classes and {self.videos:,} videos "
            f"(95% interval {interval_text(self.interval)}). Random scores would give about "
            f"{self.chance:.1%}."
        )

    def remarks(self) -> list[str]:
        """Return warnings for readers of the mAP, in sentences; empty if there are none."""
        sentences = []
        if self.interval.low <= self.chance:
            sentences.append(
                f"The interval includes {self.chance:.1%}: the result is not distinguishable from random "
                "scores."
                if self.chance <= self.interval.high
                else "This is worse than random scores."
            )
        if self.groups < self.videos:
            sentences.append(groups_sentence(self.groups, self.videos))
        return sentences

    def summary(self) -> str:
        """Return the mAP with its count and interval, as a part of a sentence."""
        interval = interval_text(self.interval)
        return f"mAP {self.video_map:.1%} ({self.videos:,} videos, 95% interval {interval})"

    def __str__(self) -> str:
        verdict = (
            f"random scores: {self.chance:.1%}"
            if self.interval.low > self.chance
            else f"not better than random scores ({self.chance:.1%})"
        )
        return f"loss {self.loss:.3f}  {self.summary()}  micro F1 {self.micro_f1:.1%}; {verdict}"


def measure_multi(scores: Scores, *, resamples: int = RESAMPLES) -> MultiMetrics:
    """Compare scores with labels, where videos may have several.

    Args:
        scores: With `labels` int8 [V, K].
        resamples: Largest number of resamples for the interval of the mAP.

    Raises:
        ManifestError: No labeled video could be read, or no class applies to any.
    """
    known = known_rows(scores)
    all_labels = scores.labels.astype(np.int8)
    labels, probs = all_labels[known], scores.video_probs[known]
    positives = labels.sum(0)
    present = np.flatnonzero(positives)
    if not len(present):
        raise ManifestError(
            f"no class applies to any of the {len(labels)} videos, so that there is no average precision; "
            "test on videos that have labels"
        )
    clips = known[scores.clip_video]
    clip_probs, clip_labels = scores.clip_probs[clips], all_labels[scores.clip_video[clips]]
    precisions = _average_precisions(probs, labels, present)
    clipped = np.clip(probs, 1e-12, 1 - 1e-12)
    groups = groups_of(scores, np.flatnonzero(known))
    per_class_f1 = [_f1(probs[:, k], labels[:, k]) for k in present]
    return MultiMetrics(
        videos=int(known.sum()),
        bad=len(scores.bad),
        groups=len(set(groups)),
        video_map=float(np.mean(precisions)),
        interval=map_interval(probs, labels, groups, resamples=resamples),
        chance=float(labels.mean(0)[present].mean()),
        clip_map=float(np.mean(_average_precisions(clip_probs, clip_labels, present))),
        micro_f1=_f1(probs, labels),
        macro_f1=float(np.mean(per_class_f1)),
        loss=float(-np.where(labels == 1, np.log(clipped), np.log1p(-clipped)).mean()),
        per_class={scores.classes[k]: value for k, value in zip(present, precisions, strict=True)},
        positives=dict(zip(scores.classes, positives.tolist(), strict=True)),
    )


def _average_precisions(
    probs: npt.NDArray[np.float64], labels: npt.NDArray[np.int8], present: npt.NDArray[np.int64]
) -> list[float]:
    return [float(average_precisions(probs[:, k], labels[:, k])[0]) for k in present]


def _f1(probs: npt.NDArray[np.float64], labels: npt.NDArray[np.int8]) -> float:
    """Return F1 at 0.5; 0 if no class applies and none is predicted."""
    predicted = probs >= THRESHOLD
    total = int(predicted.sum()) + int(labels.sum())
    return 2 * int((predicted & (labels == 1)).sum()) / total if total else 0.0
