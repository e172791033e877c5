"""Calibration of probabilities: reliability diagram and calibration error.

Legend: V videos, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t3d.evaluation.metrics import known_rows
from t3d.evaluation.scores import Scores

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Videos whose most probable class has a probability in a range.

    Args:
        low: Lowest probability; it is not in the range, except 0.
        high: Highest probability.
        videos: Number of videos.
        confidence: Mean probability of the most probable class; 0 without videos.
        accuracy: Share of videos whose most probable class is right; 0 without videos.
    """

    low: float
    high: float
    videos: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Calibration of a model on labeled videos.

    Args:
        bins: Ranges of equal width.
        error: Expected calibration error (ECE): mean over videos of the difference between confidence and
            accuracy of their range.
    """

    bins: tuple[Bin, ...]
    error: float

    def sentence(self) -> str:
        """Say how far the probabilities are off, and in which direction."""
        videos = sum(each.videos for each in self.bins)
        confidence = sum(each.confidence * each.videos for each in self.bins) / videos
        accuracy = sum(each.accuracy * each.videos for each in self.bins) / videos
        return (
            f"On average the model gives its answer a probability of {confidence:.0%}, and {accuracy:.0%} of "
            f"the answers are right. The expected calibration error is {100 * self.error:.1f} points."
        )


def calibration_of(scores: Scores) -> Calibration:
    """Measure the calibration of the videos' probabilities.

    Args:
        scores: Scores of videos with one label each.

    Raises:
        ManifestError: No labeled video could be read.
    """
    known = known_rows(scores)
    return calibration(scores.video_probs[known], scores.labels[known])


def calibration(probs: npt.NDArray[np.float64], labels: npt.NDArray[np.integer]) -> Calibration:
    """Measure the calibration of probabilities (Guo et al. 2017, section 2).

    Args:
        probs: Probabilities of each video, float64 [V, K].
        labels: Class of each video, [V].

    Example:
        >>> measured = calibration(np.array([[0.9, 0.1], [0.7, 0.3]]), np.array([0, 1]))
        >>> round(measured.error, 3)  # (|1 - 0.9| + |0 - 0.7|) / 2
        0.4
    """
    confidence, right = probs.max(1), probs.argmax(1) == labels
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    bins = []
    for number in range(BINS):
        inside = place == number
        bins.append(
            Bin(
                number / BINS,
                (number + 1) / BINS,
                int(inside.sum()),
                float(confidence[inside].mean()) if inside.any() else 0.0,
                float(right[inside].mean()) if inside.any() else 0.0,
            )
        )
    error = sum(each.videos * abs(each.confidence - each.accuracy) for each in bins) / len(probs)
    return Calibration(tuple(bins), error)
