"""Contract of every registered network.

The tiny ones compute, and so do narrow ones of the families that can be narrow. The large ones tell their
shapes on the meta device, and compute in the slow tests.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from t3d.errors import ConfigError
from t3d.models import ModelCard, VideoNet, create_model, list_models, load_model, model_options, save_model
from t3d.models.grad_checkpointing import GradCheckpointing

pytestmark = pytest.mark.filterwarnings("ignore:a TTL looks at")

FRAMES, SIDE = 8, 64
NARROW_RESNET = {"width": 0.125, "block_config": [1, 1, 1, 1]}
NARROW = {
    "resnet3d18": NARROW_RESNET,
    "resnet3d50": NARROW_RESNET,
    "resnet3d50_ttl": {**NARROW_RESNET, "ttl_channels": 4},
    "r2plus1d18": NARROW_RESNET,
    "inception3d": {"width": 0.125},
    "inception3d_ttl": {"width": 0.125, "ttl_channels": 4},
    "i3d": {"width": 0.125},
    "c3d": {"width": 0.125},
}
COMPUTED = [
    *(pytest.param(name, options, id=f"{name}-narrow") for name, options in NARROW.items()),
    *(
        pytest.param(name, {}, marks=[] if name.endswith("_tiny") else pytest.mark.slow, id=name)
        for name in list_models()
    ),
]


@pytest.fixture(scope="module", params=list_models())
def net(request: pytest.FixtureRequest) -> VideoNet:
    with torch.device("cpu" if request.param.endswith("_tiny") else "meta"):
        return create_model(request.param, num_classes=6).eval()


def build(name: str, options: dict[str, object]) -> VideoNet:
    torch.manual_seed(0)
    return create_model(name, num_classes=6, options=options).eval()


def clips(net: VideoNet, *, frames: int = FRAMES, side: int = SIDE) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, net.in_channels, frames, side, side, device=next(net.parameters()).device)


@torch.no_grad()
def test_verbs_agree(net: VideoNet) -> None:
    x = clips(net)
    features = net.forward_features(x)
    pooled = net.forward_head(features, pre_logits=True)
    logits = net(x)
    assert features.shape[:2] == (2, net.num_features)
    assert features.ndim == 5
    assert pooled.shape == (2, net.num_features)
    assert logits.shape == (2, net.num_classes) == (2, 6)


@pytest.mark.parametrize(("name", "options"), COMPUTED)
def test_values_agree(name: str, options: dict[str, object]) -> None:
    computed = build(name, options)
    x = clips(computed)
    features = computed.forward_features(x)
    pooled = computed.forward_head(features, pre_logits=True)
    logits = computed(x)
    assert logits.isfinite().all()
    torch.testing.assert_close(pooled, features.flatten(2).mean(2))
    torch.testing.assert_close(computed.forward_head(features), logits)
    torch.testing.assert_close(computed.get_classifier()(pooled), logits)
    torch.testing.assert_close(computed(x[1:]), logits[1:], rtol=1e-4, atol=1e-5)  # clips are on their own


def test_classifier_can_be_replaced(net: VideoNet) -> None:
    net = copy.deepcopy(net)
    backbone = {name for name, _ in net.named_parameters() if not name.startswith(net.classifier_name)}
    net.double()
    net.reset_classifier(9)
    classifier = net.get_classifier()
    assert isinstance(classifier, nn.Linear)
    assert (classifier.weight.shape, net.num_classes) == ((9, net.num_features), 9)
    assert classifier.weight.dtype == torch.float64
    assert classifier.weight.device == next(net.parameters()).device
    pooled = torch.zeros(2, net.num_features, 1, 1, 1, dtype=torch.float64, device=classifier.weight.device)
    assert net.forward_head(pooled).shape == (2, 9)
    net.reset_classifier(0)
    assert isinstance(net.get_classifier(), nn.Identity)
    assert net.forward_head(pooled).shape == (2, net.num_features)
    assert {name for name, _ in net.named_parameters()} == backbone
    with pytest.raises(ConfigError, match="num_classes is -1"):
        net.reset_classifier(-1)


@pytest.mark.parametrize(("name", "options"), COMPUTED)
@pytest.mark.parametrize("checkpointing", ["none", "blocks"])
def test_every_parameter_learns(
    name: str, options: dict[str, object], checkpointing: GradCheckpointing
) -> None:
    computed = build(name, options).train()
    computed.set_grad_checkpointing(checkpointing)
    optimizer = torch.optim.SGD(computed.parameters(), lr=0.01)
    still = dict(computed.named_parameters())
    for _ in range(2):  # an inserted TTL begins at zero: what is below its last convolution learns in step 2
        optimizer.zero_grad()
        computed(clips(computed)).logsumexp(1).sum().backward()
        for parameter_name, parameter in computed.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            if parameter.grad.abs().sum() > 0:
                still.pop(parameter_name, None)
        assert all(".branches." in name or "projection.norm" in name for name in still)
        optimizer.step()
    assert not still


@torch.no_grad()
def test_input_checks(net: VideoNet) -> None:
    x = clips(net)
    frames, side = net.min_input_size()
    assert frames <= FRAMES
    assert side <= SIDE
    assert net(clips(net, frames=frames, side=side)).shape == (2, 6)
    for wrong, message in [
        (x[0], "unsqueeze"),
        (x[:, :1], "1 channels; this model takes 3"),
        (x.transpose(1, 2), r"x\.transpose\(1, 2\)"),
        (x.to(torch.uint8), "divide 8-bit pixels by 255"),
        (x[..., : side - 1], f"at least {frames} frames of {side} × {side}"),
        (x[:, :, : frames - 1], f"at least {frames} frames"),
    ]:
        with pytest.raises(ConfigError, match=message):
            net(wrong)
        with pytest.raises(ConfigError, match=message):
            net.forward_features(wrong)


def test_options_survive_json(net: VideoNet) -> None:
    name = next(name for name in list_models() if model_options(name) == net.options)
    assert model_options(name, json.loads(json.dumps(asdict(net.options)))) == net.options


@pytest.mark.parametrize(("name", "options"), COMPUTED)
def test_file_round_trip(name: str, options: dict[str, object], tmp_path: Path) -> None:
    computed = build(name, options)
    path = tmp_path / "net.safetensors"
    save_model(computed, path, card=ModelCard(name, options=options, classes=tuple("abcdef")))
    again, card = load_model(path)
    assert (card.architecture, card.classes) == (name, tuple("abcdef"))
    assert again.options == computed.options
    assert torch.equal(again(clips(computed)), computed(clips(computed)))
