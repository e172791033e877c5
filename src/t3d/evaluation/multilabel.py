"""What scores are worth where several classes may apply to a video: average precision and F1.

Average precision is the area under the curve of precision over recall, in steps at each threshold and
without interpolation, as in Charades and HVU; its mean is over the classes that apply to some video, as the
others have no recall.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from t3d.errors import ManifestError
from t3d.evaluation.scores import THRESHOLD, Scores


@dataclass(frozen=True)
class MultiMetrics:
    """What the scores are worth on videos of several labels; all but `loss` in [0, 1].

    Args:
        videos: Videos scored.
        bad: Videos that could not be read, and count nowhere.
        video_map: Mean of `per_class`.
        clip_map: The same for clips (see `Scores.clip_probs`), each with the labels of its video.
        micro_f1: F1 of all decisions at 0.5 together, one for each video and class.
        macro_f1: Mean over the classes of `per_class` of their own F1 at 0.5.
        loss: Binary cross-entropy of the videos' probabilities, mean over videos and classes, in nats.
        per_class: Average precision of each class that applies to some video.
        positives: Videos that each class applies to. Guessing has about the average precision
            `positives / videos`.
    """

    videos: int
    bad: int
    video_map: float
    clip_map: float
    micro_f1: float
    macro_f1: float
    loss: float
    per_class: dict[str, float]
    positives: dict[str, int]

    @property
    def best_by(self) -> float:
        """What the best weights of a run are chosen by."""
        return self.video_map

    def log_line(self) -> dict[str, float | int]:
        """The figures of a line in a run's log."""
        return {
            "loss": self.loss,
            "map": self.video_map,
            "clip_map": self.clip_map,
            "micro_f1": self.micro_f1,
            "macro_f1": self.macro_f1,
            "bad": self.bad,
        }

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}  mAP {self.video_map:.1%}  micro F1 {self.micro_f1:.1%}"


def measure_multi(scores: Scores) -> MultiMetrics:
    """Compare scores with labels, where videos may have several.

    Args:
        scores: With `labels` int8 [V, K].

    Raises:
        ManifestError: No labeled video could be read, or no class applies to any.
    """
    known = (scores.labels.min(1) >= 0) & np.isfinite(scores.video_probs).all(1)
    if not known.any():
        raise ManifestError(
            f"none of the {len(scores.labels)} videos is both labeled and readable; "
            f"{len(scores.bad)} could not be read"
        )
    labels, probs = scores.labels[known], scores.video_probs[known]
    positives = labels.sum(0)
    present = np.flatnonzero(positives)
    if not len(present):
        raise ManifestError(
            f"no class applies to any of the {len(labels)} videos, so that there is no average precision; "
            "test on videos of which some have labels"
        )
    clips = known[scores.clip_video]
    clip_probs, clip_labels = scores.clip_probs[clips], scores.labels[scores.clip_video[clips]]
    precisions = _average_precisions(probs, labels, present)
    sure = np.clip(probs, 1e-12, 1 - 1e-12)
    per_class_f1 = [_f1(probs[:, k], labels[:, k]) for k in present]
    return MultiMetrics(
        videos=int(known.sum()),
        bad=len(scores.bad),
        video_map=float(np.mean(precisions)),
        clip_map=float(np.mean(_average_precisions(clip_probs, clip_labels, present))),
        micro_f1=_f1(probs, labels),
        macro_f1=float(np.mean(per_class_f1)),
        loss=float(-np.where(labels == 1, np.log(sure), np.log1p(-sure)).mean()),
        per_class={scores.classes[k]: value for k, value in zip(present, precisions, strict=True)},
        positives=dict(zip(scores.classes, positives.tolist(), strict=True)),
    )


def _average_precisions(
    probs: npt.NDArray[np.float64], labels: npt.NDArray[np.int8], present: npt.NDArray[np.int64]
) -> list[float]:
    # Importing torchmetrics takes a second, and predictions are scored without being measured.
    from torchmetrics.functional.classification import binary_average_precision

    columns = ((torch.from_numpy(probs[:, k].copy()), torch.from_numpy(labels[:, k].copy())) for k in present)
    return [float(binary_average_precision(p, y)) for p, y in columns]


def _f1(probs: npt.NDArray[np.float64], labels: npt.NDArray[np.int8]) -> float:
    from torchmetrics.functional.classification import binary_f1_score

    said = torch.from_numpy((probs >= THRESHOLD).astype(np.int8))
    return float(binary_f1_score(said, torch.from_numpy(labels.copy())))
