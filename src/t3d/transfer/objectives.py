"""Losses on the scores of a batch's pairs.

Legend: B clips, M sets of frames. Scores and masks are [B, M]. The positive pairs are on the diagonal.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from t3d.transfer.config import PairConfig


def transfer_loss(
    scores: dict[str, Tensor],
    positive: Tensor,
    negative: Tensor,
    *,
    pairs: PairConfig,
    rng: np.random.Generator | None = None,
    targets: Tensor | None = None,
    pairs_weight: float = 1.0,
) -> Tensor:
    """Return the loss of a batch, summed over the objectives with scores.

    Args:
        scores: Scores by name, see `TransferNet`.
        positive: Pairs that belong together, bool [B, M].
        negative: Pairs that certainly do not belong together, bool [B, M].
        pairs: Options of the objective, which select the negatives.
        rng: Random generator that draws the negatives of `match`. None uses all negatives and ignores
            `pairs.negatives`.
        targets: Class probabilities of the clips, float32 [B, K], if the student has a classifier.
        pairs_weight: Weight of the objectives on pairs; the cross-entropy with `targets` has weight 1.

    Returns:
        Scalar loss.
    """
    losses = []
    for name, table in scores.items():
        if name == "match":
            chosen = negative if rng is None or pairs.negatives == "all" else draw_one(negative, rng)
            losses.append(match_loss(table, positive, chosen))
        elif name == "contrastive":
            losses.append(contrastive_loss(table, positive, negative))
        elif name == "regress":
            losses.append(1 - table[positive].mean())
    loss = torch.stack(losses).sum()
    if targets is None:
        return loss
    return pairs_weight * loss + F.cross_entropy(scores["classes"], targets)


def draw_one(negative: Tensor, rng: np.random.Generator) -> Tensor:
    """Keep one random negative per clip. Half of the draws take frames of another time, if there are any.

    Args:
        negative: Negative pairs, bool [B, M]. M is 2 B with frames of another time.
        rng: Random generator.

    Returns:
        Mask, bool [B, M], with at most one pair per row.
    """
    rows = negative.cpu().numpy()
    count = len(rows)
    kept = np.zeros_like(rows)
    for row, allowed in enumerate(rows):
        own = count + row  # the same video, another time
        hard = own < len(allowed) and allowed[own] and rng.random() < 0.5
        choices = np.flatnonzero(allowed[:count])
        if hard or (not len(choices) and own < len(allowed) and allowed[own]):
            kept[row, own] = True
        elif len(choices):
            kept[row, rng.choice(choices)] = True
    return torch.from_numpy(kept).to(negative.device)


def match_loss(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the binary cross-entropy, with the same total weight for positives and negatives.

    Args:
        scores: Logits.
        positive: Pairs that belong together.
        negative: Pairs that do not. If there are none, only the positives count.
    """
    loss = F.softplus(-scores[positive]).mean()
    if not negative.any():
        return loss
    return (loss + F.softplus(scores[negative]).mean()) / 2


def contrastive_loss(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the InfoNCE loss in both directions: frames of a clip, and clip of the frames.

    (Oord et al. 2018; both directions as in CLIP, Radford et al. 2021.)

    Args:
        scores: Cosines over temperature.
        positive: Pairs that belong together.
        negative: Pairs to distinguish them from.
    """
    count = len(scores)
    masked = scores.masked_fill(~(positive | negative), float("-inf"))
    target = torch.arange(count, device=scores.device)
    return (F.cross_entropy(masked, target) + F.cross_entropy(masked[:, :count].T, target)) / 2
