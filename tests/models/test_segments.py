from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from t3d.errors import ConfigError
from t3d.models import create_model
from t3d.models.segments import SegmentConsensus, with_consensus


def slow_consensus(net: nn.Module, x: Tensor, segments: int) -> Tensor:
    frames = x.shape[2] // segments
    scores = []
    for video in x:
        clips = [video[:, s * frames : (s + 1) * frames] for s in range(segments)]
        scores.append(sum(net(clip[None])[0] for clip in clips) / segments)
    return torch.stack(scores)  # type: ignore[arg-type]


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_it_equals_the_slow_one(segments: int) -> None:
    torch.manual_seed(0)
    net = create_model("t3d_tiny", num_classes=5).double().eval()
    x = torch.randn(2, 3, segments * 4, 32, 32, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last_3d)  # as batches come
    torch.testing.assert_close(SegmentConsensus(net, segments=segments)(x), slow_consensus(net, x, segments))


def test_one_segment_needs_no_consensus() -> None:
    net = nn.Identity()
    assert with_consensus(net, 1) is net
    assert isinstance(with_consensus(net, 2), SegmentConsensus)


def test_it_freezes_as_its_net_does() -> None:
    net = create_model("t3d_tiny", num_classes=5)
    net.freeze("denseblock1")
    SegmentConsensus(net, segments=2).train()
    assert not any(m.training for module in net.stages()["denseblock1"] for m in module.modules())
    assert net.get_classifier().training


def test_clips_that_cannot_be_divided() -> None:
    with pytest.raises(ConfigError, match="segments is 0"):
        SegmentConsensus(nn.Identity(), segments=0)
    net = SegmentConsensus(nn.Identity(), segments=3)
    with pytest.raises(ConfigError, match="2 × 3 × 8 × 4 × 4; a consensus of 3 segments"):
        net(torch.zeros(2, 3, 8, 4, 4))
    with pytest.raises(ConfigError, match="a consensus of 3 segments"):
        net(torch.zeros(3, 9, 4, 4))
