"""Inception3D and I3D against published counts, torchvision's GoogLeNet, and a slow pool."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision
from torch import Tensor, nn

from t3d.errors import ConfigError
from t3d.models import create_model
from t3d.models.flops import model_size
from t3d.models.inception3d import HangingMaxPool

TABLE1_SIZES = {
    "stem": (8, 28, 28),
    "inception3": (8, 28, 28),
    "inception4": (4, 14, 14),
    "inception5": (2, 7, 7),
}
# Carreira and Zisserman, Figure 3: what strides of 2 leave of 64 frames in front of each stage's modules.
I3D_SIZES = {
    "stem": (32, 28, 28),
    "inception3": (32, 28, 28),
    "inception4": (16, 14, 14),
    "inception5": (8, 7, 7),
}


def test_counts_are_ibms() -> None:
    """IBM/action-recognition-pytorch, benchmark_full.md, kinetics400-i3d-tp-max-f16.

    Its 16 frames are not halved by the stem, so they are our 32; it does not count the classifier's products.
    """
    size = model_size("inception3d")
    assert size.parameters == model_size("i3d").parameters == 12_697_264
    assert size.macs - 1024 * 400 == 42_822_707_200


@pytest.mark.parametrize("name", ["inception3d", "i3d"])
def test_every_2d_layer_is_made_3d(name: str) -> None:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin = torchvision.models.googlenet(num_classes=400, aux_logits=False, init_weights=False)
        ours = create_model(name)
    expected = {
        key: (*p.shape[:2], p.shape[-1], *p.shape[2:]) if p.ndim == 4 else tuple(p.shape)
        for key, p in twin.named_parameters()
    }
    assert {key: tuple(p.shape) for key, p in ours.named_parameters()} == expected
    assert set(ours.state_dict()) == set(twin.state_dict())


@pytest.mark.parametrize(
    ("name", "frames", "expected"),
    [("inception3d", 32, TABLE1_SIZES), ("inception3d_ttl", 32, TABLE1_SIZES), ("i3d", 64, I3D_SIZES)],
)
def test_sizes(name: str, frames: int, expected: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        model = create_model(name).eval()
        x = torch.empty(1, 3, frames, 224, 224)
    for stage, modules in model.stages().items():
        for module in modules:
            x = module(x)
        assert tuple(x.shape[2:]) == expected[stage]


def slow_pool(x: Tensor, depth: int, side: int, time_stride: int) -> Tensor:
    """The largest value of each window; windows begin in the map and see what of the map they cover."""
    before = depth // 2 if time_stride == 1 else 0

    def starts(length: int, kernel: int, stride: int) -> list[int]:
        # Enough windows to cover the map; each must start inside it.
        return [s for s in range(0, length, stride) if s == 0 or s - stride + kernel < length]

    times = list(range(x.shape[2])) if time_stride == 1 else starts(x.shape[2], depth, 2)
    out = [
        x[:, :, max(t - before, 0) : t - before + depth, h : h + side, w : w + side].amax(dim=(2, 3, 4))
        for t in times
        for h in starts(x.shape[3], side, 2)
        for w in starts(x.shape[4], side, 2)
    ]
    sizes = len(times), len(starts(x.shape[3], side, 2)), len(starts(x.shape[4], side, 2))
    return torch.stack(out, dim=2).unflatten(2, sizes)


@pytest.mark.parametrize(("depth", "side", "time_stride"), [(3, 3, 1), (1, 3, 1), (3, 3, 2), (2, 2, 2)])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
def test_pool_equals_the_slow_one(depth: int, side: int, time_stride: int, frames: int) -> None:
    torch.manual_seed(0)
    x = -torch.rand(1, 2, frames, 6, 7)  # all below zero: padding by zeros would be seen
    got = HangingMaxPool(depth, side, time_stride=time_stride)(x)
    torch.testing.assert_close(got, slow_pool(x, depth, side, time_stride))


@pytest.mark.parametrize("name", ["inception3d", "i3d"])
def test_least_side(name: str) -> None:
    model = create_model(name, num_classes=3, options={"width": 0.0625}).eval()
    frames, side = model.min_input_size()
    assert (frames, side) == (1, 15)
    with torch.no_grad():
        assert model(torch.randn(1, 3, frames, side, side)).isfinite().all()
        assert model(torch.randn(1, 3, 5, 70, 33)).isfinite().all()
        with pytest.raises(RuntimeError):  # the bound is not stricter than the layers themselves
            model.run_stages(torch.randn(1, 3, frames, side - 1, side))


def test_a_full_net_computes() -> None:
    torch.manual_seed(0)
    model = create_model("i3d", num_classes=3).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(1, 3, 8, 32, 32))
    assert features.shape == (1, 1024, 1, 1, 1)
    assert features.std() > 0
    assert all(m.eps == 0.001 for m in model.modules() if isinstance(m, nn.BatchNorm3d))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_depths": [3, 3, 3]}, "must be a list of 4"),
        ({"pool_depths": [3, 3, 0, 2]}, "a depth in pool_depths is 0; it must be between 1"),
        ({"pool_depths": [2, 3, 3, 2]}, "a pool that keeps T needs an odd depth"),
        ({"pool_time_strides": [1, 2, 2, 3]}, "allowed: 1, 2"),
        ({"width": 0.01}, "width is 0.01"),
        ({"drop_rate": -0.1}, r"\[0, 1\)"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("inception3d", options=options)
