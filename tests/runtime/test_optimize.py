"""The fastest equal way to compute a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

import t3d
from t3d.errors import ConfigError
from t3d.models import VideoNet, create_model
from t3d.runtime import optimize as module
from t3d.runtime.fold import foldable, folded
from t3d.runtime.optimize import LARGEST_DIFFERENCE, OptimizedModel, optimize
from t3d.timing import Call, Rounds, Timed

SMALL: dict[str, dict[str, object]] = {
    "t3d_tiny": {"block_config": (2, 2, 3, 2)},
    "resnet3d18": {"width": 0.125},
    "r2plus1d18": {"width": 0.125},
    "inception3d": {"width": 0.125},
    "c3d": {"width": 0.125},
}

pytestmark = pytest.mark.filterwarnings("ignore:a TTL looks at")


def trained(name: str) -> VideoNet:
    """A network with the statistics and gradients of a few steps, so that classes differ."""
    torch.manual_seed(0)
    net = create_model(name, num_classes=4, options=SMALL[name])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
    x = torch.randn(4, 3, 8, 32, 32) + torch.arange(4).view(4, 1, 1, 1, 1)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), torch.arange(4)).backward()
        optimizer.step()
    return net.eval()


def clips(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", SMALL)
def test_every_way_gives_the_same_scores(name: str) -> None:
    net, x = trained(name), clips()
    before = copy.deepcopy(net.state_dict())
    strides = {key: value.stride() for key, value in net.state_dict().items()}
    with torch.no_grad():
        expected = net(x)
    fast = optimize(net, example_input=x, precision="bf16", rounds=1)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert {key: value.stride() for key, value in net.state_dict().items()} == strides
    assert len(fast.candidates) == (4 if name == "c3d" else 8)  # C3D has no BatchNorm
    for candidate in fast.candidates:
        assert candidate.difference is not None, candidate
        # Weights after three steps: bfloat16 may differ by more than in a trained network.
        most = 5e-2 if "bf16" in candidate.name else LARGEST_DIFFERENCE["fp32"]
        assert candidate.difference < most, candidate
        assert (candidate.seconds is None) == bool(candidate.rejected)
    assert [each.seconds for each in fast.candidates if each.name == fast.choice] == [fast.seconds]
    got = fast(x)
    assert got.dtype == torch.float32
    assert float((got - expected).norm() / expected.norm()) < LARGEST_DIFFERENCE["bf16"]
    assert fast(clips(3)).shape == (3, 4)  # another batch size


def test_the_fastest_of_equal_ways_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way takes as long as the test says."""

    def chosen(seconds: Callable[[str], float], **options: object) -> OptimizedModel:
        def measured(calls: Mapping[str, Call], rounds: Rounds, *, wait: Call) -> Timed:
            assert rounds.most == 5
            wait()
            return Timed({name: [seconds(name)] for name in calls}, {})

        monkeypatch.setattr(module, "alternate", measured)
        return optimize(net, example_input=clips(), **options)  # type: ignore[arg-type]

    net = trained("t3d_tiny")
    assert chosen(lambda name: 1.0 if name == "plain" else 2.0).choice == "plain"
    assert (
        chosen(lambda name: 1.0 if name.startswith("fp32, folded") else 2.0).choice
        == "fp32, folded BatchNorm"
    )
    fast = chosen(lambda name: 1.0 if "bf16" in name else 2.0, precision="fp32")
    assert all("bf16" not in each.name for each in fast.candidates)
    assert chosen(lambda name: 1.0 if name == "bf16" else 2.0, precision="bf16").choice == "bf16"


def test_auto_tries_bf16_only_if_the_hardware_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained("t3d_tiny")
    for hardware in (False, True):
        monkeypatch.setattr("t3d.device.has_bf16", lambda _, hardware=hardware: hardware)
        names = [each.name for each in optimize(net, example_input=clips(), rounds=1).candidates]
        assert any("bf16" in name for name in names) == hardware


def test_a_way_with_other_outputs_or_an_error_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(model: nn.Module, example: Tensor) -> tuple[nn.Module, int]:
        net, count = folded(model, example)
        with torch.no_grad():
            net.get_submodule("classifier").bias.add_(0.1)  # type: ignore[union-attr, operator]
        return net, count

    monkeypatch.setattr(module, "folded", spoiled)

    def failing(_: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long explanation")

    monkeypatch.setattr(torch, "compile", failing)
    fast = optimize(trained("t3d_tiny"), example_input=clips(), precision="fp32", compile=True, rounds=1)
    by_name = {each.name: each for each in fast.candidates}
    assert "differ by" in by_name["fp32, folded BatchNorm"].rejected
    assert by_name["fp32, folded BatchNorm"].seconds is None
    compiled = next(each for each in fast.candidates if each.name.endswith("torch.compile"))
    assert compiled.rejected == "it fails: no C++ compiler"
    assert fast.choice in ("plain", "fp32, channels_last_3d")
    assert "rejected: its outputs differ" in repr(fast)


def test_another_top_1_is_rejected() -> None:
    class Close(nn.Module):
        """Two scores that only float32 tells apart."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 2, bias=False)
            with torch.no_grad():
                self.layer.weight.copy_(torch.tensor([[1.0], [1.0001]]))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    fast = optimize(Close().eval(), example_input=torch.ones(1, 1), precision="bf16", rounds=1)
    bf16 = next(each for each in fast.candidates if each.name == "bf16")
    assert bf16.rejected == "its top-1 differs for some inputs"
    assert "bf16" not in fast.choice


def test_batchnorm_is_folded_only_where_it_directly_follows_a_convolution() -> None:
    net = trained("t3d_tiny")
    pairs = foldable(net, clips())
    layers = [name for name, part in net.named_modules() if type(part).__name__ == "DenseLayer"]
    expected = [(f"{name}.conv1", f"{name}.norm2") for name in layers]
    assert sorted(pairs) == sorted([("features.conv0", "features.norm0"), *expected])
    assert len(foldable(trained("resnet3d18"), clips())) == 20  # all


class Shared(nn.Module):
    """A convolution whose output is used a second time, after its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)
        self.once, self.last = nn.Conv3d(4, 4, 1), nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.norm(x) + x
        return self.last(self.once(x)).mean((2, 3, 4))


def test_an_output_with_a_second_use_is_not_folded() -> None:
    net = Shared().eval()
    assert foldable(net, clips()) == [("once", "last")]
    with torch.no_grad():
        net.last.running_mean.add_(1)  # type: ignore[union-attr]
        copied, count = folded(net, clips())
        torch.testing.assert_close(copied(clips()), net(clips()))
    assert count == 1


def test_bad_input() -> None:
    net = trained("t3d_tiny")
    for wrong, message in [
        (lambda: optimize(net, example_input=clips()[0]), "unsqueeze"),
        (lambda: optimize(net, example_input=clips().double()), "must be a float32 tensor"),
        (lambda: optimize(net, example_input=None), "example_input is NoneType"),  # type: ignore[arg-type]
        (lambda: optimize(net, example_input=clips().to("meta")), "on cpu, example_input on meta"),
        (lambda: optimize(net, example_input=clips(), precision="fp16"), "precision is 'fp16'"),  # type: ignore[arg-type]
        (lambda: optimize(net, example_input=clips(), rounds=0), "rounds is 0"),
        (lambda: optimize(copy.deepcopy(net).bfloat16(), example_input=clips()), r"call model\.float\(\)"),
        (lambda: optimize(copy.deepcopy(net).train(), example_input=clips()), r"call model\.eval\(\)"),
    ]:
        with pytest.raises(ConfigError, match=message):
            wrong()  # type: ignore[no-untyped-call]
    fast = optimize(net, example_input=clips(), precision="fp32", rounds=1)
    with pytest.raises(ConfigError, match="the input is on meta, the model on cpu"):
        fast(clips().to("meta"))
    assert t3d.optimize is optimize


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_scores() -> None:
    fast = optimize(trained("t3d_tiny"), example_input=clips(), precision="fp32", compile=True, rounds=1)
    compiled = next(each for each in fast.candidates if "torch.compile" in each.name)
    assert compiled.rejected == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_gives_the_same_scores() -> None:
    net, x = trained("t3d_tiny").cuda(), clips().cuda()
    fast = optimize(net, example_input=x, precision="fp32")
    graph = next(each for each in fast.candidates if "CUDA graph" in each.name)
    assert graph.rejected == ""
    if "CUDA graph" in fast.choice:
        with pytest.raises(ConfigError, match="of the shape of the example"):
            fast(clips(3).cuda())
