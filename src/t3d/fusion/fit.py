"""Temperatures and weights of models whose class probabilities are averaged.

Both minimize the negative log-likelihood (NLL) of the videos' labels. A temperature divides the scores of one
model before the softmax (Guo et al. 2017, "On calibration of modern neural networks").

Legend: M models, V videos, N clips in all, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from t3d.errors import ManifestError
from t3d.evaluation.scores import Scores

Floats = npt.NDArray[np.float64]
LEAST_WEIGHT = 0.01
"""Models with a smaller weight are left out."""
_FOLDS = 5
_HOTTEST = 20.0  # range of temperatures: 1/20 to 20
_LEAST_PROBABILITY = 1e-12  # as in `t3d.evaluation.metrics`
_STEPS = 10_000
_CLOSE = 1e-10


@dataclass(frozen=True)
class ClipScores:
    """Class probabilities of the clips of labeled videos, by one model.

    Args:
        probs: Probabilities, float64 [N, K].
        video: Row of each clip's video, int64 [N]. Each video has a clip.
        labels: Class of each video, int64 [V].
    """

    probs: Floats
    video: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def select(self, rows: npt.NDArray[np.int64]) -> ClipScores:
        """Return the clips of some videos, which are numbered in the order of `rows`."""
        new = np.full(len(self.labels), -1, dtype=np.int64)
        new[rows] = np.arange(len(rows))
        kept = new[self.video] >= 0
        return ClipScores(self.probs[kept], new[self.video[kept]], self.labels[rows])

    def averaged(self, temperature: float) -> Floats:
        """Return the probabilities of each video with a temperature, float64 [V, K]."""
        logs = np.log(self.probs.clip(min=1e-300)) / temperature
        probs = np.exp(logs - logs.max(1, keepdims=True))
        probs /= probs.sum(1, keepdims=True)
        total = np.zeros((len(self.labels), probs.shape[1]))
        np.add.at(total, self.video, probs)
        return total / np.bincount(self.video, minlength=len(self.labels))[:, None]


@dataclass(frozen=True)
class Fusion:
    """Fitted temperatures and weights.

    Args:
        temperatures: Temperature of each model, M.
        weights: Weight of each model, M. They sum to 1, and 0 leaves a model out.
    """

    temperatures: tuple[float, ...]
    weights: tuple[float, ...]

    def averaged(self, models: Sequence[ClipScores]) -> Floats:
        """Return the averaged probabilities of each video, float64 [V, K]."""
        parts = [
            weight * model.averaged(temperature)
            for model, temperature, weight in zip(models, self.temperatures, self.weights, strict=True)
        ]
        return np.asarray(sum(parts[1:], start=parts[0]))


def clip_scores(scores: Scores, rows: npt.NDArray[np.int64]) -> ClipScores:
    """Return the clips of some videos.

    Args:
        scores: Scores of all videos.
        rows: Rows of labeled videos that could be read, int64 [V].
    """
    return ClipScores(scores.clip_probs, scores.clip_video, scores.labels.astype(np.int64)).select(rows)


def mean_loss(probs: Floats, labels: npt.NDArray[np.int64]) -> float:
    """Return the mean over videos of -log of the probability of the right class, in nats."""
    return float(-np.log(_of_right(probs, labels)).mean())


def fit(models: Sequence[ClipScores]) -> Fusion:
    """Choose a temperature for each model, then the weights.

    Args:
        models: Scores of the same videos by each model.

    Returns:
        Temperatures and weights. A model whose weight is below `LEAST_WEIGHT` gets the weight 0.
    """
    temperatures = tuple(map(_temperature, models))
    right = np.stack(
        [
            _of_right(model.averaged(temperature), model.labels)
            for model, temperature in zip(models, temperatures, strict=True)
        ]
    )
    weights = _weights(right)
    if len(models) > 1 and (weights < LEAST_WEIGHT).any():
        kept = weights >= LEAST_WEIGHT
        weights = np.where(kept, weights, 0)
        weights[kept] = _weights(right[kept])
    return Fusion(temperatures, tuple(weights.tolist()))


def cross_validated(models: Sequence[ClipScores], groups: Sequence[str]) -> tuple[Floats, list[Floats]]:
    """Return probabilities of videos, from temperatures and weights that were chosen on other videos.

    Args:
        models: Scores of the same videos by each model.
        groups: Group of each video, V. Whole groups are held out.

    Returns:
        The averaged probabilities, float64 [V, K], and those of each model with its temperature.

    Raises:
        ManifestError: There are fewer than 2 groups.
    """
    from sklearn.model_selection import GroupKFold

    refuse_one_group(groups)
    averaged = np.zeros_like(models[0].averaged(1))
    single = [np.zeros_like(averaged) for _ in models]
    for learned, judged in GroupKFold(min(_FOLDS, len(set(groups)))).split(averaged, groups=groups):
        fusion = fit([model.select(learned) for model in models])
        asked = [model.select(judged) for model in models]
        averaged[judged] = fusion.averaged(asked)
        for probs, model, temperature in zip(single, asked, fusion.temperatures, strict=True):
            probs[judged] = model.averaged(temperature)
    return averaged, single


def refuse_one_group(groups: Sequence[str]) -> None:
    """Raise an error if no group of videos can be held out.

    Raises:
        ManifestError: There are fewer than 2 groups.
    """
    if len(set(groups)) < 2:
        raise ManifestError(
            "the videos are of one group (column `source`), but choosing and checking "
            "weights needs at least 2; add videos of other groups"
        )


def _of_right(probs: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(probs[np.arange(len(labels)), labels].clip(min=_LEAST_PROBABILITY))


def _temperature(model: ClipScores) -> float:
    """Return the temperature with the smallest loss of the videos' averaged probabilities.

    The loss is as if one of V + 2 answers were wrong (Platt 1999, "Probabilistic outputs for support vector
    machines"). Else a model that is right about each of a few videos would become infinitely sure.
    """
    from scipy.optimize import minimize_scalar

    count, classes = len(model.labels), model.probs.shape[1]
    wanted = np.full((count, classes), 1 / ((count + 2) * max(classes - 1, 1)))
    wanted[np.arange(count), model.labels] = 1 - 1 / (count + 2)

    def loss(log: float) -> float:
        probs = model.averaged(float(np.exp(log))).clip(min=_LEAST_PROBABILITY)
        return float(-(wanted * np.log(probs)).sum())

    most = np.log(_HOTTEST)
    result = minimize_scalar(
        loss,
        bounds=(-most, most),
        method="bounded",
    )
    return float(np.exp(result.x))


def _weights(right: Floats) -> Floats:
    """Return the weights with the largest likelihood, by expectation maximization; the optimum is unique.

    One video that every model explains equally well is added per model, so that few videos do not decide for
    a single model.

    Args:
        right: Probability of the right class of each video, float64 [M, V].

    Returns:
        Weights, float64 [M]. They sum to 1.
    """
    models, videos = right.shape
    weights = np.full(models, 1 / models)
    for _ in range(_STEPS):
        shares = weights[:, None] * right
        new = ((shares / shares.sum(0)).sum(1) + 1) / (videos + models)
        if np.abs(new - weights).max() < _CLOSE:
            break
        weights = new
    return np.asarray(weights)
