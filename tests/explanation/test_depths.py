"""Contributions of temporal depths, compared with slow computations and with networks that are known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t3d.clip import ClipSpec
from t3d.explanation.by_class import depths_by_class
from t3d.explanation.depths import (
    DepthShare,
    ablation_drops,
    contributions_of,
    depth_shares,
    gated_scores,
    mean_depths,
    path_values,
    shapley_values,
)
from t3d.explanation.gates import Branch, branches_of, by_stage, gated, without_gradients
from t3d.explanation.network import ExplainedNet
from t3d.models.fusion import FusedNet, FusedOptions, Member
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.ttl_insertion import insert_ttl

SMALL = {
    "block_config": [1, 1, 1, 1],
    "growth_rate": 4,
    "stem_channels": 8,
    "bottleneck": 1,
    "ttl_channels": 4,
}
SPEC = ClipSpec(num_frames=8, stride=1, size=32, resize=32)


def lively(net: VideoNet, seed: int = 0) -> VideoNet:
    """Give a network weights and statistics with which every branch matters."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.running_var, 0.5, 1, generator=generator)  # type: ignore[arg-type]
            nn.init.uniform_(module.bias, 0, 0.5, generator=generator)
        elif isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, generator=generator)
    return net.eval()


def tiny(**options: object) -> VideoNet:
    torch.manual_seed(0)
    return lively(create_model("t3d_tiny", num_classes=3, options={**SMALL, **options}))


def with_inserted() -> VideoNet:
    net = create_model("resnet3d18", num_classes=3, options={"width": 0.125})
    insert_ttl(net, after=["layer1", "layer2"], depths=[(1, 3), (1, 4)], branch_channels=4)
    return lively(net)


def fused() -> VideoNet:
    spec = replace(SPEC, num_frames=4)
    plain = Member("densenet3d_tiny", {**SMALL, "ttl_channels": 32}, SPEC)
    return lively(FusedNet(FusedOptions((plain, Member("t3d_tiny", dict(SMALL), spec))), num_classes=3))


def clip(spec: ClipSpec = SPEC) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (spec.segments * spec.num_frames, 3, spec.size, spec.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def one_by_one(net: ExplainedNet, x: Tensor, layer: list[Branch]) -> dict[tuple[float, ...], float]:
    """Scores with all selections of branches, without any batch."""
    values = {}
    for selection in itertools.product((0.0, 1.0), repeat=len(layer)):
        with torch.no_grad(), gated(layer, torch.tensor([selection])):
            values[selection] = float(net.score(x, 1))
    return values


@pytest.mark.parametrize(
    ("build", "segments"), [(tiny, 1), (tiny, 3), (with_inserted, 1), (with_inserted, 3), (fused, 1)]
)
def test_shapley_values_equal_the_mean_over_all_orders(build: Callable[[], VideoNet], segments: int) -> None:
    model = build()
    spec = model.clip if isinstance(model, FusedNet) else replace(SPEC, segments=segments)
    net = ExplainedNet(model, spec)
    x = net.input_of(clip(spec))
    for numbers in by_stage(net.branches).values():
        layer = [net.branches[number] for number in numbers]
        slow = one_by_one(net, x, layer)
        expected = np.zeros(len(layer))
        for order in itertools.permutations(range(len(layer))):
            on = [0.0] * len(layer)
            for number in order:
                before = slow[tuple(on)]
                on[number] = 1.0
                expected[number] += slow[tuple(on)] - before
        expected /= math.factorial(len(layer))
        assert shapley_values(net.scores(x, 1), layer) == pytest.approx(expected.tolist(), abs=1e-4)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("build", [tiny, with_inserted, fused])
def test_contributions_of_a_layer_sum_to_what_it_adds(build: Callable[[], VideoNet]) -> None:
    model = build()
    net = ExplainedNet(model, model.clip if isinstance(model, FusedNet) else SPEC)
    x = net.input_of(clip(net.spec))
    scores = net.scores(x, 2)
    values = contributions_of(scores, net.branches)
    for numbers in by_stage(net.branches).values():
        layer = [net.branches[number] for number in numbers]
        whole, none = gated_scores(scores, layer, [[1.0] * len(layer), [0.0] * len(layer)])
        assert whole == pytest.approx(float(net.score(x, 2)), abs=1e-4)
        assert sum(values[number] for number in numbers) == pytest.approx(whole - none, abs=1e-4)


def test_the_path_sums_to_the_same_and_is_used_for_layers_of_many_branches() -> None:
    net = ExplainedNet(tiny(ttl_depths=[[1, 2, 3, 4, 5, 6], [1], [1, 3]]), SPEC)
    scores = net.scores(net.input_of(clip()), 0)
    layer = net.branches[:6]
    values = path_values(scores, layer)
    whole, none = gated_scores(scores, layer, [[1.0] * 6, [0.0] * 6])
    assert sum(values) == pytest.approx(whole - none, rel=0.05, abs=1e-3)
    assert contributions_of(scores, net.branches)[:6] == pytest.approx(values)
    gradient = path_values(scores, layer, [1.0])
    assert gradient != pytest.approx(values)


def test_a_branch_that_is_zero_has_no_share() -> None:
    model = tiny()
    (long,) = (each for each in branches_of(model) if (each.stage, each.depth) == ("transition1", 6))
    nn.init.zeros_(long.module.conv.weight)
    net = ExplainedNet(model, SPEC)
    scores = net.scores(net.input_of(clip()), 1)
    shares = depth_shares(net.branches, contributions_of(scores, net.branches))
    by_name = {(each.stage, each.depth): each for each in shares}
    assert by_name["transition1", 6] == DepthShare("transition1", 6, 0.0, 0.0)
    assert ablation_drops(scores, net.branches)[2] == 0.0
    others = [each.contribution for name, each in by_name.items() if name != ("transition1", 6)]
    assert min(map(abs, others)) > 0


def test_ablation_switches_off_single_branches() -> None:
    net = ExplainedNet(tiny(), SPEC)
    x = net.input_of(clip())
    drops = ablation_drops(net.scores(x, 1), net.branches)
    whole = float(net.score(x, 1))
    for branch, drop in zip(net.branches, drops, strict=True):
        with torch.no_grad(), gated([branch], torch.zeros(1, 1)):
            assert drop == pytest.approx(whole - float(net.score(x, 1)), abs=1e-4)


def test_the_network_does_not_change_and_needs_no_gradients() -> None:
    model = tiny()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    net = ExplainedNet(model, SPEC)
    contributions_of(net.scores(net.input_of(clip()), 1), net.branches)
    assert model.training
    assert not net.net.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(weight.requires_grad for weight in net.net.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    twin = without_gradients(model)
    assert {weight.data_ptr() for weight in twin.parameters()} == {
        weight.data_ptr() for weight in model.parameters()
    }
    assert all(not module._forward_hooks for module in net.net.modules())


def test_names_of_branches() -> None:
    names = [(each.stage, each.depth) for each in branches_of(tiny())]
    assert names == [
        (f"transition{n}", d) for n, ds in ((1, (1, 3, 6)), (2, (1, 3, 4)), (3, (1, 3, 4))) for d in ds
    ]
    assert [(each.stage, each.depth) for each in branches_of(with_inserted())] == [
        ("layer1", 1),
        ("layer1", 3),
        ("layer2", 1),
        ("layer2", 4),
    ]
    both = tiny()
    insert_ttl(both, after=["denseblock1"], depths=[(2,)], branch_channels=4)
    assert [each.stage for each in branches_of(both)][:4] == [*["transition1"] * 3, "denseblock1"]
    assert branches_of(fused())[0].stage == "2 t3d_tiny: transition1"
    assert branches_of(create_model("densenet3d_tiny", num_classes=2)) == []


def test_shares_and_means_by_hand() -> None:
    one = depth_shares(
        [DepthShare("a", 1, 0, 0), DepthShare("a", 3, 0, 0), DepthShare("b", 1, 0, 0)], [3.0, -1.0, 0.0]
    )
    assert [each.share for each in one] == [0.75, -0.25, 0.0]
    two = depth_shares(one, [1.0, 3.0, 2.0])
    mean = mean_depths([one, two])
    assert [each.contribution for each in mean] == [2.0, 1.0, 1.0]
    assert [each.share for each in mean] == pytest.approx([2 / 3, 1 / 3, 1.0])
    classes = depths_by_class([("run", one), ("jump", ()), ("run", two), ("fall", two)])
    assert [(each.label, each.videos) for each in classes] == [("fall", 1), ("run", 2)]
    assert classes[1].depths == mean
    assert mean_depths([]) == ()
