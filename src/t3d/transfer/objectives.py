"""Objectives: losses of the scores of a batch's pairs.

Legend: B clips, M sets of frames; scores and masks are [B, M], the positive pairs lie on the diagonal.
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
) -> Tensor:
    """The loss of a batch: the sum over the objectives that gave scores.

    Args:
        scores: By objective, see `TransferNet`.
        positive: Pairs that belong together, bool [B, M].
        negative: Pairs that certainly do not.
        pairs: Which negatives count.
        rng: Draws the negatives of `match`; None takes all, whatever `pairs.negatives` says.

    Returns:
        A number.
    """
    losses = []
    for name, table in scores.items():
        if name == "match":
            chosen = negative if rng is None or pairs.negatives == "all" else draw_one(negative, rng)
            losses.append(match_loss(table, positive, chosen))
        elif name == "contrastive":
            losses.append(contrastive_loss(table, positive, negative))
        else:
            losses.append(1 - table[positive].mean())
    return torch.stack(losses).sum()


def draw_one(negative: Tensor, rng: np.random.Generator) -> Tensor:
    """Keep one negative of each clip, each equally likely; frames of another time in every second draw.

    Args:
        negative: bool [B, M]; M is 2 B where frames of another time were asked for.
        rng: Where the draws come from.

    Returns:
        bool [B, M], at most one per row.
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
    """Binary cross-entropy; positives and negatives weigh the same however many they are.

    Args:
        scores: Logits.
        positive: Pairs that belong together.
        negative: Pairs that do not; where there is none, the positives count alone.
    """
    loss = F.softplus(-scores[positive]).mean()
    if not negative.any():
        return loss
    return (loss + F.softplus(scores[negative]).mean()) / 2


def contrastive_loss(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """InfoNCE both ways: the right frames among all for a clip, the right clip among all for frames.

    (Oord et al. 2018; both ways as in CLIP, Radford et al. 2021.)

    Args:
        scores: Cosines over temperature.
        positive: Pairs that belong together.
        negative: The pairs they are told apart from.
    """
    count = len(scores)
    masked = scores.masked_fill(~(positive | negative), float("-inf"))
    which = torch.arange(count, device=scores.device)
    return (F.cross_entropy(masked, which) + F.cross_entropy(masked[:, :count].T, which)) / 2
