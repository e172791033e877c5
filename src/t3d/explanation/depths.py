"""Contribution of each temporal depth to a decision: that of each TTL branch to the score of a class.

A branch is switched off by setting its output to zero. For each Temporal Transition Layer (TTL), the score is
computed with every selection of its branches switched on, while all other layers stay whole. The contribution
of a branch is its Shapley value: the mean change of the score when the branch is switched on, over all orders
of switching on the branches of the layer. So the contributions of a layer sum to the score of the network
minus its score without this layer, and a branch whose output is zero contributes nothing.

Layers with more than 5 branches have too many selections. There, the contribution is the gradient of the
score with respect to the branch's gate, averaged while all gates of the layer rise from 0 to 1 together
(Aumann-Shapley). The sum is the same, up to the error of the average over 8 points.

`benchmarks/explain_depths.py` compares both with the effect of switching off single branches.

Legend: J branches, N branches of a layer, G settings of gates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from t3d.explanation.gates import Branch, by_stage, gated

Scores = Callable[[int], Tensor]
"""Computes the score of a class for a clip in each of the settings of the gates, [G]. Its argument is G."""
MOST_SELECTED = 5
"""Largest number of branches of a layer whose selections are all computed."""
_NODES = 8  # points of the path, Gauss-Legendre quadrature
_TOGETHER = 8  # settings that are computed together


@dataclass(frozen=True)
class DepthShare:
    """Contribution of one temporal depth to a decision.

    Args:
        stage: Layer of the network, see `Branch.stage`.
        depth: Temporal depth of the branch, in time steps of the layer's map.
        contribution: Part of the class's score (before softmax or sigmoid). Negative: it speaks against the
            class.
        share: The contribution divided by the sum of the absolute contributions of the layer, from -1 to 1.
    """

    stage: str
    depth: int
    contribution: float
    share: float


def depth_shares(
    branches: Sequence[Branch | DepthShare], contributions: Sequence[float]
) -> tuple[DepthShare, ...]:
    """Return contributions with their shares within each layer.

    Args:
        branches: The branches, J.
        contributions: Their contributions, J.
    """
    totals: dict[str, float] = {}
    for each, value in zip(branches, contributions, strict=True):
        totals[each.stage] = totals.get(each.stage, 0.0) + abs(value)
    return tuple(
        DepthShare(each.stage, each.depth, value, value / totals[each.stage] if totals[each.stage] else 0.0)
        for each, value in zip(branches, contributions, strict=True)
    )


def mean_depths(parts: Sequence[Sequence[DepthShare]]) -> tuple[DepthShare, ...]:
    """Return the mean contribution of each branch, and its share of the means of its layer.

    Args:
        parts: Contributions for clips or videos, all of one network.
    """
    if not parts:
        return ()
    values = np.mean([[each.contribution for each in part] for part in parts], axis=0)
    return depth_shares(parts[0], [float(value) for value in values])


def contributions_of(scores: Scores, branches: Sequence[Branch]) -> list[float]:
    """Return the contribution of each branch to a score, J. See the top of this module.

    Args:
        scores: The score, computed by the network that the branches belong to.
        branches: The branches, J.
    """
    result = [0.0] * len(branches)
    for numbers in by_stage(branches).values():
        layer = [branches[number] for number in numbers]
        values = shapley_values(scores, layer) if len(layer) <= MOST_SELECTED else path_values(scores, layer)
        for number, value in zip(numbers, values, strict=True):
            result[number] = value
    return result


def shapley_values(scores: Scores, layer: Sequence[Branch]) -> list[float]:
    """Return the Shapley value of each branch of a layer, N.

    Args:
        scores: See `contributions_of`.
        layer: The branches, N.
    """
    selections = list(itertools.product((0, 1), repeat=len(layer)))
    values = dict(zip(selections, gated_scores(scores, layer, selections), strict=True))
    return [_shapley(values, number) for number in range(len(layer))]


def _shapley(values: Mapping[tuple[int, ...], float], number: int) -> float:
    count = len(next(iter(values)))
    total = 0.0
    for selection, value in values.items():
        if selection[number]:
            without = values[*selection[:number], 0, *selection[number + 1 :]]
            others = sum(selection) - 1
            orders = math.factorial(others) * math.factorial(count - others - 1) / math.factorial(count)
            total += orders * (value - without)
    return total


def path_values(
    scores: Scores, layer: Sequence[Branch], places: Sequence[float] | None = None
) -> list[float]:
    """Return the gradient of a score with respect to each gate, averaged over a path of all gates, N.

    Args:
        scores: See `contributions_of`.
        layer: The branches whose gates rise together, N.
        places: Points of the path, from 0 to 1, that are averaged with equal weights. Default: 8 points of
            Gauss-Legendre quadrature.
    """
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    points, weights = (points + 1) / 2, weights / 2
    if places is not None:
        points, weights = np.array(places), np.full(len(places), 1 / len(places))
    total = np.zeros(len(layer))
    for place, weight in zip(points, weights, strict=True):
        gates = torch.full((1, len(layer)), float(place), device=_device(layer)).requires_grad_()
        with torch.enable_grad(), gated(layer, gates):
            (gradient,) = torch.autograd.grad(scores(1).sum(), gates)
        total += weight * gradient[0].double().cpu().numpy()
    return [float(each) for each in total]


@torch.no_grad()
def gated_scores(scores: Scores, layer: Sequence[Branch], settings: Sequence[Sequence[float]]) -> list[float]:
    """Return the score in each setting of the gates of a layer, G.

    Args:
        scores: See `contributions_of`.
        layer: The branches, N.
        settings: Gate of each branch in each setting, G × N.
    """
    result: list[float] = []
    for first in range(0, len(settings), _TOGETHER):
        some = settings[first : first + _TOGETHER]
        with gated(layer, torch.tensor(some, dtype=torch.float32, device=_device(layer))):
            result += scores(len(some)).double().tolist()
    return result


def ablation_drops(scores: Scores, branches: Sequence[Branch]) -> list[float]:
    """Return by how much a score falls if a single branch is switched off, for each branch, J.

    Args:
        scores: See `contributions_of`.
        branches: The branches, J.
    """
    drops = [0.0] * len(branches)
    for numbers in by_stage(branches).values():
        layer = [branches[number] for number in numbers]
        settings = [[1.0] * len(layer), *(1.0 - np.eye(len(layer))).tolist()]
        whole, *without = gated_scores(scores, layer, settings)
        for number, value in zip(numbers, without, strict=True):
            drops[number] = whole - value
    return drops


def _device(layer: Sequence[Branch]) -> torch.device:
    return layer[0].module.conv.weight.device
