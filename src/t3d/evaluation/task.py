"""The two tasks of a model: one class per video out of all, or any number of them.

Everything in testing and prediction that differs between the two is here: probabilities, labels, measures and
the columns of tables.

Legend: B clips, V videos, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from t3d.clip import Targets
from t3d.data.manifest.labels import SEPARATOR
from t3d.data.manifest.manifest import Manifest
from t3d.evaluation.figures import RESAMPLES
from t3d.evaluation.metrics import Metrics, measure_single
from t3d.evaluation.multilabel import MultiMetrics, measure_multi
from t3d.evaluation.scores import THRESHOLD, Scores

if TYPE_CHECKING:
    import torch


class Task(ABC):
    """Meaning of a model's scores."""

    columns: ClassVar[tuple[str, str]]
    """Names of the columns of labels and predictions in a table of scores."""

    @abstractmethod
    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Turn scores [B, K] into probabilities [B, K]."""

    @abstractmethod
    def labels(self, manifest: Manifest) -> npt.NDArray[np.int64] | npt.NDArray[np.int8]:
        """Return the labels of a manifest as `Scores.labels` holds them."""

    @abstractmethod
    def measure(self, scores: Scores, *, resamples: int = RESAMPLES) -> Metrics | MultiMetrics:
        """Compare scores with labels; see `t3d.evaluation.task.measure`."""

    @abstractmethod
    def labeled(self, scores: Scores, row: int) -> str:
        """Return the label of a video as a table holds it; empty where there is none."""

    @abstractmethod
    def predicted(self, scores: Scores, row: int) -> str:
        """Return the prediction for a video as a table holds it."""


class SingleLabel(Task):
    """One class per video out of all."""

    columns = ("label", "prediction")

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the softmax."""
        return logits.softmax(1)

    def labels(self, manifest: Manifest) -> npt.NDArray[np.int64]:
        """Return the class of each video, -1 where there is none, int64 [V]."""
        return manifest.labels

    def measure(self, scores: Scores, *, resamples: int = RESAMPLES) -> Metrics:  # noqa: ARG002
        """Return accuracies, whose intervals need no resamples."""
        return measure_single(scores)

    def labeled(self, scores: Scores, row: int) -> str:
        """Return the class name."""
        label = scores.labels[row]
        return scores.classes[label] if label >= 0 else ""

    def predicted(self, scores: Scores, row: int) -> str:
        """Return the most probable class."""
        return scores.classes[int(scores.video_probs[row].argmax())]


class MultiLabel(Task):
    """Any number of classes per video, each with its own probability."""

    columns = ("labels", "predictions")

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the sigmoid."""
        return logits.sigmoid()

    def labels(self, manifest: Manifest) -> npt.NDArray[np.int8]:
        """Return 1 where a class applies, else 0; -1 in unlabeled rows; int8 [V, K]."""
        return manifest.multi_hot()

    def measure(self, scores: Scores, *, resamples: int = RESAMPLES) -> MultiMetrics:
        """Return average precisions and F1."""
        return measure_multi(scores, resamples=resamples)

    def labeled(self, scores: Scores, row: int) -> str:
        """Return the classes that apply, as a manifest's table holds them."""
        labels = scores.labels[row]
        return _joined(scores, labels == 1) if (labels >= 0).all() else ""

    def predicted(self, scores: Scores, row: int) -> str:
        """Return the classes with a probability of at least 0.5, as a manifest's table holds them."""
        return _joined(scores, scores.video_probs[row] >= THRESHOLD)


TASKS: dict[Targets, Task] = {"single": SingleLabel(), "multi": MultiLabel()}


def measure(scores: Scores, *, resamples: int = RESAMPLES) -> Metrics | MultiMetrics:
    """Compare scores with labels.

    Args:
        scores: The scores, with labels.
        resamples: Largest number of resamples for the interval of a mean average precision.

    Raises:
        ManifestError: No labeled video could be read, or, with several labels per video, no class applies to
            any.
    """
    return TASKS[scores.targets].measure(scores, resamples=resamples)


def _joined(scores: Scores, applies: npt.NDArray[np.bool_]) -> str:
    names = [name for name, there in zip(scores.classes, applies.tolist(), strict=True) if there]
    return SEPARATOR.join(names) or SEPARATOR
