"""What scores are worth on labeled videos.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from t3d.errors import ManifestError
from t3d.evaluation.scores import Scores


@dataclass(frozen=True)
class Metrics:
    """What the scores are worth on labeled videos; accuracies in [0, 1].

    Args:
        videos: Videos scored.
        bad: Videos that could not be read, and count in no accuracy.
        clip_top1: Share of clips whose likeliest class is right; see `Scores.clip_probs`.
        clip_top5: Share of clips with the right class among the five likeliest (among all, below five).
        video_top1: The same for videos.
        video_top5: The same for videos.
        mean_class: Mean over classes of the video accuracy.
        loss: Mean over videos of -log of the probability given to the right class, in nats.
        per_class: Video accuracy of each class that has videos.
        confusion: Videos of class i that were called class j, [K][K].
    """

    videos: int
    bad: int
    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    mean_class: float
    loss: float
    per_class: dict[str, float]
    confusion: list[list[int]]

    @property
    def best_by(self) -> float:
        """What the best weights of a run are chosen by."""
        return self.video_top1

    def log_line(self) -> dict[str, float | int]:
        """The figures of a line in a run's log."""
        return {
            "loss": self.loss,
            "top1": self.video_top1,
            "top5": self.video_top5,
            "clip_top1": self.clip_top1,
            "bad": self.bad,
        }

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}  top-1 {self.video_top1:.1%}  top-5 {self.video_top5:.1%}"


def measure_single(scores: Scores) -> Metrics:
    """Compare scores with labels, where each video has one class.

    Raises:
        ManifestError: No labeled video could be read.
    """
    # Importing torchmetrics takes a second, and predictions are scored without being measured.
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

    known = (scores.labels >= 0) & np.isfinite(scores.video_probs).all(1)
    if not known.any():
        raise ManifestError(
            f"none of the {len(scores.labels)} videos is both labeled and readable; "
            f"{len(scores.bad)} could not be read"
        )
    classes = len(scores.classes)
    probs, labels = torch.from_numpy(scores.video_probs[known]), torch.from_numpy(scores.labels[known])
    clip_known = known[scores.clip_video]
    clip_probs = torch.from_numpy(scores.clip_probs[clip_known])
    clip_labels = torch.from_numpy(scores.labels[scores.clip_video[clip_known]])
    confusion = multiclass_confusion_matrix(probs, labels, num_classes=classes)
    count = confusion.sum(1)
    present = count > 0
    accuracy = confusion.diagonal()[present] / count[present]
    names = [name for name, there in zip(scores.classes, present.tolist(), strict=True) if there]

    def top(k: int, p: torch.Tensor, y: torch.Tensor) -> float:
        k = min(k, classes)
        return float(multiclass_accuracy(p, y, num_classes=classes, top_k=k, average="micro"))

    return Metrics(
        videos=int(known.sum()),
        bad=len(scores.bad),
        clip_top1=top(1, clip_probs, clip_labels),
        clip_top5=top(5, clip_probs, clip_labels),
        video_top1=top(1, probs, labels),
        video_top5=top(5, probs, labels),
        mean_class=float(accuracy.mean()),
        loss=float(-probs[torch.arange(len(labels)), labels].clamp_min(1e-12).log().mean()),
        per_class=dict(zip(names, accuracy.tolist(), strict=True)),
        confusion=confusion.tolist(),
    )
