"""Temperatures and weights: known optima, and figures of held-out videos."""

from __future__ import annotations

import numpy as np
import pytest

from t3d.errors import ManifestError
from t3d.evaluation.figures import Interval
from t3d.fusion.fit import ClipScores, Floats, Fusion, cross_validated, fit, mean_loss
from t3d.fusion.result import FusionResult, Line

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 600)


def softmax(logits: Floats) -> Floats:
    probs = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(probs / probs.sum(1, keepdims=True))


def model(*, signal: float = 2.0, sharpness: float = 1.0, seed: int = 0) -> ClipScores:
    """Scores of 600 videos. With `sharpness` 1 their probabilities are right."""
    noise = np.random.default_rng(seed).normal(size=(600, 3))
    evidence = noise + signal * np.eye(3)[LABELS]
    return ClipScores(softmax(sharpness * signal * evidence), np.arange(600), LABELS)


def test_the_temperature_undoes_overconfidence() -> None:
    assert fit([model()]).temperatures[0] == pytest.approx(1, abs=0.15)
    assert fit([model(sharpness=3)]).temperatures[0] == pytest.approx(3, abs=0.45)
    assert fit([model(sharpness=0.25)]).temperatures[0] == pytest.approx(0.25, abs=0.04)


def test_a_few_right_answers_do_not_make_a_model_sure() -> None:
    probs = np.tile([0.7, 0.2, 0.1], (7, 1))
    seven = ClipScores(probs, np.arange(7), np.zeros(7, np.int64))
    (temperature,) = fit([seven]).temperatures
    assert seven.averaged(temperature)[0, 0] == pytest.approx(1 - 1 / 9, abs=0.03)
    many = ClipScores(np.tile(probs, (100, 1)), np.arange(700), np.zeros(700, np.int64))
    (temperature,) = fit([many]).temperatures
    assert many.averaged(temperature)[0, 0] > 0.99


def test_the_mean_of_clips_is_calibrated() -> None:
    probs = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    scores = ClipScores(probs, np.array([0, 0, 1]), np.array([0, 1]))
    expected = np.array([[(0.9**0.5 / (0.9**0.5 + 0.1**0.5) + 0.5) / 2], [0.2**0.5 / (0.2**0.5 + 0.8**0.5)]])
    np.testing.assert_allclose(scores.averaged(2.0)[:, :1], expected)
    one = scores.select(np.array([1]))
    assert (one.video.tolist(), one.labels.tolist(), one.probs.tolist()) == ([0], [1], [[0.2, 0.8]])


def test_weights_are_the_best_ones() -> None:
    models = [model(seed=1), model(seed=2, signal=1.0)]
    fusion = fit(models)
    assert sum(fusion.weights) == pytest.approx(1)
    losses = {
        share: mean_loss(Fusion(fusion.temperatures, (share, 1 - share)).averaged(models), LABELS)
        for share in np.linspace(0, 1, 101)
    }
    assert fusion.weights[0] == pytest.approx(min(losses, key=losses.__getitem__), abs=0.02)
    assert 0.5 < fusion.weights[0] < 1


def test_a_useless_model_is_left_out() -> None:
    good = model(signal=4)
    noise = model(signal=4, seed=3)
    wrong = ClipScores(np.roll(noise.probs, 1, axis=1), noise.video, noise.labels)
    fusion = fit([good, wrong])
    assert fusion.weights == (pytest.approx(1), 0)
    np.testing.assert_allclose(fusion.averaged([good, wrong]), good.averaged(fusion.temperatures[0]))


def test_figures_are_of_videos_that_chose_nothing() -> None:
    # The label of a group is of no use for other groups, so what was fitted to it is wrong there.
    groups = [str(i) for i in np.arange(600) // 300]
    probs = np.tile([[0.6, 0.4, 0.0]], (600, 1))
    labels = np.repeat([0, 1], 300)
    one = ClipScores(probs, np.arange(600), labels)
    averaged, (single,) = cross_validated([one], groups)
    assert mean_loss(averaged, labels) > 2 > mean_loss(one.averaged(1), labels)
    np.testing.assert_allclose(averaged, single)
    with pytest.raises(ManifestError, match="are of one group"):
        cross_validated([one], ["a"] * 600)


def result(*, fused: float, loss: float, gained: int, lost: int) -> FusionResult:
    none = Interval(0, 1)
    members = (Line("runs/a", 0.8, none, 0.5, 0.9, 0.5, 2.0), Line("runs/b", 0.7, none, 0.6, 0.6, 0.5, 1.0))
    return FusionResult(members, Line("runs/f", fused, none, loss, loss, 1, 1), 100, gained, lost)


def test_whether_it_pays() -> None:
    clear, better = result(fused=0.95, loss=0.3, gained=16, lost=1).sentences()
    assert clear == (
        "The fused model classifies 15 more of 100 videos correctly than the best single model, runs/a "
        "(gained 16, lost 1)."
    )
    assert better == "Its probabilities are better: NLL 0.300 compared with 0.500."
    doubtful = result(fused=0.82, loss=0.6, gained=3, lost=1).sentences()
    assert "may be chance (sign test, p = 0.62)" in doubtful[0]
    assert doubtful[1] == "Its probabilities are not better: NLL 0.600 compared with 0.500."
    none = result(fused=0.8, loss=0.5, gained=0, lost=0).sentences()
    assert none[0].startswith(
        "Fusion does not pay in accuracy: the fused model is not more accurate than runs/a"
    )
    assert none[1].endswith("Use runs/a.")
