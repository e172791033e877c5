"""Metrics of scored pairs, in total and per kind of negative."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]

_BY_KIND = ("auc", "accuracy", "precision")


class PairMetrics:
    """Collection of pair scores that computes metrics.

    Legend: B clips, M sets of frames, see `t3d.transfer.pairs`.

    Args:
        threshold: Score above which a pair is predicted to belong together. None if scores have no such
            value (`contrastive`, `regress`) and only their order counts.

    Example:
        >>> metrics = PairMetrics(threshold=0.0)
        >>> own = torch.eye(2, dtype=torch.bool)
        >>> metrics.add(torch.tensor([[3.0, -1.0], [2.0, 1.0]]), own, ~own)
        >>> metrics.figures()["accuracy"], metrics.figures()["auc"], metrics.figures()["top1"]
        (0.75, 0.75, 0.5)
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self._positive: list[Floats] = []
        self._negative: dict[str, list[Floats]] = {"other_video": [], "other_time": []}
        self._top1: list[Floats] = []
        self._chance: list[Floats] = []

    def add(self, scores: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> None:
        """Add the scores of a batch.

        Args:
            scores: float [B, M].
            positive: Pairs that belong together, bool [B, M].
            negative: Pairs that do not belong together, bool [B, M].
        """
        table = scores.detach().double().cpu().numpy()
        own, apart = positive.cpu().numpy(), negative.cpu().numpy()
        time = np.zeros_like(own)
        count = len(table)
        if table.shape[1] > count:
            time[:, count:] = np.eye(count, dtype=bool)
        self._positive.append(table[own])
        self._negative["other_video"].append(table[apart & ~time])
        self._negative["other_time"].append(table[apart & time])
        rival = np.where(apart, table, -np.inf).max(1)
        has_rival = np.isfinite(rival)
        self._top1.append((table[own] > rival)[has_rival].astype(np.float64))
        self._chance.append(1 / (1 + apart.sum(1)[has_rival]))

    def figures(self) -> dict[str, float]:
        """Return the metrics. Metrics without any pair are left out.

        Returns:
            - `auc`: probability that a true pair scores above a false one. Ties count as half.
            - `top1`: share of true pairs that score above all false pairs of their clip in the batch;
              `top1_chance`: the same for random scores; `clips`: number of clips.
            - With a threshold also `accuracy`, `precision` and `recall`. False pairs have the same total
              weight as true pairs, so that guessing gives 0.5.

            With two kinds of negatives, `auc`, `accuracy` and `precision` are also given per kind. `recall`
            depends on true pairs only.
        """
        if not self._positive:
            return {}
        right = np.concatenate(self._positive)
        kinds = {kind: np.concatenate(parts) for kind, parts in self._negative.items() if parts}
        kinds = {kind: scores for kind, scores in kinds.items() if len(scores)}
        if not len(right) or not kinds:
            return {}
        figures = self._of(right, np.concatenate(list(kinds.values())))
        figures["top1"] = float(np.concatenate(self._top1).mean())
        figures["top1_chance"] = float(np.concatenate(self._chance).mean())
        figures["clips"] = len(right)
        if "other_time" in kinds:
            for kind, scores in kinds.items():
                one = self._of(right, scores)
                figures |= {f"{name}_{kind}": one[name] for name in _BY_KIND if name in one}
        return figures

    def _of(self, right: Floats, wrong: Floats) -> dict[str, float]:
        ordered = np.sort(wrong)
        below = np.searchsorted(ordered, right, "left") + np.searchsorted(ordered, right, "right")
        figures = {"auc": float(below.mean() / 2 / len(wrong))}
        if self.threshold is not None:
            hit, false = float((right > self.threshold).mean()), float((wrong > self.threshold).mean())
            figures["accuracy"] = (hit + 1 - false) / 2
            figures["precision"] = hit / (hit + false) if hit + false else 0.0
            figures["recall"] = hit
        return figures


def held_out_text(figures: Mapping[str, float]) -> str:
    """Return the metrics of held-out pairs in words, next to those of random scores.

    Args:
        figures: The loss, and the metrics of `PairMetrics.figures`.

    Example:
        >>> held_out_text({"loss": 0.5, "auc": 0.9, "top1": 0.25, "top1_chance": 0.125, "clips": 8})
        'loss 0.500  AUC 0.900 (chance 0.5)  top-1 25.0% of 8 clips (chance 12.5%)'
    """
    parts = [f"loss {figures['loss']:.3f}"]
    if "accuracy" in figures:
        parts.append(f"accuracy {figures['accuracy']:.1%} (chance 50.0%)")
    if "auc" in figures:
        parts.append(f"AUC {figures['auc']:.3f} (chance 0.5)")
        chance = figures["top1_chance"]
        parts.append(f"top-1 {figures['top1']:.1%} of {figures['clips']:,} clips (chance {chance:.1%})")
    if "agreement" in figures:
        parts.append(f"same class as the teacher {figures['agreement']:.1%}")
    return "  ".join(parts)
