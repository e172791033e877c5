"""Recomputing in the backward pass: the same to the bit, and less is kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t3d.models import VideoNet, create_model

NETS: dict[str, dict[str, object]] = {
    "resnet3d18": {"width": 0.125},
    "resnet3d50_ttl": {
        "width": 0.125,
        "block_config": [1, 2, 1, 1],
        "ttl_channels": 4,
        "ttl_shortcut": False,
    },
    "r2plus1d18": {"width": 0.125},
    "inception3d": {"width": 0.125},
    "c3d": {"width": 0.125},
}

pytestmark = pytest.mark.filterwarnings("ignore:a TTL looks at")


def train_twice(net: VideoNet, x: Tensor) -> list[Tensor]:
    """Outputs, gradients and buffers of two training steps."""
    torch.manual_seed(3)
    outputs = []
    for clip, label in ((x, [0, 1]), (x.flip(2), [1, 2])):
        outputs.append(net(clip))
        F.cross_entropy(outputs[-1], torch.tensor(label)).backward()
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter -= 0.01 * parameter.grad
    return [*outputs, *(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()]


def kept_bytes(net: VideoNet, x: Tensor) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x)
    return sum(tensor.nbytes for tensor in kept.values())


@pytest.mark.parametrize("name", NETS)
def test_it_changes_no_bit(name: str) -> None:
    torch.manual_seed(0)
    plain, lean = (create_model(name, num_classes=3, options=NETS[name]) for _ in range(2))
    lean.load_state_dict(plain.state_dict())
    lean.set_grad_checkpointing()
    x = torch.randn(2, 3, 8, 32, 32)
    expected, got = train_twice(plain, x), train_twice(lean, x)
    assert len(expected) == len(got)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))


@pytest.mark.parametrize("name", NETS)
def test_it_keeps_less(name: str) -> None:
    net = create_model(name, num_classes=3, options=NETS[name])
    x = torch.randn(2, 3, 8, 64, 64)
    plain = kept_bytes(net, x)
    net.set_grad_checkpointing()
    assert kept_bytes(net, x) < 0.8 * plain
    net.set_grad_checkpointing(False)
    assert kept_bytes(net, x) == plain
