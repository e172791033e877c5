"""Losses against loops over pairs in double precision, their gradients against formulas, even draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from t3d.transfer.config import PairConfig
from t3d.transfer.objectives import contrastive_loss, draw_one, match_loss, transfer_loss
from t3d.transfer.pairs import allowed_pairs

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
SHAPES = [(1, False), (2, False), (2, True), (5, False), (5, True), (8, True)]
ALL = PairConfig("sum", negatives="all")


def masks(seed: int, count: int, wide: bool) -> tuple[Tensor, Tensor]:
    """Masks of a batch with some videos of one source, and some without another time."""
    rng = np.random.default_rng((seed, count))
    groups = torch.from_numpy(rng.integers(0, count, count))
    return allowed_pairs(groups, torch.from_numpy(rng.random(count) < 0.7) if wide else None)


def scores_for(positive: Tensor, seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(positive.shape, dtype=torch.float64, generator=generator)


def gradient(loss: Tensor, scores: Tensor) -> Tensor:
    return torch.autograd.grad(loss, scores)[0]


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


# Slow opinions


def slow_match(scores: Tensor, positive: Tensor, negative: Tensor) -> tuple[float, Tensor]:
    """The loss, and how it changes with each score."""
    pairs = [(b, m) for b in range(scores.shape[0]) for m in range(scores.shape[1])]
    right, wrong = [p for p in pairs if positive[p]], [p for p in pairs if negative[p]]
    halves = 2 if wrong else 1
    scores = scores.detach()
    loss, slope = 0.0, torch.zeros_like(scores)
    for pair in right:
        p = sigmoid(float(scores[pair]))
        loss -= math.log(p) / len(right) / halves
        slope[pair] += (p - 1) / len(right) / halves
    for pair in wrong:
        p = sigmoid(float(scores[pair]))
        loss -= math.log(1 - p) / len(wrong) / halves
        slope[pair] += p / len(wrong) / halves
    return loss, slope


def slow_contrastive(scores: Tensor, positive: Tensor, negative: Tensor) -> tuple[float, Tensor]:
    """The loss, and how it changes with each score: for each clip, then for each clip's own frames."""
    count, width = scores.shape
    scores = scores.detach()
    loss, slope = 0.0, torch.zeros_like(scores)
    rows = [[(b, m) for m in range(width)] for b in range(count)]
    columns = [[(b, m) for b in range(count)] for m in range(count)]
    for number, pairs in [*enumerate(rows), *enumerate(columns)]:
        used = [pair for pair in pairs if positive[pair] or negative[pair]]
        total = sum(math.exp(float(scores[pair])) for pair in used)
        loss -= math.log(math.exp(float(scores[number, number])) / total) / count / 2
        for pair in used:
            slope[pair] += (math.exp(float(scores[pair])) / total - (pair == (number, number))) / count / 2
    return loss, slope


@pytest.mark.parametrize(("count", "wide"), SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_match_equals_a_loop(seed: int, count: int, wide: bool) -> None:
    positive, negative = masks(seed, count, wide)
    scores = scores_for(positive, seed).requires_grad_()
    want, slope = slow_match(scores, positive, negative)
    got = match_loss(scores, positive, negative)
    assert float(got.detach()) == pytest.approx(want, rel=1e-12)
    torch.testing.assert_close(gradient(got, scores), slope)


@pytest.mark.parametrize(("count", "wide"), SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_contrastive_equals_a_loop(seed: int, count: int, wide: bool) -> None:
    positive, negative = masks(seed, count, wide)
    scores = scores_for(positive, seed).requires_grad_()
    want, slope = slow_contrastive(scores, positive, negative)
    got = contrastive_loss(scores, positive, negative)
    assert float(got.detach()) == pytest.approx(want, rel=1e-12, abs=1e-15)
    torch.testing.assert_close(gradient(got, scores), slope)


# Properties of every loss


@pytest.mark.parametrize("loss", [match_loss, contrastive_loss])
@pytest.mark.parametrize("seed", range(4))
def test_pairs_that_are_not_used_change_nothing(loss: Loss, seed: int) -> None:
    positive, negative = masks(seed, 8, True)
    unused = ~(positive | negative)
    assert unused[:, :8].any()
    assert unused[:, 8:].any()
    scores = scores_for(positive, seed)
    changed = scores.masked_fill(unused, 1e4).requires_grad_()
    got = loss(changed, positive, negative)
    assert float(got.detach()) == pytest.approx(float(loss(scores, positive, negative)), rel=1e-12)
    assert not gradient(got, changed)[unused].any()


def test_negatives_weigh_as_much_as_positives_however_many_they_are() -> None:
    groups = torch.arange(6)
    positive, negative = allowed_pairs(groups, None)
    scores = torch.where(positive, 1.0, -2.0).double().requires_grad_()
    few = torch.zeros_like(negative)
    few[0, 1] = True
    losses = [match_loss(scores, positive, chosen) for chosen in (negative, few)]
    want = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))) / 2
    for loss in losses:
        assert float(loss.detach()) == pytest.approx(want)
        slope = gradient(loss, scores)
        assert float(slope[negative].sum()) == pytest.approx(sigmoid(-2) / 2)
        assert float(slope[positive].sum()) == pytest.approx((sigmoid(1) - 1) / 2)


@pytest.mark.parametrize("wide", [False, True])
def test_a_batch_without_negatives_teaches_by_its_positives_only(wide: bool) -> None:
    none = torch.zeros(3, dtype=torch.bool) if wide else None
    positive, negative = allowed_pairs(torch.zeros(3, dtype=torch.int64), none)
    assert not negative.any()
    scores = scores_for(positive, 0).requires_grad_()
    matched = match_loss(scores, positive, negative)
    right = scores.detach().diagonal().tolist()
    assert float(matched.detach()) == pytest.approx(np.mean([math.log(1 + math.exp(-s)) for s in right]))
    loss = contrastive_loss(scores, positive, negative)
    assert float(loss.detach()) == 0
    assert not gradient(loss, scores).any(), "nothing to be told apart from: no gradient, and no NaN"
    rng = np.random.default_rng(0)
    drawn = transfer_loss({"match": scores}, positive, negative, pairs=PairConfig(), rng=rng)
    assert float(drawn.detach()) == float(matched.detach())


def test_an_indistinguishable_clip_costs_the_log_of_its_choices() -> None:
    other = torch.tensor([True, True, False, True])
    positive, negative = allowed_pairs(torch.tensor([0, 1, 1, 2]), other)
    # 4 + 4 sets of frames less those of the same source, and of a time that there is not.
    choices, clips = [7, 6, 5, 7], [4, 3, 3, 4]
    want = np.mean(np.log(choices)) / 2 + np.mean(np.log(clips)) / 2
    got = contrastive_loss(torch.full((4, 8), 0.7), positive, negative)
    assert float(got) == pytest.approx(want, rel=1e-6)


def test_only_differences_of_scores_count_in_contrastive() -> None:
    positive, negative = masks(0, 8, True)
    scores = scores_for(positive, 0)
    want = float(contrastive_loss(scores, positive, negative))
    for shift in (-1000, 1000):
        assert float(contrastive_loss(scores + shift, positive, negative)) == pytest.approx(want)


@pytest.mark.parametrize(("loss", "most"), [(match_loss, 500), (contrastive_loss, 1000)])
def test_scores_that_are_very_sure_give_finite_losses(loss: Loss, most: float) -> None:
    positive, negative = allowed_pairs(torch.arange(5), torch.ones(5, dtype=torch.bool))
    for sure, want in ((500.0, 0.0), (-500.0, most)):
        scores = torch.where(positive, sure, -sure).requires_grad_()
        got = loss(scores, positive, negative)
        assert float(got.detach()) == pytest.approx(want, rel=0.01, abs=1e-6)
        assert torch.isfinite(gradient(got, scores)).all()


# One negative of each clip


@pytest.mark.parametrize(("count", "wide"), SHAPES)
def test_one_allowed_negative_of_each_clip_that_has_any(count: int, wide: bool) -> None:
    rng = np.random.default_rng(0)
    for seed in range(40):
        _, negative = masks(seed, count, wide)
        before = negative.clone()
        got = draw_one(negative, rng)
        assert got.dtype == torch.bool
        assert got.shape == negative.shape
        assert torch.equal(negative, before)
        assert not (got & ~negative).any()
        assert got.sum(1).tolist() == negative.any(1).long().tolist()


def drawn(negative: Tensor, times: int) -> np.ndarray:
    """Count how often each pair was kept."""
    rng = np.random.default_rng(3)
    return np.sum([draw_one(negative, rng).numpy() for _ in range(times)], 0)


def test_every_other_video_is_equally_likely() -> None:
    _, negative = allowed_pairs(torch.tensor([0, 1, 1, 2, 3, 3, 3]), None)
    counts = drawn(negative, 2000)
    assert not counts[~negative.numpy()].any()
    for row, allowed in enumerate(negative.numpy()):
        assert stats.chisquare(counts[row, allowed]).pvalue > 0.001


def test_every_second_negative_is_another_time_where_there_is_one() -> None:
    groups, count = torch.tensor([0, 1, 1, 2, 3, 3, 3]), 7
    other = torch.tensor([True, False, True, True, False, True, True])
    _, negative = allowed_pairs(groups, other)
    counts = drawn(negative, 2000)
    assert not counts[~negative.numpy()].any()
    for row in range(count):
        hard = int(counts[row, count + row])
        if other[row]:
            assert stats.binomtest(hard, 2000).pvalue > 0.001
        else:
            assert hard == 0
        counts[row, count + row] = 0
        videos = counts[row, :count] + counts[row, count:]  # whichever time of another video it is
        assert not videos[(groups == groups[row]).numpy()].any()
        assert stats.chisquare(videos[(groups != groups[row]).numpy()]).pvalue > 0.001


def test_another_time_is_taken_always_where_there_is_nothing_else() -> None:
    _, negative = allowed_pairs(torch.zeros(3, dtype=torch.int64), torch.tensor([True, False, True]))
    for seed in range(20):
        got = draw_one(negative, np.random.default_rng(seed))
        assert got.nonzero().tolist() == [[0, 3], [2, 5]]


def test_draws_follow_from_their_generator_alone() -> None:
    _, negative = allowed_pairs(torch.arange(16), torch.ones(16, dtype=torch.bool))
    first = draw_one(negative, np.random.default_rng(5))
    assert torch.equal(first, draw_one(negative, np.random.default_rng(5)))
    assert not torch.equal(first, draw_one(negative, np.random.default_rng(6)))


def test_draws_are_pinned() -> None:
    _, negative = allowed_pairs(torch.tensor([0, 1, 1, 2, 3]), torch.ones(5, dtype=torch.bool))
    got = [draw_one(negative, np.random.default_rng(seed)).nonzero()[:, 1].tolist() for seed in (5, 6)]
    assert got == [[1, 4, 7, 8, 9], [3, 6, 7, 1, 1]]


# The loss of a batch


@pytest.mark.parametrize(("count", "wide"), SHAPES)
@pytest.mark.parametrize("seed", range(2))
def test_the_loss_is_the_sum_over_the_objectives(seed: int, count: int, wide: bool) -> None:
    positive, negative = masks(seed, count, wide)
    tables = {name: scores_for(positive, at + 9) for at, name in enumerate(("match", "contrastive"))}
    tables["regress"] = scores_for(positive, 11, 0.3).requires_grad_()
    parts = {
        "match": slow_match(tables["match"], positive, negative)[0],
        "contrastive": slow_contrastive(tables["contrastive"], positive, negative)[0],
        "regress": 1 - sum(tables["regress"].detach().diagonal().tolist()) / count,
    }
    for names in (["match"], ["contrastive"], ["regress"], ["regress", "match", "contrastive"]):
        got = transfer_loss({name: tables[name] for name in names}, positive, negative, pairs=ALL)
        assert got.shape == ()
        assert float(got.detach()) == pytest.approx(sum(parts[name] for name in names), rel=1e-12, abs=1e-15)
    slope = gradient(transfer_loss(tables, positive, negative, pairs=ALL), tables["regress"])
    torch.testing.assert_close(slope, -positive.double() / count)


def test_without_a_generator_all_negatives_count_and_with_all_it_is_not_asked() -> None:
    positive, negative = masks(0, 8, True)
    tables = {"match": scores_for(positive, 0)}
    want = slow_match(tables["match"], positive, negative)[0]
    one, all_ = PairConfig(negatives="one"), PairConfig(negatives="all")
    rng = np.random.default_rng(0)
    assert float(transfer_loss(tables, positive, negative, pairs=one)) == pytest.approx(want)
    assert float(transfer_loss(tables, positive, negative, pairs=all_, rng=rng)) == pytest.approx(want)


def test_match_learns_from_one_drawn_negative_a_clip_and_contrastive_from_all() -> None:
    positive, negative = masks(0, 8, True)
    match = scores_for(positive, 0).requires_grad_()
    contrastive = scores_for(positive, 1).requires_grad_()
    want_all = slow_contrastive(contrastive, positive, negative)[0]
    seen = torch.zeros_like(negative)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        tables = {"match": match, "contrastive": contrastive}
        loss = transfer_loss(tables, positive, negative, pairs=PairConfig("sum"), rng=rng)
        slope = torch.autograd.grad(loss, [match, contrastive])
        chosen = (slope[0] != 0) & ~positive
        assert (slope[0][positive] < 0).all()
        assert chosen.sum(1).tolist() == negative.any(1).long().tolist()
        assert not (chosen & ~negative).any()
        want = slow_match(match, positive, chosen)[0] + want_all
        assert float(loss.detach()) == pytest.approx(want, rel=1e-12)
        torch.testing.assert_close(slope[1], slow_contrastive(contrastive, positive, negative)[1])
        seen |= chosen
    assert seen[:, :8].equal(negative[:, :8]), "each other video has its turn"
    assert seen[:, 8:].diagonal().equal(negative[:, 8:].diagonal())
