from __future__ import annotations

import copy

import pytest
import torch

from t3d.errors import ConfigError
from t3d.models import VideoNet, create_model, list_models
from t3d.models.c3d import C3D
from t3d.models.densenet3d import DenseNet3D
from t3d.models.frames import FrameNet
from t3d.models.inception3d import Inception3D
from t3d.models.resnet3d import ResNet3D

STAGES: dict[type[VideoNet], list[str]] = {
    C3D: ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"],
    DenseNet3D: ["stem", "denseblock1", "denseblock2", "denseblock3", "denseblock4"],
    FrameNet: ["frames", "pool"],
    Inception3D: ["stem", "inception3", "inception4", "inception5"],
    ResNet3D: ["stem", "layer1", "layer2", "layer3", "layer4"],
}


@pytest.mark.parametrize("name", list_models())
def test_stages_and_classifier_are_the_whole_net(name: str) -> None:
    with torch.device("meta"):
        net = create_model(name, num_classes=3)
    stages = net.stages()
    assert list(stages) == STAGES[type(net)]
    held = [p for modules in stages.values() for module in modules for p in module.parameters()]
    held += list(net.get_classifier().parameters())
    assert len(held) == len({id(p) for p in held}) == len(list(net.parameters()))


@pytest.fixture
def net() -> VideoNet:
    torch.manual_seed(0)
    return create_model("t3d_tiny", num_classes=3)


def step(net: VideoNet) -> None:
    """A training step with a rate that leaves nothing as it was."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    net.train()
    net(torch.randn(4, 3, 8, 32, 32)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("upto", ["stem", "denseblock2", "denseblock4", "backbone"])
def test_frozen_parameters_stay_bit_identical_and_the_rest_learns(net: VideoNet, upto: str) -> None:
    net.freeze(upto)
    names = list(net.stages())
    frozen = names[: names.index(upto) + 1] if upto in names else names
    kept = {id(t) for name in frozen for m in net.stages()[name] for t in (*m.parameters(), *m.buffers())}
    before = copy.deepcopy(net.state_dict())
    step(net)
    for name, tensor in {**dict(net.named_parameters()), **dict(net.named_buffers())}.items():
        assert torch.equal(tensor, before[name]) == (id(tensor) in kept), name


def test_it_can_learn_again(net: VideoNet) -> None:
    net.freeze("backbone")
    net.freeze("")
    assert all(p.requires_grad for p in net.parameters())
    net.train()
    assert all(module.training for module in net.modules())


def test_freezing_keeps_the_mode(net: VideoNet) -> None:
    net.train()
    net.freeze("denseblock1")
    assert net.training
    assert net.get_classifier().training
    assert not any(m.training for module in net.stages()["denseblock1"] for m in module.modules())
    net.eval()
    assert not any(module.training for module in net.modules())


def test_an_unknown_stage(net: VideoNet) -> None:
    with pytest.raises(ConfigError, match=r"no stage 'denseblok2'.*did you mean 'denseblock2'.*backbone"):
        net.freeze("denseblok2")
