"""Inflated nets shown one frame again and again must compute their 2D twin's features at every time step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from t3d.errors import CheckpointError, ConfigError
from t3d.models import TemporalConv3d, VideoNet, create_model
from t3d.models.inflate import Inflation, inflate, inflate_kernel
from t3d.models.ttl import TimePadding

FRAMES, SIDE = 32, 32


def trained(model: nn.Module) -> nn.Module:
    """Statistics and scales as training leaves them, in double precision."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.double().eval()


@pytest.fixture(scope="module")
def twin() -> nn.Module:
    torch.manual_seed(0)
    return trained(torchvision.models.densenet121(num_classes=5))


def inflated(twin: nn.Module, method: Inflation, time_padding: TimePadding) -> VideoNet:
    model = create_model("densenet3d121", num_classes=5, options={"time_padding": time_padding})
    report = inflate(twin.state_dict(), model.double(), method=method)
    assert report.complete
    assert set(report.skipped) == {"classifier.weight", "classifier.bias"}
    return model.eval()


def both(twin: nn.Module, model: VideoNet) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    frame = torch.randn(1, 3, SIDE, SIDE, dtype=torch.float64)
    with torch.no_grad():
        expected = F.relu(twin.features(frame))  # type: ignore[operator]
        got = model.forward_features(frame.unsqueeze(2).expand(-1, -1, FRAMES, -1, -1))
    assert got.shape[2] == 2
    assert expected.std() > 0.01
    return expected.unsqueeze(2).expand_as(got), got


@pytest.mark.parametrize(("method", "time_padding"), [("center", "zeros"), ("mean", "replicate")])
def test_repeated_frame_gives_the_2d_features(
    twin: nn.Module, method: Inflation, time_padding: TimePadding
) -> None:
    expected, got = both(twin, inflated(twin, method, time_padding))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_mean_with_zero_padding_does_not(twin: nn.Module) -> None:
    expected, got = both(twin, inflated(twin, "mean", "zeros"))
    assert (got - expected).abs().max() > 0.1 * expected.std()


TWINS: dict[str, Callable[[], nn.Module]] = {
    "resnet3d18": lambda: torchvision.models.resnet18(num_classes=5),
    "resnet3d34": lambda: timm.create_model("resnet34", num_classes=5),
    "resnet3d50": lambda: torchvision.models.resnet50(num_classes=5),
    "resnet3d101": lambda: timm.create_model("resnet101", num_classes=5),
    "resnet3d50_ttl": lambda: timm.create_model("resnet50", num_classes=5),
    "inception3d": lambda: torchvision.models.googlenet(num_classes=5, init_weights=False),
    "i3d": lambda: torchvision.models.googlenet(num_classes=5, init_weights=False),
}


@pytest.mark.parametrize("name", TWINS)
def test_every_tensor_of_the_2d_twin_has_a_place(name: str) -> None:
    with torch.device("meta"):
        state, model = TWINS[name]().state_dict(), create_model(name, num_classes=5)
    report = inflate(state, model)
    assert all(tensor.startswith("inserted.") for tensor in report.missing)
    assert bool(report.missing) == name.endswith("_ttl")
    assert not report.mismatched
    assert all(tensor.startswith("aux") for tensor in report.unexpected)
    assert report.skipped == ("fc.weight", "fc.bias")


@pytest.mark.filterwarnings("ignore:a TTL looks at")
@pytest.mark.parametrize(("method", "time_padding"), [("center", "zeros"), ("mean", "replicate")])
@pytest.mark.parametrize("name", ["resnet3d18", "resnet3d50_ttl", "inception3d", "i3d"])
def test_repeated_frame_gives_the_2d_scores(name: str, method: Inflation, time_padding: TimePadding) -> None:
    torch.manual_seed(0)
    frames, side = 4, 48
    parent = trained(TWINS[name]())
    model = create_model(name, num_classes=5, options={"time_padding": time_padding}).double().eval()
    inflate(parent.state_dict(), model, method=method)
    model.get_classifier().load_state_dict(parent.get_submodule("fc").state_dict())
    frame = torch.randn(1, 3, side, side, dtype=torch.float64)
    still = frame.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    with torch.no_grad():
        expected, got = parent(frame), model(still)
        steps = model.forward_features(still).unbind(2)
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for step in steps:
        torch.testing.assert_close(step, steps[0], rtol=1e-9, atol=1e-9)


def test_a_split_convolution_has_no_2d_twin() -> None:
    report = inflate(torchvision.models.resnet18().state_dict(), create_model("r2plus1d18"))
    assert not report.complete
    assert "layer1.0.conv1.spatial.weight" in report.missing
    assert "layer1.0.conv1.weight" in report.unexpected


@pytest.mark.parametrize("depth", range(1, 9))
def test_where_zero_padding_breaks_mean(depth: int) -> None:
    """Step t of one convolution gets n/d of the 2D value, n of the d steps of its kernel inside the clip."""
    torch.manual_seed(depth)
    frames, kernel = 10, torch.randn(4, 3, 3, 3, dtype=torch.float64)
    frame = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    expected = F.conv2d(frame, kernel, padding=1)
    still = frame.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    before, after = (depth - 1) // 2, depth // 2
    for method in ("mean", "center"):
        conv = TemporalConv3d(3, 4, kernel_size=(depth, 3, 3)).double()
        conv.weight.data = inflate_kernel(kernel, depth, method=method)  # type: ignore[arg-type]
        out = conv(still)
        for t in range(frames):
            inside = sum(0 <= t + k < frames for k in range(-before, after + 1))
            share = inside / depth if method == "mean" else 1
            torch.testing.assert_close(out[:, :, t], share * expected)


def test_classifier_and_random_state_stay(twin: nn.Module) -> None:
    model = create_model("densenet3d121", num_classes=5)
    before = model.get_submodule("classifier").weight.clone()  # type: ignore[union-attr, operator]
    state = torch.get_rng_state()
    inflate(twin.state_dict(), model)
    assert torch.equal(before, model.get_submodule("classifier").weight)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())


def test_t3d_loads_matching_tensors_and_reports_them(twin: nn.Module) -> None:
    model = create_model("t3d121", num_classes=5)
    report = inflate(twin.state_dict(), model)
    assert not report.complete
    assert "features.denseblock1.denselayer6.conv2.weight" in report.loaded
    assert "features.transition1.branches.0.conv.weight" in report.missing
    assert "features.transition1.conv.weight" in report.unexpected
    mismatched = {name: shapes for name, *shapes in report.mismatched}
    assert mismatched["features.denseblock2.denselayer1.conv1.weight"] == [
        (128, 128, 1, 1, 1),
        (128, 384, 1, 1, 1),
    ]
    total = len(report.loaded) + len(report.missing) + len(report.mismatched)
    assert total == len([name for name in model.state_dict() if not name.startswith("classifier")])
    assert f"{len(report.loaded)} of {total} backbone tensors loaded" in str(report)
    assert "features.denseblock2.denselayer1.norm1.weight 128 for 384" in str(report)


def test_weights_that_cannot_be_inflated() -> None:
    model = create_model("t3d_tiny")
    with pytest.raises(CheckpointError, match="no weight of the backbone fits"):
        inflate(torchvision.models.squeezenet1_1().state_dict(), model)
    with pytest.raises(ConfigError, match="did you mean 'center'"):
        inflate({}, model, method="centre")  # type: ignore[arg-type]
