"""Metrics of scores on labeled videos.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.errors import ManifestError, printable
from t3d.evaluation.figures import (
    RECALL_GAP,
    TOP5_CLASSES,
    Interval,
    Majority,
    accuracy_interval,
    interval_text,
    majority_of,
)
from t3d.evaluation.scores import Scores


@dataclass(frozen=True)
class Metrics:
    """Metrics of labeled videos with one class each; accuracies in [0, 1].

    Args:
        videos: Videos scored.
        bad: Videos that could not be read. They count in no accuracy.
        clips: Clips of the videos scored.
        groups: Groups (column `source`) that the videos come from.
        correct: Videos whose most probable class is right.
        video_top1: Share of videos whose most probable class is right.
        video_top5: Share of videos with the right class among the five most probable; None below six classes.
        interval: 95 % interval of `video_top1`, see `t3d.evaluation.figures.accuracy_interval`.
        clip_top1: Share of clips whose most probable class is right; see `Scores.clip_probs`.
        clip_top5: The same for the five most probable; None below six classes.
        clip_interval: 95 % interval of `clip_top1`.
        balanced_accuracy: Mean of the recalls of the classes that have videos.
        chance: Accuracy of guessing, 1/K.
        majority: The most frequent class of the videos, and the accuracy of always answering it.
        loss: Mean over videos of -log of the probability given to the right class, in nats.
        per_class: Recall (video accuracy) of each class that has videos.
        confusion: Videos of class i that were predicted as class j, [K][K].
    """

    videos: int
    bad: int
    clips: int
    groups: int
    correct: int
    video_top1: float
    video_top5: float | None
    interval: Interval
    clip_top1: float
    clip_top5: float | None
    clip_interval: Interval
    balanced_accuracy: float
    chance: float
    majority: Majority
    loss: float
    per_class: dict[str, float]
    confusion: list[list[int]]

    @property
    def best_by(self) -> float:
        """The figure that selects the best weights of a run."""
        return self.video_top1

    @property
    def uneven(self) -> bool:
        """True if classes differ in their number of videos; classes without videos do not count."""
        return len({count for row in self.confusion if (count := sum(row))}) > 1

    def log_line(self) -> dict[str, float | int]:
        """Return the figures for a line in a run's log."""
        top5 = {} if self.video_top5 is None else {"top5": self.video_top5}
        return {
            "loss": self.loss,
            "top1": self.video_top1,
            **top5,
            "clip_top1": self.clip_top1,
            "balanced_accuracy": self.balanced_accuracy,
            "low": self.interval.low,
            "high": self.interval.high,
            "majority": self.majority.share,
            "videos": self.videos,
            "bad": self.bad,
        }

    def headline(self) -> str:
        """Return one plain sentence with the accuracy, and one with the figures to compare it with."""
        baseline = _answering(self.majority.name, "Always")
        return (
            f"{self.correct:,} of {self.videos:,} videos correct: {self.video_top1:.1%} "
            f"(95% interval {interval_text(self.interval)}). {baseline} would give "
            f"{self.majority.share:.1%}, guessing {self.chance:.1%}."
        )

    def remarks(self) -> list[str]:
        """Return warnings for readers of the accuracy, in sentences; empty if there are none."""
        sentences = []
        baseline = _answering(self.majority.name)
        if len(self.per_class) == 1:
            videos = f"All {self.videos:,} videos are" if self.videos > 1 else "The only video is"
            name = printable(self.majority.name)
            sentences.append(
                f"{videos} of one class, '{name}', so the accuracy says little: {baseline} would give 100%."
            )
        elif self.interval.high < self.majority.share:
            sentences.append(f"This is worse than {baseline}.")
        elif self.interval.low <= self.majority.share:
            sentences.append(
                f"The interval includes {self.majority.share:.1%}: the result is not distinguishable from "
                f"{baseline}."
            )
        if self.groups < self.videos:
            sentences.append(groups_sentence(self.groups, self.videos))
        if extremes := self._extremes():
            sentences.append(f"Classes differ: {extremes}.")
        return sentences

    def summary(self) -> str:
        """Return the accuracy with its count and interval, as a part of a sentence."""
        return (
            f"{self.video_top1:.1%} ({self.correct:,} of {self.videos:,} videos, "
            f"95% interval {interval_text(self.interval)})"
        )

    def _extremes(self) -> str:
        """Name the classes of lowest and highest recall, if they are far apart."""
        worst = min(self.per_class, key=self.per_class.__getitem__)
        best = max(self.per_class, key=self.per_class.__getitem__)
        if self.per_class[best] - self.per_class[worst] <= RECALL_GAP + 1e-9:  # not for rounding
            return ""
        low, high = self.per_class[worst], self.per_class[best]
        return f"recall {low:.0%} for '{printable(worst)}', {high:.0%} for '{printable(best)}'"

    def __str__(self) -> str:
        top5 = "" if self.video_top5 is None else f"  top-5 {self.video_top5:.1%}"
        name, share = _answering(self.majority.name), self.majority.share
        if self.interval.high < share:
            verdict = f"worse than {name} ({share:.1%})"
        elif self.interval.low <= share:
            verdict = f"not distinguishable from {name} ({share:.1%})"
        else:
            verdict = f"{name}: {share:.1%}"
        extremes = f"; {extremes}" if (extremes := self._extremes()) else ""
        return f"loss {self.loss:.3f}  top-1 {self.summary()}{top5}{extremes}; {verdict}"


def _answering(name: str, first: str = "always") -> str:
    """Name the baseline of a class."""
    return f"{first} answering '{printable(name)}'"


def groups_sentence(groups: int, videos: int) -> str:
    """Say that videos of one group are not independent, and how the interval accounts for it."""
    if groups == 1:
        return (
            f"All {videos:,} videos are of one group (column source), so they say nothing about other groups."
        )
    return (
        f"The {videos:,} videos are of {groups:,} groups (column source). Videos of one group are not "
        "independent; the interval takes account of that."
    )


def known_rows(scores: Scores) -> npt.NDArray[np.bool_]:
    """Return which videos are both labeled and readable, bool [V].

    Raises:
        ManifestError: No video has a label and scores.
    """
    labeled = scores.labels.reshape(len(scores.labels), -1).min(1) >= 0
    known = labeled & np.isfinite(scores.video_probs).all(1)
    if not known.any():
        raise ManifestError(
            f"none of the {len(scores.labels)} videos is both labeled and readable; "
            f"{len(scores.bad)} could not be read"
        )
    return np.asarray(known)


def groups_of(scores: Scores, rows: npt.NDArray[np.int64]) -> list[str] | list[int]:
    """Return the group of each of these videos; each is its own if the groups are unknown."""
    return [scores.groups[row] for row in rows] if scores.groups else rows.tolist()


def measure_single(scores: Scores) -> Metrics:
    """Compare scores with labels, where each video has one class.

    Raises:
        ManifestError: No labeled video could be read.
    """
    known = known_rows(scores)
    classes = len(scores.classes)
    all_labels = scores.labels.astype(np.int64)
    probs, labels = scores.video_probs[known], all_labels[known]
    clips = known[scores.clip_video]
    clip_video = scores.clip_video[clips]
    clip_probs, clip_labels = scores.clip_probs[clips], all_labels[clip_video]
    confusion = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(confusion, (labels, probs.argmax(1)), 1)
    count = confusion.sum(1)
    present = np.flatnonzero(count)
    recall = confusion.diagonal()[present] / count[present]
    right, clip_right = _among(1, probs, labels), _among(1, clip_probs, clip_labels)
    groups = groups_of(scores, np.flatnonzero(known))
    many = classes >= TOP5_CLASSES
    return Metrics(
        videos=len(labels),
        bad=len(scores.bad),
        clips=len(clip_labels),
        groups=len(set(groups)),
        correct=int(right.sum()),
        video_top1=float(right.mean()),
        video_top5=float(_among(5, probs, labels).mean()) if many else None,
        interval=accuracy_interval(right, groups),
        clip_top1=float(clip_right.mean()),
        clip_top5=float(_among(5, clip_probs, clip_labels).mean()) if many else None,
        clip_interval=accuracy_interval(clip_right, groups_of(scores, clip_video)),
        balanced_accuracy=float(recall.mean()),
        chance=1 / classes,
        majority=majority_of(count, scores.classes),
        loss=float(-np.log(probs[np.arange(len(labels)), labels].clip(min=1e-12)).mean()),
        per_class={scores.classes[k]: value for k, value in zip(present, recall.tolist(), strict=True)},
        confusion=confusion.tolist(),
    )


def _among(k: int, probs: npt.NDArray[np.float64], labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return whether each label is among the k most probable classes; of equal ones the first counts."""
    likely = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    return np.asarray((likely == labels[:, None]).any(1))
