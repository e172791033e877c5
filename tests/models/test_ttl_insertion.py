"""TTLs in other networks: nothing changes at first, weights stay usable, branches do what they should."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError
from t3d.models import ModelCard, VideoNet, create_model, insert_ttl, load_backbone, load_model, save_model
from t3d.models.flops import count_parameters
from t3d.models.ttl_insertion import InsertedTTL

WIDTH = {"width": 0.125}
# A net, its options, where its TTLs stand, and the channels there.
NETS = {
    "resnet3d18": (WIDTH, {"layer1": 8, "layer2": 16, "layer3": 32, "stem": 8}),
    "resnet3d50": ({**WIDTH, "block_config": [1, 1, 1, 1]}, {"layer1": 32, "layer2": 64, "layer3": 128}),
    "inception3d": (WIDTH, {"inception3": 60, "inception4": 104}),
    "c3d": (WIDTH, {"conv1": 8, "conv3": 32, "conv5": 64}),
    "densenet3d_tiny": ({}, {"denseblock1": 32, "stem": 32}),
    "t3d_tiny": ({}, {"denseblock2": 96}),
}
CLIP = (2, 3, 24, 40, 40)


def build(name: str) -> VideoNet:
    torch.manual_seed(0)
    net = create_model(name, num_classes=4, options=NETS[name][0])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return net.eval()


@pytest.mark.parametrize("name", NETS)
def test_nothing_changes_at_first(name: str) -> None:
    net = build(name)
    x = torch.randn(CLIP)
    state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with torch.no_grad():
        before = net(x)
    places = NETS[name][1]
    insert_ttl(net, after=list(places), depths=[(1, 3)] * len(places), branch_channels=4)
    with torch.no_grad():
        after = net(x)
    assert torch.equal(after, before)
    for key, tensor in state.items():
        assert torch.equal(net.state_dict()[key], tensor), key
    for stage, channels in places.items():
        ttl = net.inserted[stage]
        assert isinstance(ttl, InsertedTTL)
        assert ttl.projection.conv.out_channels == channels
        assert net.stages()[stage][-1] is ttl


@pytest.mark.parametrize("name", ["resnet3d18", "inception3d", "c3d"])
def test_without_shortcut_the_map_passes_through(name: str) -> None:
    net = build(name)
    x = torch.randn(CLIP)
    with torch.no_grad():
        before = net(x)
        (stage, *_) = NETS[name][1]
        insert_ttl(net, after=[stage], depths=[(1, 3)], branch_channels=4, shortcut=False)
        after = net(x)
        assert not torch.allclose(after, before)
        nn.init.zeros_(net.inserted[stage].projection.conv.weight)  # type: ignore[union-attr, arg-type]
        x2 = torch.randn(CLIP)
        torch.testing.assert_close(net(x), net(x2))  # nothing of the clip gets past a TTL that gives zeros


def slow_ttl(ttl: InsertedTTL, x: Tensor) -> Tensor:
    """Each branch step by step, by 2D convolutions of the frames that its kernel sees."""

    def norm(layer: nn.BatchNorm3d, x: Tensor) -> Tensor:
        assert layer.running_var is not None
        assert layer.running_mean is not None
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return x * scale[:, None, None, None] + (layer.bias - layer.running_mean * scale)[:, None, None, None]

    joined = []
    for branch in ttl.transition.branches:
        y = norm(branch.norm, x).relu()  # type: ignore[arg-type]
        kernel = branch.conv.weight
        depth = kernel.shape[2]
        steps = []
        for t in range(x.shape[2]):
            step = torch.zeros(x.shape[0], kernel.shape[0], *x.shape[3:], dtype=x.dtype)
            for k in range(depth):
                source = t + k - (depth - 1) // 2
                if 0 <= source < x.shape[2]:
                    step += F.conv2d(y[:, :, source], kernel[:, :, k], padding=kernel.shape[-1] // 2)
            steps.append(step)
        joined.append(torch.stack(steps, dim=2))
    y = norm(ttl.projection.norm, torch.cat(joined, dim=1)).relu()
    return torch.einsum("oc,bcthw->bothw", ttl.projection.conv.weight[:, :, 0, 0, 0], y)


@pytest.mark.parametrize("depths", [(1, 3, 6), (1, 3, 4), (2,)])
@pytest.mark.parametrize("shortcut", [False, True])
def test_it_equals_the_slow_one(depths: tuple[int, ...], shortcut: bool) -> None:
    torch.manual_seed(0)
    ttl = InsertedTTL(5, depths, branch_channels=3, shortcut=shortcut).double()
    nn.init.normal_(ttl.projection.conv.weight)
    for module in ttl.modules():
        if isinstance(module, nn.BatchNorm3d):
            for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    x = torch.randn(2, 5, 7, 4, 5, dtype=torch.float64)
    expected = slow_ttl(ttl.eval(), x) + (x if shortcut else 0)
    torch.testing.assert_close(ttl(x), expected)


@pytest.mark.parametrize("name", ["resnet3d50", "inception3d"])
def test_options_do_the_same(name: str) -> None:
    options, places = NETS[name]
    by_hand = create_model(name, options=options)
    insert_ttl(by_hand, after=list(places), depths=[(1, 3, 4)] * len(places), branch_channels=2)
    ttl = {"ttl_after": list(places), "ttl_depths": [[1, 3, 4]] * len(places), "ttl_channels": 2}
    by_options = create_model(name, options={**options, **ttl})
    shapes = [{key: value.shape for key, value in net.state_dict().items()} for net in (by_hand, by_options)]
    assert shapes[0] == shapes[1]
    by_options.load_state_dict(by_hand.state_dict())
    x = torch.randn(1, 3, 8, 64, 64)
    with torch.no_grad():
        assert torch.equal(by_hand.eval()(x), by_options.eval()(x))


def test_the_registered_ones_have_the_papers_depths() -> None:
    with torch.device("meta"):
        nets = {name: create_model(name) for name in ("resnet3d50_ttl", "inception3d_ttl")}
        plain = create_model("resnet3d50")
    found_depths = {
        name: {
            stage: [branch.conv.kernel_size for branch in ttl.transition.branches]  # type: ignore[union-attr]
            for stage, ttl in net.inserted.items()
        }
        for name, net in nets.items()
    }
    first = [(1, 1, 1), (3, 3, 3), (6, 3, 3)]
    other = [(1, 1, 1), (3, 3, 3), (4, 3, 3)]
    assert found_depths == {
        "resnet3d50_ttl": {"layer1": first, "layer2": other, "layer3": other},
        "inception3d_ttl": {"inception3": other, "inception4": other},
    }
    added = sum(
        sum(2 * c + 128 * c * (1 if k == 1 else 9 * k) for k in depths) + 2 * 384 + 384 * c
        for c, depths in ((256, (1, 3, 6)), (512, (1, 3, 4)), (1024, (1, 3, 4)))
    )
    assert count_parameters(nets["resnet3d50_ttl"]) - count_parameters(plain) == added


@pytest.mark.filterwarnings("ignore:a TTL looks at")
def test_weights_without_ttl_start_a_net_with_it(tmp_path: Path) -> None:
    plain = build("resnet3d50")
    options = NETS["resnet3d50"][0]
    path = tmp_path / "plain.safetensors"
    save_model(plain, path, card=ModelCard("resnet3d50", options=options, classes=tuple("abcd")))
    net = create_model("resnet3d50_ttl", num_classes=4, options={**options, "ttl_channels": 4}).eval()
    report = load_backbone(net, path)
    assert not report.mismatched
    assert not report.unexpected
    assert all(name.startswith("inserted.") for name in report.missing)
    x = torch.randn(CLIP)
    with torch.no_grad():
        assert torch.equal(net.forward_features(x), plain.forward_features(x))


def test_a_net_with_ttl_is_saved_by_its_options(tmp_path: Path) -> None:
    net = build("resnet3d18")
    insert_ttl(net, after=["layer2"], depths=[(1, 3)], branch_channels=4)
    nn.init.normal_(net.inserted["layer2"].projection.conv.weight)  # type: ignore[union-attr, arg-type]
    ttl = {"ttl_after": ["layer2"], "ttl_depths": [[1, 3]], "ttl_channels": 4}
    card = ModelCard("resnet3d18", options={**WIDTH, **ttl}, classes=tuple("abcd"))
    save_model(net, tmp_path / "net.safetensors", card=card)
    again, _ = load_model(tmp_path / "net.safetensors")
    x = torch.randn(CLIP)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def test_it_follows_the_nets_mode_place_and_precision() -> None:
    net = build("resnet3d18").double().train()
    insert_ttl(net, after=["layer1"], depths=[(1, 3)], branch_channels=4)
    ttl = net.inserted["layer1"]
    assert ttl.training
    assert {p.dtype for p in ttl.parameters()} == {torch.float64}
    buffers = build("resnet3d18").state_dict()
    for name, tensor in buffers.items():
        assert torch.equal(net.state_dict()[name], tensor.to(net.state_dict()[name].dtype)), name
    net.freeze("layer1")
    assert not any(p.requires_grad for p in ttl.parameters())
    assert not ttl.training


def test_a_depth_beyond_the_map_warns_once() -> None:
    ttl = InsertedTTL(4, (1, 6), branch_channels=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ttl(torch.rand(1, 4, 6, 3, 3))
    with pytest.warns(UserWarning, match="looks at 6 time steps, but its map has only 2"):
        assert ttl(torch.rand(1, 4, 2, 3, 3)).shape == (1, 4, 2, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ttl(torch.rand(1, 4, 2, 3, 3))


def test_chosen_depths_warn_in_training_only() -> None:
    clip = torch.rand(2, 3, 16, 32, 32)  # two time steps are left for the last TTL
    chosen = create_model("t3d_tiny", num_classes=2, options={"ttl_depths": [[1, 3, 6], [1, 3], [5]]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        create_model("t3d_tiny", num_classes=2)(clip)  # the paper's
        chosen.eval()(clip)
    with pytest.warns(UserWarning, match="looks at 5 time steps, but its map has only 2"):
        chosen.train()(clip)


@pytest.mark.parametrize(
    ("after", "depths", "message"),
    [
        (["layr1"], [(1,)], "cannot follow 'layr1'; did you mean 'layer1'"),
        (["layer1", "layer2"], [(1,)], "names 2 stages and ttl_depths has 1 entries"),
        (["layer1", "layer1"], [(1,), (3,)], "'layer1' already has a TTL"),
        (["layer1"], [()], "one temporal depth of at least 1"),
        (["layer1"], [(1, 0)], "one temporal depth of at least 1"),
    ],
)
def test_a_refused_insertion_changes_nothing(
    after: list[str], depths: list[tuple[int, ...]], message: str
) -> None:
    net = build("resnet3d18")
    names = list(net.state_dict())
    with pytest.raises(ConfigError, match=message):
        insert_ttl(net, after=after, depths=depths)
    assert list(net.state_dict()) == names
    with pytest.raises(ConfigError, match="ttl_channels is 0"):
        insert_ttl(net, after=["layer1"], depths=[(1,)], branch_channels=0)
    with pytest.raises(ConfigError, match=message):
        create_model("resnet3d18", options={**WIDTH, "ttl_after": after, "ttl_depths": depths})


def test_a_second_ttl_at_one_place_is_refused() -> None:
    net = build("resnet3d18")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # finding the widths does not count as using the network
        insert_ttl(net, after=["layer1"], depths=[(1, 3)], branch_channels=4)
        insert_ttl(net, after=["layer2"], depths=[(1, 3)], branch_channels=4)
    with pytest.raises(ConfigError, match="'layer1' already has a TTL"):
        insert_ttl(net, after=["layer1"], depths=[(1, 3)])
