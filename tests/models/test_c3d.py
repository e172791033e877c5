"""C3D against published counts and a slow net of the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.models import VideoNet, create_model, load_model
from t3d.models.convert import convert_checkpoint
from t3d.models.flops import model_size

NARROW = {"width": 0.0625}
LAYERS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")


def port_weights() -> dict[str, Tensor]:
    """A narrow C3D under the names of the common PyTorch ports."""
    torch.manual_seed(0)
    widths = (3, 4, 8, 16, 16, 32, 32, 32, 32)
    state = {}
    for name, before, after in zip(LAYERS, widths, widths[1:], strict=False):
        state[f"{name}.weight"] = torch.randn(after, before, 3, 3, 3) * (2 / (before * 27)) ** 0.5
        state[f"{name}.bias"] = torch.randn(after) * 0.1
    for name, before, after in (("fc6", 32 * 16, 256), ("fc7", 256, 256), ("fc8", 256, 2)):
        state[f"{name}.weight"] = torch.randn(after, before) * (2 / before) ** 0.5
        state[f"{name}.bias"] = torch.randn(after) * 0.1
    return state


def slow_c3d(w: dict[str, Tensor], x: Tensor) -> Tensor:
    def conv(name: str, x: Tensor) -> Tensor:
        return F.relu(F.conv3d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1))

    x = F.max_pool3d(conv("conv1", x), (1, 2, 2))
    x = F.max_pool3d(conv("conv2", x), 2)
    x = F.max_pool3d(conv("conv3b", conv("conv3a", x)), 2)
    x = F.max_pool3d(conv("conv4b", conv("conv4a", x)), 2)
    x = conv("conv5b", conv("conv5a", x))
    x = F.max_pool3d(
        F.pad(x, (0, 1, 0, 1)), 2
    )  # 7 to 8 by zeros after ReLU: windows extend one pixel past the edge
    x = F.relu(F.linear(x.flatten(1), w["fc6.weight"], w["fc6.bias"]))
    x = F.relu(F.linear(x, w["fc7.weight"], w["fc7.bias"]))
    return F.linear(x, w["fc8.weight"], w["fc8.bias"])


@pytest.fixture
def net(tmp_path: Path) -> VideoNet:
    torch.save(port_weights(), tmp_path / "port.pth")
    convert_checkpoint(
        tmp_path / "port.pth",
        tmp_path / "ours.safetensors",
        card=ModelCard(
            "c3d", classes=("run", "jump"), clip=ClipSpec(num_frames=16, size=112, resize=128), options=NARROW
        ),
    )
    return load_model(tmp_path / "ours.safetensors")[0]


def test_a_ports_weights_give_the_slow_nets_scores(net: VideoNet) -> None:
    x = torch.randn(2, 3, 16, 112, 112)
    with torch.no_grad():
        expected, got = slow_c3d(port_weights(), x), net(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_counts_are_mmaction2s() -> None:
    """open-mmlab/mmaction2, configs/recognition/c3d/metafile.yml: 78409573 parameters with 101 classes."""
    assert model_size("c3d", num_classes=101, num_frames=16, size=112).parameters == 78_409_573


def test_macs_equal_a_count_by_hand() -> None:
    """Filters × inputs × 27 a place of the map; Tran et al., Figure 3, for the maps of 16 × 112 × 112."""
    places = [16 * 112**2, 16 * 56**2, *[8 * 28**2] * 2, *[4 * 14**2] * 2, *[2 * 7**2] * 2]
    widths = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    convolutions = sum(27 * a * b * n for a, b, n in zip(widths, widths[1:], places, strict=False))
    linear = 8192 * 4096 + 4096 * 4096 + 4096 * 400
    assert model_size("c3d", num_frames=16, size=112).macs == convolutions + linear


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 40])
@pytest.mark.parametrize("side", [1, 31, 64, 150])
def test_any_clip(net: VideoNet, frames: int, side: int) -> None:
    with torch.no_grad():
        features = net.forward_features(torch.randn(1, 3, frames, side, side + 5))
    assert features.shape == (1, 256, 1, 1, 1)
    assert features.isfinite().all()


def test_a_larger_map_is_averaged(net: VideoNet) -> None:
    """The last map of a clip twice as long and wide is 2 × 7 × 7."""
    x = torch.randn(1, 3, 32, 224, 224)
    seen = []
    net.get_submodule("fc6").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps = []
    net.get_submodule("pool5").register_forward_hook(lambda *call: maps.append(call[-1]))
    with torch.no_grad():
        net(x)
    assert maps[0].shape[2:] == (2, 7, 7)
    expected = torch.stack(
        [
            maps[0][:, :, :, 7 * i // 4 : -(-7 * (i + 1) // 4), 7 * j // 4 : -(-7 * (j + 1) // 4)].mean(
                (2, 3, 4)
            )
            for i in range(4)
            for j in range(4)
        ],
        dim=2,
    )
    torch.testing.assert_close(seen[0], expected.flatten(1))


def test_dropout_acts_in_training_only(net: VideoNet) -> None:
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(net(x), net(x))
    net.train()
    assert not torch.equal(net(x), net(x))
    net.freeze("fc7")
    assert torch.equal(net(x), net(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width is 0"),
        ({"drop_rate": 1.0}, r"\[0, 1\)"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"ttl_after": ["fc6"], "ttl_depths": [[1, 3]]}, "cannot follow 'fc6'.*conv5"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("c3d", options={**NARROW, **options})
