"""Recomputing in the backward pass: the same to the bit, and less is kept."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError
from t3d.models import VideoNet, create_model
from t3d.models.grad_checkpointing import GradCheckpointing
from t3d.models.saved_bytes import saved_bytes
from t3d.training.config import GradCheckpointing as Option

NETS: dict[str, dict[str, object]] = {
    "t3d_tiny": {"block_config": (2, 2, 3, 2), "drop_rate": 0.2},
    "densenet3d_tiny": {"block_config": (2, 2, 3, 2), "drop_rate": 0.2},
    "resnet3d18": {"width": 0.125, "drop_rate": 0.2},
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
MODES: list[GradCheckpointing] = ["layers", "blocks"]

pytestmark = pytest.mark.filterwarnings("ignore:a TTL looks at")


def train_twice(net: nn.Module, x: Tensor) -> list[Tensor]:
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


def twins(name: str) -> tuple[VideoNet, VideoNet]:
    torch.manual_seed(0)
    plain, lean = (create_model(name, num_classes=3, options=NETS[name]) for _ in range(2))
    lean.load_state_dict(plain.state_dict())
    return plain, lean


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("mode", MODES)
def test_it_changes_no_bit(name: str, mode: GradCheckpointing) -> None:
    plain, lean = twins(name)
    lean.set_grad_checkpointing(mode)
    x = torch.randn(2, 3, 8, 32, 32)
    expected, got = train_twice(plain, x), train_twice(lean, x)
    assert len(expected) == len(got)
    assert all(torch.equal(a, b) for a, b in zip(expected, got, strict=True))
    counters = [buffer for key, buffer in lean.named_buffers() if key.endswith("num_batches_tracked")]
    assert all(counter == 2 for counter in counters)
    assert plain.state_dict().keys() == lean.state_dict().keys()


@pytest.mark.parametrize("name", NETS)
def test_it_keeps_less(name: str) -> None:
    net = create_model(name, num_classes=3, options=NETS[name])
    x = torch.randn(2, 3, 8, 64, 64)
    kept = {}
    for mode in ("none", "layers", "blocks", "none"):
        net.set_grad_checkpointing(mode)
        kept[mode] = saved_bytes(net, lambda: net(x))
        assert kept["none"] >= kept[mode]
    assert kept["layers"] < 0.8 * kept["none"]
    # In C3D, a stage is a layer.
    assert kept["blocks"] < (0.8 if name == "c3d" else 0.5) * kept["none"]


@pytest.mark.parametrize("name", ["t3d121", "densenet3d121"])
@pytest.mark.parametrize(("mode", "most"), [("layers", 0.45), ("blocks", 0.1)])
def test_the_papers_networks_keep_less_than_half(name: str, mode: GradCheckpointing, most: float) -> None:
    net = create_model(name, num_classes=3)
    x = torch.randn(1, 3, 8, 64, 64)
    plain = saved_bytes(net, lambda: net(x))
    net.set_grad_checkpointing(mode)
    assert saved_bytes(net, lambda: net(x)) < most * plain


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_mode_and_frozen_stages(mode: GradCheckpointing) -> None:
    for prepare in (lambda net: net.eval(), lambda net: net.freeze("denseblock2")):
        gradients = []
        for net, chosen in zip(twins("t3d_tiny"), ("none", mode), strict=True):
            net.set_grad_checkpointing(chosen)  # type: ignore[arg-type]
            prepare(net)
            torch.manual_seed(1)
            net(torch.ones(2, 3, 8, 32, 32)).sum().backward()
            gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        assert all(torch.equal(gradient, gradients[1][key]) for key, gradient in gradients[0].items())


@pytest.mark.long
def test_a_compiled_network_recomputes() -> None:
    # `aot_eager` traces forward and backward as the default compiler does, and needs no C++ compiler.
    plain, lean = twins("resnet3d18")
    lean.set_grad_checkpointing("blocks")
    plain.eval(), lean.eval()  # dropout: a compiled graph draws other numbers
    for net in (plain, lean):
        net.layer1.train()  # type: ignore[operator, union-attr]
    x = torch.randn(2, 3, 8, 32, 32)
    expected, got = train_twice(plain, x), train_twice(torch.compile(lean, backend="aot_eager"), x)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_an_unknown_mode_is_refused_with_the_closest_one() -> None:
    net = create_model("t3d_tiny", num_classes=3)
    with pytest.raises(ConfigError, match="grad_checkpointing is 'layer'; did you mean 'layers'"):
        net.set_grad_checkpointing("layer")  # type: ignore[arg-type]


def test_the_option_of_a_run_has_the_modes_of_the_network() -> None:
    assert get_args(Option) == get_args(GradCheckpointing)


def test_saved_bytes_counts_each_storage_once() -> None:
    weight = nn.Parameter(torch.ones(8))
    model = nn.ParameterList([weight])
    x = torch.ones(8, requires_grad=True)

    def forward() -> Tensor:
        product = x * weight  # keeps x, and the weight, which exists anyway
        return (product.exp() * product[:4].sum()).sum()  # exp() keeps its result, × both factors

    assert saved_bytes(model, forward) == 8 * 4 + 8 * 4 + 4
    with torch.no_grad():
        assert saved_bytes(model, forward) == 0
