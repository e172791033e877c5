"""Linear fits on class probabilities, against a descent without scikit-learn, and against hard labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from t3d.data.manifest.manifest import Manifest
from t3d.transfer.linear import as_layer, class_probabilities, fit_linear, fit_soft, log_likelihood

Floats = npt.NDArray[np.float64]


def problem(classes: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(60, 5)) * [1, 2, 5, 0.1, 1], rng.dirichlet(np.full(classes, 0.5), size=60)


def by_descent(features: Floats, targets: Floats, strength: float) -> Floats:
    """Minimize the cross-entropy with the targets and a squared penalty, on standardized features."""
    x = torch.from_numpy((features - features.mean(0)) / features.std(0))
    weight = torch.zeros(targets.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(targets.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-12)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = F.cross_entropy(x @ weight.T + bias, torch.from_numpy(targets), reduction="sum")
        total = strength * fit + 0.5 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    probs: Floats = F.softmax(x @ weight.T + bias, 1).detach().numpy()
    return probs


def test_soft_labels_are_fitted_as_cross_entropy_with_probabilities() -> None:
    features, targets = problem(3)
    fitted = fit_soft(features, targets, strength=0.5)
    probs = class_probabilities(fitted.classifier, features, 3)
    np.testing.assert_allclose(probs, by_descent(features, targets, 0.5), atol=5e-3)


def test_the_features_are_not_copied_for_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.preprocessing import StandardScaler

    seen: list[int] = []
    standardize = StandardScaler.partial_fit

    def counting(self: StandardScaler, x: Floats, *args: Any, **more: Any) -> Any:
        seen.append(len(x))
        return standardize(self, x, *args, **more)

    monkeypatch.setattr(StandardScaler, "partial_fit", counting)
    features, targets = problem(7)
    fit_soft(features, targets, strength=0.5)
    assert seen == [60]


def test_probabilities_of_0_and_1_are_labels() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, targets = problem(4)
    labels = targets.argmax(1)
    hard = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(features, labels)
    soft = fit_soft(features, np.eye(4)[labels], strength=0.1).classifier
    np.testing.assert_allclose(soft.predict_proba(features), hard.predict_proba(features), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_layer_computes_the_probabilities_of_the_fit(classes: int) -> None:
    features, targets = problem(classes)
    classifier = fit_soft(features, targets, strength=1.0).classifier
    layer = as_layer(classifier, classes).double()
    probs = F.softmax(layer(torch.from_numpy(features)), 1).detach().numpy()
    np.testing.assert_allclose(probs, class_probabilities(classifier, features, classes), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_video_counts_once_however_many_clips_it_has(classes: int) -> None:
    features, targets = problem(classes)
    copies = np.random.default_rng(0).integers(1, 4, len(features))
    once = fit_soft(features, targets, strength=0.3).classifier
    rows = np.repeat(np.arange(len(features)), copies)
    often = fit_soft(features[rows], targets[rows], videos=rows, strength=0.3).classifier
    np.testing.assert_allclose(often.predict_proba(features), once.predict_proba(features), atol=1e-4)
    unequal = fit_soft(features[rows], targets[rows], strength=0.3).classifier
    assert np.abs(unequal.predict_proba(features) - once.predict_proba(features)).max() > 1e-3


def test_the_strength_is_chosen_by_the_probability_of_the_right_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    names = [str(number) for number in range(12)]
    table = {"path": names, "label": labels, "start": [None] * 12, "end": [None] * 12, "source": names}
    schema = pa.schema([("path", pa.string()), ("label", pa.int64()), ("start", pa.float64())])
    schema = schema.append(pa.field("end", pa.float64())).append(pa.field("source", pa.string()))
    videos = Manifest(("no", "yes"), pa.table(table, schema=schema))
    features = rng.normal(size=(12, 20))
    features[:, :5] += 6 * labels[:, None]  # every strength gets all videos right
    rows = [(row, 0, features[row]) for row in range(12)]
    fit = fit_linear(videos, rows)
    assert fit.accuracy == 1.0
    assert fit.classifier.predict_proba(features)[np.arange(12), labels].min() > 0.9


def test_the_likelihood_is_that_of_the_right_class() -> None:
    class Known:
        classes_ = np.array([0, 2])

        def predict_proba(self, features: Floats) -> Floats:
            return np.tile([0.25, 0.75], (len(features), 1))

    labels = np.array([0, 2, 2, 1])  # class 1 was not in its training: at least 0.001
    expected = np.log([0.25, 0.75, 0.75, 0.001]).mean()
    assert log_likelihood(Known(), np.zeros((4, 3)), labels) == pytest.approx(expected)
