"""Figures of pairs against scikit-learn's and a loop, over batches of many shapes, with ties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score
from torch import Tensor

from t3d.transfer.metrics import PairMetrics
from t3d.transfer.pairs import allowed_pairs

Batch = tuple[Tensor, Tensor, Tensor]
THRESHOLD = 0.25  # rounded scores never are on it


def random_batch(rng: np.random.Generator, count: int, wide: bool, *, digits: int = 6) -> Batch:
    """Scores, true ones a little higher, and masks with rows of one source or without another time."""
    groups = torch.from_numpy(rng.integers(0, count, count))
    other = torch.from_numpy(rng.random(count) < 0.6) if wide else None
    positive, negative = allowed_pairs(groups, other)
    scores = torch.from_numpy(rng.normal(size=positive.shape)).float() + positive
    return torch.round(scores, decimals=digits), positive, negative


def random_batches(seed: int, *, digits: int = 6, wide: bool = True) -> list[Batch]:
    rng = np.random.default_rng(seed)
    return [random_batch(rng, count, wide, digits=digits) for count in (6, 2, 1, 9, 6)]


def figures(batches: list[Batch], threshold: float | None = THRESHOLD) -> dict[str, float]:
    metrics = PairMetrics(threshold)
    for batch in batches:
        metrics.add(*batch)
    return metrics.figures()


# Slow opinions


def pairs_of(batches: list[Batch]) -> list[tuple[float, bool, str]]:
    """Score, truth and kind of each pair that counts."""
    pairs = []
    for scores, positive, negative in batches:
        for clip, column in (positive | negative).nonzero().tolist():
            kind = "other_time" if column == len(scores) + clip else "other_video"
            pairs.append((float(scores[clip, column]), bool(positive[clip, column]), kind))
    return pairs


def slow_figures(batches: list[Batch], kind: str | None = None) -> dict[str, float]:
    """By scikit-learn: true and false pairs are each weighted to a half."""
    kept = [(score, truth) for score, truth, of in pairs_of(batches) if truth or kind in (None, of)]
    scores, truth = np.array([score for score, _ in kept]), np.array([true for _, true in kept])
    weight = np.where(truth, 1 / truth.sum(), 1 / (~truth).sum())
    predicted = scores > THRESHOLD
    return {
        "auc": float(roc_auc_score(truth, scores)),
        "accuracy": float(accuracy_score(truth, predicted, sample_weight=weight)),
        "precision": float(precision_score(truth, predicted, sample_weight=weight, zero_division=0)),
        "recall": float(recall_score(truth, predicted)),
    }


def slow_top1(batches: list[Batch]) -> dict[str, float]:
    won: list[bool] = []
    chances: list[float] = []
    for scores, _, negative in batches:
        for row in range(len(scores)):
            rivals = [float(scores[row, m]) for m in range(scores.shape[1]) if negative[row, m]]
            if rivals:
                won.append(all(float(scores[row, row]) > rival for rival in rivals))
                chances.append(1 / (len(rivals) + 1))
    clips = sum(len(scores) for scores, _, _ in batches)
    return {"top1": float(np.mean(won)), "top1_chance": float(np.mean(chances)), "clips": clips}


@pytest.mark.parametrize("digits", [6, 1, 0])  # with ever more ties
@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed: int, digits: int) -> None:
    batches = random_batches(seed, digits=digits)
    want = slow_figures(batches) | slow_top1(batches)
    for kind in ("other_video", "other_time"):
        one = slow_figures(batches, kind)
        want |= {f"{name}_{kind}": one[name] for name in ("auc", "accuracy", "precision")}
    assert figures(batches) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_without_other_times_there_is_one_kind(seed: int) -> None:
    batches = random_batches(seed, wide=False, digits=1)
    want = slow_figures(batches) | slow_top1(batches)
    assert figures(batches) == pytest.approx(want, rel=1e-12)


def test_without_a_threshold_only_the_order_counts() -> None:
    batches = random_batches(0)
    got = figures(batches, threshold=None)
    assert set(got) == {"auc", "top1", "top1_chance", "clips", "auc_other_video", "auc_other_time"}
    stretched = [(torch.exp(3 * scores) - 7, own, apart) for scores, own, apart in batches]
    assert figures(stretched, threshold=None) == pytest.approx(got, rel=1e-12)


def test_batches_of_other_sizes_are_counted_pair_by_pair() -> None:
    # Not the mean of the batches' figures: 5 true pairs here, 2 there.
    own = [torch.eye(count, dtype=torch.bool) for count in (5, 2)]
    scores = [torch.where(own[0], 1.0, 0.0), torch.where(own[1], -1.0, 0.0)]
    got = figures([(table, eye, ~eye) for table, eye in zip(scores, own, strict=True)])
    assert got["auc"] == got["top1"] == got["recall"] == pytest.approx(5 / 7)


@pytest.mark.parametrize(("score", "accuracy", "recall"), [(9.0, 0.5, 1.0), (-9.0, 0.5, 0.0)])
def test_guessing_the_same_always_gives_a_half(score: float, accuracy: float, recall: float) -> None:
    own = torch.eye(7, dtype=torch.bool)
    got = figures([(torch.full((7, 7), score), own, ~own)])
    assert (got["accuracy"], got["auc"], got["recall"]) == (accuracy, 0.5, recall)
    assert got["precision"] == (0.5 if score > 0 else 0)
    assert got["top1"] == 0, "as high as the others is not above them"


def test_all_true_and_all_false() -> None:
    own = torch.eye(4, dtype=torch.bool)
    best = torch.where(own, 1.0, -1.0)
    names = ("auc", "top1", "accuracy", "precision", "recall")
    count = {"clips": 4, "top1_chance": 0.25}
    for threshold in (THRESHOLD, 0.0):  # 0 is that of logits
        assert figures([(best, own, ~own)], threshold) == dict.fromkeys(names, 1.0) | count
        assert figures([(-best, own, ~own)], threshold) == dict.fromkeys(names, 0.0) | count


# Pairs that are not counted


def test_pairs_in_neither_mask_are_not_counted() -> None:
    rng = np.random.default_rng(1)
    scores, positive, negative = random_batch(rng, 9, True)
    unused = ~(positive | negative)
    assert unused.any()
    for filler in (1e6, -1e6):
        changed = scores.masked_fill(unused, filler)
        assert figures([(changed, positive, negative)]) == figures([(scores, positive, negative)])


def test_clips_without_a_negative_are_not_counted_in_top1() -> None:
    groups = torch.tensor([0, 0, 0, 1])
    positive, negative = allowed_pairs(groups, None)
    scores = torch.zeros(4, 4)
    scores[0, 0], scores[3, 3] = 1, -1
    negative[1:3] = False  # two clips of which nothing is known
    assert figures([(scores, positive, negative)])["top1"] == 0.5


def test_without_negatives_there_are_no_figures() -> None:
    positive, negative = allowed_pairs(torch.zeros(3, dtype=torch.int64), None)
    assert figures([(torch.randn(3, 3), positive, negative)]) == {}
    none = torch.zeros(3, dtype=torch.bool)
    positive, negative = allowed_pairs(torch.zeros(3, dtype=torch.int64), none)
    assert figures([(torch.randn(3, 6), positive, negative)]) == {}


def test_a_batch_without_negatives_adds_its_positives() -> None:
    rng = np.random.default_rng(2)
    lone = (torch.tensor([[-9.0]]), torch.tensor([[True]]), torch.tensor([[False]]))
    batch = random_batch(rng, 6, False)
    before, after = figures([batch]), figures([batch, lone])
    assert after["top1"] == before["top1"], "nothing to be above"
    assert after["recall"] == pytest.approx(before["recall"] * 6 / 7)
    assert after["auc"] == pytest.approx(before["auc"] * 6 / 7)


def test_other_times_that_do_not_exist_make_no_kind() -> None:
    positive, negative = allowed_pairs(torch.arange(4), torch.zeros(4, dtype=torch.bool))
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 8)))
    assert figures([(scores, positive, negative)]) == figures(
        [(scores[:, :4], positive[:, :4], negative[:, :4])]
    )


def test_all_of_one_source_are_told_apart_by_time_alone() -> None:
    positive, negative = allowed_pairs(torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool))
    scores = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 10)))
    got, want = figures([(scores, positive, negative)]), slow_figures([(scores, positive, negative)])
    assert {name: got[name] for name in want} == pytest.approx(want, rel=1e-12)
    assert not [name for name in got if name.endswith("other_video")]


def test_figures_may_be_read_again_and_scores_may_have_gradients() -> None:
    batches = random_batches(3)
    metrics = PairMetrics(THRESHOLD)
    for number, (scores, positive, negative) in enumerate(batches):
        metrics.add(scores.requires_grad_(), positive, negative)
        so_far = [(table.detach(), own, apart) for table, own, apart in batches[: number + 1]]
        first: dict[str, float] = metrics.figures()
        assert metrics.figures() == first == figures(so_far)


def test_many_negatives_and_ties_are_counted_as_pair_by_pair() -> None:
    rng = np.random.default_rng(4)
    right: NDArray[np.int64] = rng.integers(0, 5, 40)
    scores = torch.from_numpy(rng.integers(0, 5, (40, 40))).float()
    own = torch.eye(40, dtype=torch.bool)
    scores[own] = torch.from_numpy(right).float()
    wrong = scores[~own].tolist()
    won = sum(1.0 if r > w else 0.5 if r == w else 0.0 for r in right.tolist() for w in wrong)
    assert figures([(scores, own, ~own)])["auc"] == pytest.approx(won / 40 / len(wrong), rel=1e-12)


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_nothing_collected_gives_no_figures(threshold: float | None) -> None:
    assert PairMetrics(threshold).figures() == {}
