"""What every registered network promises.

The tiny ones compute. The large ones tell their shapes on the meta device, and compute in the slow tests.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from t3d.errors import ConfigError
from t3d.models import (
    ModelCard,
    VideoNet,
    create_model,
    list_models,
    load_model,
    model_options,
    save_model,
)

FRAMES, SIDE = 8, 64
COMPUTED = [
    pytest.param(name, marks=[] if name.endswith("_tiny") else pytest.mark.slow) for name in list_models()
]


@pytest.fixture(params=list_models())
def net(request: pytest.FixtureRequest) -> VideoNet:
    with torch.device("cpu" if request.param.endswith("_tiny") else "meta"):
        return create_model(request.param, num_classes=6).eval()


@pytest.fixture(params=COMPUTED)
def computed(request: pytest.FixtureRequest) -> VideoNet:
    torch.manual_seed(0)
    return create_model(request.param, num_classes=6).eval()


def clips(net: VideoNet, *, frames: int = FRAMES, side: int = SIDE) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, net.in_channels, frames, side, side, device=next(net.parameters()).device)


def test_verbs_agree(net: VideoNet) -> None:
    x = clips(net)
    features = net.forward_features(x)
    pooled = net.forward_head(features, pre_logits=True)
    logits = net(x)
    assert features.shape[:2] == (2, net.num_features)
    assert features.ndim == 5
    assert pooled.shape == (2, net.num_features)
    assert logits.shape == (2, net.num_classes) == (2, 6)


def test_values_agree(computed: VideoNet) -> None:
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


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_learns(computed: VideoNet, checkpointing: bool) -> None:
    computed.train()
    computed.set_grad_checkpointing(checkpointing)
    computed(clips(computed)).logsumexp(1).sum().backward()
    for name, parameter in computed.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_input_checks(net: VideoNet) -> None:
    x = clips(net)
    frames, side = net.min_input_size()
    assert frames <= FRAMES
    assert side <= SIDE
    assert net(clips(net, frames=frames, side=side)).shape == (2, 6)
    for wrong, message in [
        (x[0], "unsqueeze"),
        (x[:, :1], "1 channels; this net takes 3"),
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


def test_file_round_trip(computed: VideoNet, tmp_path: Path) -> None:
    (name,) = (name for name in list_models() if model_options(name) == computed.options)
    path = tmp_path / "net.safetensors"
    save_model(computed, path, card=ModelCard(name, classes=tuple("abcdef")))
    again, card = load_model(path)
    assert (card.architecture, card.classes) == (name, tuple("abcdef"))
    assert torch.equal(again(clips(computed)), computed(clips(computed)))
