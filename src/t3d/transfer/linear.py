"""Logistic regression on frozen features, and the linear layer that computes the same.

Legend: N clips, D features, K classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError
from t3d.evaluation.scores import ClipRow
from t3d.progress import progress

Floats = npt.NDArray[np.float64]

# Inverse strengths of the weight penalty. The range covers few and many labels.
STRENGTHS = np.logspace(-5, 1, 7)
MEDIUM = 1e-2
"""Inverse strength that suits most features, where nothing can be held out to choose one."""
_LEAST_PROBABILITY = 1e-3
_MOST_STEPS = 2000

_NEVER = -1e4  # score of a class without training clips, before the softmax


@dataclass(frozen=True)
class LinearFit:
    """A fitted logistic regression.

    Args:
        classifier: Fitted scikit-learn pipeline.
        strength: Inverse strength of its weight penalty.
        accuracy: Cross-validated accuracy on clips, from 0 to 1. None if there were too few sources.
    """

    classifier: Any
    strength: float
    accuracy: float | None


def fit_linear(manifest: Manifest, rows: list[ClipRow]) -> LinearFit:
    """Fit a logistic regression on the clips of labeled videos.

    Args:
        manifest: Videos.
        rows: Row of the video, number of the clip, and feature vector, float [D], of each clip.

    Raises:
        ManifestError: Fewer than two classes have a readable video.
    """
    # Imported here, because the import takes a second and opening the videos does not need it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features: npt.NDArray[np.float64] = np.stack([vector for _, _, vector in rows])  # N D
    videos = np.array([video for video, _, _ in rows])
    labels = manifest.labels[videos]
    sources = np.array(manifest.table["source"].to_pylist(), dtype=object)[videos]
    if len(np.unique(labels)) < 2:
        raise ManifestError("a probe needs readable videos of at least 2 classes")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=_MOST_STEPS))
    folds = min(4, min(len(np.unique(sources[labels == label])) for label in np.unique(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # with the weakest penalties; validation rejects bad fits
        if folds < 2:  # a class with one source cannot be held out: use a medium strength
            model.set_params(logisticregression__C=MEDIUM).fit(features, labels)
            return LinearFit(model, MEDIUM, None)
        with progress("Fitting the classifier", folds * len(STRENGTHS), unit="fits") as bar:

            def counted(*arguments: Any) -> float:
                bar.advance()
                return log_likelihood(*arguments)

            search = GridSearchCV(
                model,
                {"logisticregression__C": STRENGTHS},
                scoring={"likelihood": counted, "accuracy": "accuracy"},
                refit="likelihood",
                cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
            )
            search.fit(features, labels, groups=sources)
        chosen = float(search.best_params_["logisticregression__C"])
        accuracy = search.cv_results_["mean_test_accuracy"][search.best_index_]
        return LinearFit(search.best_estimator_, chosen, float(accuracy))


def log_likelihood(classifier: Any, features: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the mean logarithm of the probability of the right class, at least that of 0.001.

    It chooses the strength of the penalty. The accuracy of few videos is the same for many strengths, and the
    strongest of them gives every class nearly the same probability.

    Args:
        classifier: Fitted scikit-learn classifier.
        features: Feature vectors, float [N, D].
        labels: Right classes, int64 [N]. A class that the classifier does not know has probability 0.
    """
    known = {label: column for column, label in enumerate(classifier.classes_.tolist())}
    probabilities = np.column_stack((classifier.predict_proba(features), np.zeros(len(features))))
    columns = np.array([known.get(label, -1) for label in labels.tolist()])
    right = probabilities[np.arange(len(labels)), columns]
    return float(np.log(np.maximum(right, _LEAST_PROBABILITY)).mean())


def fit_soft(
    features: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    *,
    videos: npt.NDArray[np.int64] | None = None,
    strength: float = MEDIUM,
) -> LinearFit:
    """Fit a logistic regression on class probabilities.

    This is the same as one copy of each row for every class, with the probability of the class as its weight.

    Args:
        features: Feature vectors, float [N, D].
        targets: Class probabilities, float [N, K]. Probabilities below 0.001 are ignored.
        videos: Video of each row, int64 [N]. All rows of a video together then weigh as much as one. None:
            each row is a video.
        strength: Inverse strength of the weight penalty, per video. The default does not follow the strength
            that suits the labels alone, because soft labels are many and partly wrong: in 12 draws of labels
            it was as good or better (docs/project/results.md).

    Example:
        >>> features = np.array([[0.0], [1.0], [2.0]])
        >>> fit = fit_soft(features, np.array([[1, 0], [0.5, 0.5], [0, 1]]), strength=1.0)
        >>> fit.classifier.predict_proba(features).round(2).tolist()[1]
        [0.5, 0.5]
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    targets = np.where(targets >= _LEAST_PROBABILITY, targets, 0).astype(np.float64)
    if videos is not None:
        targets /= np.bincount(videos)[videos][:, None]
    used = np.flatnonzero(targets.any(0))
    regression = LogisticRegression(C=strength, max_iter=_MOST_STEPS)
    model = make_pipeline(StandardScaler(), regression)
    if len(used) > 2:
        # scikit-learn takes one label per row: it would need a copy of the features for each class of a clip.
        x = model.steps[0][1].fit_transform(features.astype(np.float64), sample_weight=targets.sum(1))
        regression.coef_, regression.intercept_ = _soft_layer(x, targets[:, used], strength)
        regression.classes_, regression.n_features_in_ = used, x.shape[1]
        return LinearFit(model, strength, None)
    rows, labels = np.nonzero(targets)
    weights = targets[rows, labels]
    model.fit(
        features[rows],
        labels,
        standardscaler__sample_weight=weights,
        logisticregression__sample_weight=weights,
    )
    return LinearFit(model, strength, None)


def _soft_layer(x: Floats, targets: Floats, strength: float) -> tuple[Floats, Floats]:
    """Minimize the cross-entropy and the weight penalty as scikit-learn's regression does.

    Args:
        x: Standardized features, [N, D].
        targets: Class probabilities, [N, K].
        strength: Inverse strength of the weight penalty.

    Returns:
        Weights [K, D] and biases [K].
    """
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    shape, total = (targets.shape[1], x.shape[1] + 1), targets.sum()
    shares, penalty = targets.sum(1, keepdims=True), 1 / (strength * total)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weight, bias = flat.reshape(shape)[:, :-1], flat.reshape(shape)[:, -1]
        logs = log_softmax(x @ weight.T + bias, axis=1)  # N K
        wrong = (np.exp(logs) * shares - targets) / total
        value = 0.5 * penalty * np.square(weight).sum() - (targets * logs).sum() / total
        return float(value), np.column_stack((wrong.T @ x + penalty * weight, wrong.sum(0))).ravel()

    start = np.zeros(shape[0] * shape[1])
    options = {"maxiter": _MOST_STEPS, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
    table = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
    return table[:, :-1], table[:, -1]


def class_probabilities(
    classifier: Any, features: npt.NDArray[Any], num_classes: int
) -> npt.NDArray[np.float64]:
    """Return the probabilities of all classes, float64 [N, K]; 0 for one without training clips.

    Args:
        classifier: Fitted scikit-learn pipeline.
        features: Feature vectors, float [N, D].
        num_classes: Number of classes, K.
    """
    full = np.zeros((len(features), num_classes))
    full[:, classifier.classes_] = classifier.predict_proba(features)
    return full


def as_layer(classifier: Any, num_classes: int) -> nn.Linear:
    """Return the linear layer whose softmax gives the probabilities of a classifier.

    Args:
        classifier: Fitted scikit-learn pipeline.
        num_classes: Number of classes, K. One without training clips gets the probability 0.

    Returns:
        A layer from D features to K scores. It includes the standardization of the features.
    """
    scaler, regression = (step for _, step in classifier.steps)
    weight, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:  # one score, of the second class, through a sigmoid
        weight, bias = np.concatenate((-weight, weight)) / 2, np.concatenate((-bias, bias)) / 2
    weight = weight / scaler.scale_
    full_weight = np.zeros((num_classes, weight.shape[1]))
    full_bias = np.full(num_classes, _NEVER)
    full_weight[regression.classes_] = weight
    full_bias[regression.classes_] = bias - weight @ scaler.mean_
    layer = nn.Linear(weight.shape[1], num_classes)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(full_weight))
        layer.bias.copy_(torch.from_numpy(full_bias))
    return layer
