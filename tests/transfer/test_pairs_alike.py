"""Batch statistics do not tell positive from negative pairs; what the frames or the clip alone can tell."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from t3d.clip import ClipSpec
from t3d.models.registry import create_model
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.dataset import PairBatch
from t3d.transfer.metrics import PairMetrics
from t3d.transfer.objectives import draw_one
from t3d.transfer.pairs import allowed_pairs
from t3d.transfer.step import TransferStep
from t3d.transfer.student import TransferNet

CLIPS, FEATURES = 6, 12
EVERY = torch.ones(CLIPS, dtype=torch.bool)
ALONE = torch.arange(CLIPS)  # each video is its own group
kinds = pytest.mark.parametrize("other", [None, EVERY], ids=["videos", "other_time"])


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture
def net() -> Iterator[TransferNet]:
    """A student with BatchNorm and all heads, in training mode."""
    options = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = create_model("densenet3d_tiny", num_classes=0, options=options)
        yield TransferNet(student, FEATURES, PairConfig("sum")).train()


def inputs(sets: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(CLIPS, 3, 4, 24, 24, generator=generator)
    return clips, torch.randn(sets, FEATURES, generator=generator) * torch.logspace(-1, 1, FEATURES)


@torch.no_grad()
def scored(net: TransferNet, *inputs: Tensor) -> dict[str, Tensor]:
    """The scores in training mode; the running statistics of the net stay."""
    return copy.deepcopy(net)(*inputs)


@pytest.mark.parametrize("sets", [CLIPS, 2 * CLIPS])
def test_the_place_of_a_set_of_frames_changes_no_score(net: TransferNet, sets: int) -> None:
    """The place decides what a pair is: positive, negative, or a negative of another time."""
    clips, frames = inputs(sets)
    scores = scored(net, clips, frames)
    moved = torch.randperm(sets, generator=torch.Generator().manual_seed(2))
    if sets > CLIPS:  # frames of another time become those of the clip, and the other way around
        assert ((moved < CLIPS) != (torch.arange(sets) < CLIPS)).any()
    for name, table in scored(net, clips, frames[moved]).items():
        assert table.std() > 1e-3  # else anything would agree
        torch.testing.assert_close(table, scores[name][:, moved], rtol=1e-4, atol=1e-5)


@kinds
def test_which_pairs_count_changes_no_score(net: TransferNet, other: Tensor | None) -> None:
    config = TransferConfig(
        out="run",
        data=PoolConfig(videos="videos"),
        clip=ClipSpec(num_frames=4, stride=1, size=24, resize=24),
        teacher=TeacherConfig(name="x", frames=1),
        pairs=PairConfig("sum"),
        precision="fp32",
    )
    _, frames = inputs(CLIPS if other is None else 2 * CLIPS)
    pixels = torch.randint(0, 256, (CLIPS, 4, 3, 24, 24), generator=torch.Generator().manual_seed(3)).byte()
    batch = PairBatch(pixels, frames[:, None], other, torch.arange(CLIPS), ())
    step = TransferStep(config, Accelerator(cpu=True).device, teacher=None, groups=ALONE)
    tables, masks = [], []
    for groups in (ALONE, ALONE // 3):
        with torch.no_grad():
            scores, positive, negative = step.score(copy.deepcopy(net), batch, groups)
        tables.append(scores)
        masks.append((positive, negative))
    assert not torch.equal(masks[0][1], masks[1][1])
    for name, table in tables[0].items():
        assert torch.equal(table, tables[1][name])


def auc(table: Tensor, positive: Tensor, negative: Tensor) -> dict[str, Any]:
    metrics = PairMetrics(threshold=None)
    metrics.add(table, positive, negative)
    return metrics.figures()


@kinds
def test_the_clip_alone_tells_nothing(other: Tensor | None) -> None:
    positive, negative = allowed_pairs(ALONE, other)
    of_clip = torch.randn(CLIPS, 1).expand(-1, positive.shape[1])
    assert auc(of_clip, positive, negative)["auc"] == pytest.approx(0.5)
    drawn = draw_one(negative, np.random.default_rng(0))
    assert auc(of_clip, positive, drawn)["auc"] == pytest.approx(0.5)


def test_the_frames_alone_tell_nothing_among_other_videos() -> None:
    positive, negative = allowed_pairs(ALONE, None)
    of_frames = torch.randn(1, CLIPS).expand(CLIPS, -1)
    assert auc(of_frames, positive, negative)["auc"] == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    counts = sum(draw_one(negative, rng).sum(0) for _ in range(600))
    torch.testing.assert_close(counts / 600, torch.ones(CLIPS), rtol=0, atol=0.15)  # as often as positive


def test_frames_of_another_time_are_never_positive() -> None:
    """Frames alone can therefore tell something, if other times look different: near the ends of videos."""
    positive, negative = allowed_pairs(ALONE, EVERY)
    assert not positive[:, CLIPS:].any()
    of_frames = (torch.arange(2 * CLIPS) < CLIPS).float().expand(CLIPS, -1)
    figures = auc(of_frames, positive, negative)
    assert figures["auc_other_time"] == 1
