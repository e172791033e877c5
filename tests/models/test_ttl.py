"""The TTL and its convolution against a slow second implementation: loops over time, sums of 2D ones."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t3d.errors import ConfigError
from t3d.models.ttl import (
    PAPER_DEPTHS,
    TemporalConv3d,
    TemporalTransition,
    TimePadding,
    TransitionPool,
    misleads_onednn,
)


def slow_conv(x: Tensor, weight: Tensor, time_padding: TimePadding) -> Tensor:
    frames, depth = x.shape[2], weight.shape[2]
    steps = []
    for t in range(frames):
        total = torch.zeros(())
        for k in range(depth):
            source = t + k - (depth - 1) // 2
            if time_padding == "zeros" and not 0 <= source < frames:
                continue
            frame = x[:, :, min(max(source, 0), frames - 1)]
            total = total + F.conv2d(frame, weight[:, :, k], padding=weight.shape[-1] // 2)
        steps.append(total)
    return torch.stack(steps, dim=2)


def slow_ttl(x: Tensor, ttl: TemporalTransition, time_padding: TimePadding) -> Tensor:
    joined = torch.cat(
        [
            slow_conv(F.relu(branch.norm(x)), branch.conv.weight, time_padding)  # type: ignore[operator, union-attr, arg-type]
            for branch in ttl.branches
        ],
        dim=1,
    )
    b, c, t, h, w = joined.shape
    step = 2 if t > 1 else 1
    out = torch.zeros(b, c, t // step, h // 2, w // 2, dtype=x.dtype)
    for i in range(t // step):
        for j in range(h // 2):
            for k in range(w // 2):
                cell = joined[:, :, i * step : (i + 1) * step, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2]
                out[:, :, i, j, k] = cell.mean(dim=(2, 3, 4))
    return out


@pytest.mark.parametrize("time_padding", ["zeros", "replicate"])
@pytest.mark.parametrize("depth", range(1, 9))
def test_conv_keeps_time_and_equals_the_slow_one(depth: int, time_padding: TimePadding) -> None:
    torch.manual_seed(depth)
    conv = TemporalConv3d(3, 5, kernel_size=(depth, 3, 3), time_padding=time_padding).double()
    for frames in (1, 2, 5, 9):
        x = torch.randn(2, 3, frames, 6, 4, dtype=torch.float64)
        out = conv(x)
        assert out.shape == (2, 5, frames, 6, 4)
        torch.testing.assert_close(out, slow_conv(x, conv.weight, time_padding))


@pytest.mark.parametrize("time_padding", ["zeros", "replicate"])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_ttl_equals_the_slow_one(frames: int, time_padding: TimePadding) -> None:
    torch.manual_seed(frames)
    ttl = TemporalTransition(4, (1, 3, 4, 6), branch_channels=3, time_padding=time_padding).double().eval()
    for branch in ttl.branches:
        torch.nn.init.normal_(branch.norm.running_mean)  # type: ignore[arg-type]
        torch.nn.init.normal_(branch.norm.weight)  # type: ignore[arg-type]
    x = torch.randn(2, 4, frames, 5, 6, dtype=torch.float64)
    out = ttl(x)
    assert out.shape == (2, ttl.out_channels, max(frames // 2, 1), 2, 3)
    torch.testing.assert_close(out, slow_ttl(x, ttl, time_padding))


@pytest.mark.parametrize("depth", range(1, 9))
def test_branches_keep_time(depth: int) -> None:
    ttl = TemporalTransition(4, (depth, 1), branch_channels=2)
    for frames in (1, 4, 7):
        for branch in ttl.branches:
            assert branch(torch.randn(1, 4, frames, 4, 4)).shape == (1, 2, frames, 4, 4)


def test_default_kernels_are_the_papers() -> None:
    assert PAPER_DEPTHS == ((1, 3, 6), (1, 3, 4), (1, 3, 4))
    kernels = [branch.conv.kernel_size for branch in TemporalTransition(4, (1, 3, 6)).branches]  # type: ignore[union-attr]
    assert kernels == [(1, 1, 1), (3, 3, 3), (6, 3, 3)]


def test_projection_keeps_the_width_and_comes_before_the_pool() -> None:
    torch.manual_seed(0)
    ttl = TemporalTransition(4, (1, 3), branch_channels=2, projection=True).eval()
    x = torch.randn(1, 4, 6, 8, 8)
    assert ttl.projection is not None
    assert ttl.projection.conv.kernel_size == (1, 1, 1)
    joined = torch.cat([branch(x) for branch in ttl.branches], dim=1)
    torch.testing.assert_close(ttl(x), F.avg_pool3d(ttl.projection(joined), 2))


def test_ttl_stands_in_any_net() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv3d(3, 6, 3, padding=1), TemporalTransition(6, (1, 2), branch_channels=4)
    )
    net(torch.randn(2, 3, 4, 8, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_pool_at_one_step() -> None:
    x = torch.arange(4.0).reshape(1, 1, 1, 2, 2)
    assert TransitionPool()(x).item() == 1.5
    with pytest.raises(RuntimeError):
        TransitionPool(adapt=False)(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": ()}, "one temporal depth"),
        ({"depths": (1, 0)}, "one temporal depth"),
        ({"depths": (3,), "time_padding": "zeroes"}, "did you mean 'zeros'"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TemporalTransition(4, **arguments)  # type: ignore[arg-type]


def test_a_kernel_without_a_middle_in_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be odd"):
        TemporalConv3d(4, 2, kernel_size=(3, 2, 3))


# --- when time is padded before the convolution -----------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "bf16", "misled"),
    [
        (1, False, set()),
        (1, True, set()),
        (3, False, set()),
        (3, True, {1, 2}),
        (4, False, {1, 2, 3, 4}),
        (5, False, {1, 2, 3, 4, 5}),
        (5, True, {1, 2, 3, 4, 5}),
        (7, False, {1, 2, 3, 4, 5, 6, 7}),
        (7, True, {1, 2, 3, 4, 5, 6, 7}),
    ],
)
def test_time_is_padded_first_where_onednn_fails(depth: int, bf16: bool, misled: set[int]) -> None:
    """The decision, since its effect shows on some CPUs only: short maps, in bfloat16 or deep kernels."""
    for frames in range(1, 12):
        options = {"bf16": bf16, "frames": frames, "depth": depth}
        assert misleads_onednn(device="cpu", **options) == (frames in misled)  # type: ignore[arg-type]
        assert not misleads_onednn(device="cuda", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "dtype", "autocast", "depth", "frames", "first"),
    [
        ("cpu", torch.float32, False, 3, 2, False),
        ("cpu", torch.float32, True, 3, 2, True),
        ("cpu", torch.bfloat16, False, 3, 2, True),
        ("cpu", torch.bfloat16, False, 3, 3, False),
        ("cpu", torch.float32, False, 5, 5, True),
        ("cpu", torch.float32, False, 5, 6, False),
        ("meta", torch.bfloat16, False, 5, 2, False),
    ],
)
def test_a_convolution_follows_the_chosen_method(
    device: str,
    dtype: torch.dtype,
    autocast: bool,
    depth: int,
    frames: int,
    first: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, seen = F.conv3d, []

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None, stride: object, padding: object) -> Tensor:
        seen.append((x.shape[2], padding))
        return plain(x, weight, bias, stride, padding)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "conv3d", spy)
    conv = TemporalConv3d(2, 2, kernel_size=(depth, 3, 5)).to(device, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = conv(torch.ones(1, 2, frames, 6, 6, dtype=dtype, device=device))
    assert out.shape == (1, 2, frames, 6, 6)
    side = depth // 2
    assert seen == [(frames + 2 * side, (0, 1, 2)) if first else (frames, (side, 1, 2))]


# --- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("depth", [1, 3, 4, 6])
@pytest.mark.parametrize("time", [1, 2, 3, 4, 8])
def test_gradients_in_bfloat16_are_those_in_float32(depth: int, time: int, threads: int) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        conv = TemporalConv3d(32, 16, kernel_size=(depth, 3, 3))
        x = torch.randn(8, 32, time, 4, 4).to(memory_format=torch.channels_last_3d)
        behind = torch.randn(8, 16, time, 4, 4)
        (want,) = torch.autograd.grad(conv(x), conv.weight, behind)
        for _ in range(3):
            rubbish = [torch.full((size,), float("nan")) for size in (1_000, 30_000, 300_000)]
            del rubbish  # what reads memory that nobody wrote finds this
            with torch.autocast("cpu", dtype=torch.bfloat16):
                out = conv(x)
            (got,) = torch.autograd.grad(out, conv.weight, behind.bfloat16())
            assert (got - want).norm() < 0.02 * want.norm()
    finally:
        torch.set_num_threads(before)


DEEP = """
import itertools, torch
from t3d.models import TemporalConv3d

torch.manual_seed(0)
for depth, stride, time, bf16 in itertools.product((5, 7), (1, 2), range(1, 10), (False, True)):
    conv = TemporalConv3d(3, 16, kernel_size=(depth, 7, 7), stride=(stride, 2, 2))
    x = torch.randn(2, 3, time, 9, 9)
    out = conv.double()(x.double())
    behind = torch.randn(out.shape)
    (want,) = torch.autograd.grad(out, conv.weight, behind.double())
    conv.float()
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            out = conv(x)
        (got,) = torch.autograd.grad(out, conv.weight, behind.to(out.dtype))
        if not (got - want).norm() < (0.02 if bf16 else 1e-5) * want.norm():
            print(depth, stride, time, bf16)
"""


def test_gradients_of_deep_kernels_are_those_in_float64() -> None:
    """Inception3D's stem on short clips, in a separate process: heap corruption would crash or hang it."""
    process = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, timeout=300)
    assert (process.returncode, process.stdout) == (0, ""), process.stderr
