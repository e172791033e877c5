"""Validation of a transfer where held-out videos cannot be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from t3d.errors import Failed, ManifestError
from t3d.transfer.config import PairConfig
from t3d.transfer.held_out import HeldOut
from t3d.transfer.step import TransferStep

GONE = Failed("gone.mp4", "no such file", 2)


class Scores:
    """Scores of two clips and their frames, like those of a step: each clip is nearest its own frames."""

    config = SimpleNamespace(pairs=PairConfig("regress"))

    def score(self, *_: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        own = torch.eye(2, dtype=torch.bool)
        return {"regress": torch.eye(2)}, own, ~own

    def total(self, *_: Any, **__: Any) -> torch.Tensor:
        return torch.tensor(0.5)


def held_out(*batches: Any) -> HeldOut:
    validation = HeldOut.__new__(HeldOut)
    validation.step = cast(TransferStep, Scores())
    validation.groups = torch.arange(2)
    validation.targets = None
    validation.bad = []
    validation.loader = cast(Any, batches)
    return validation


def test_unreadable_videos_are_reported_and_the_others_measured() -> None:
    read = SimpleNamespace(frames=torch.zeros(2), bad=(GONE,))
    unread = SimpleNamespace(frames=None, bad=(GONE,))
    validation = held_out(read, unread)
    figures = validation.measure(nn.Identity())
    assert figures["auc"] == 1.0
    assert validation.bad == [GONE, GONE]
    validation.measure(nn.Identity())
    assert validation.bad == [GONE, GONE]  # of the last time alone


def test_no_readable_video_is_an_error_and_no_perfect_loss() -> None:
    validation = held_out(SimpleNamespace(frames=None, bad=(GONE,)))
    with pytest.raises(ManifestError, match=r"none of the held-out .* read:\n  gone\.mp4: no such file"):
        validation.measure(nn.Identity())
