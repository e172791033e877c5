"""ResNet3D and R(2+1)D against torchvision, whose weights `t3d convert` takes, and published counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.video.resnet import BasicStem, Conv2Plus1D, Conv3DSimple, R2Plus1dStem, VideoResNet

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import CheckpointError, ConfigError
from t3d.models import create_model, load_model
from t3d.models.convert import convert_checkpoint
from t3d.models.flops import count_parameters, model_size

TABLE1_SIZES = {
    "stem": (16, 56, 56),
    "layer1": (16, 56, 56),
    "layer2": (8, 28, 28),
    "layer3": (4, 14, 14),
    "layer4": (2, 7, 7),
}
FAMILIES = {
    "resnet3d18": (Conv3DSimple, BasicStem, {"stem": "torchvision"}),
    "r2plus1d18": (Conv2Plus1D, R2Plus1dStem, {}),
}


def randomize(model: nn.Module) -> nn.Module:
    """Give every BatchNorm unusual statistics and scales, so that exchanged layers change the result."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def theirs(name: str, kind: str = "basic") -> nn.Module:
    conv, stem, _ = FAMILIES[name]
    block = {
        "basic": torchvision.models.video.resnet.BasicBlock,
        "bottleneck": torchvision.models.video.resnet.Bottleneck,
    }[kind]
    torch.manual_seed(0)
    return randomize(VideoResNet(block, [conv] * 4, [1, 1, 2, 1], stem, num_classes=5))


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet3d18", "basic"), ("resnet3d18", "bottleneck"), ("r2plus1d18", "basic")]
)
def test_torchvisions_weights_give_torchvisions_scores(name: str, kind: str, tmp_path: Path) -> None:
    twin = theirs(name, kind)
    torch.save(twin.state_dict(), tmp_path / "theirs.pth")
    options = {**FAMILIES[name][2], "block": kind, "block_config": [1, 1, 2, 1]}
    convert_checkpoint(
        tmp_path / "theirs.pth",
        tmp_path / "ours.safetensors",
        card=ModelCard(
            name, classes=tuple("abcde"), clip=ClipSpec(num_frames=8, size=40, resize=40), options=options
        ),
    )
    ours, _ = load_model(tmp_path / "ours.safetensors")
    x = torch.randn(2, 3, 7, 41, 36)
    with torch.no_grad():
        expected, got = twin(x), ours(x)
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "twin"), [("resnet3d18", "r3d_18"), ("r2plus1d18", "r2plus1d_18")])
def test_every_tensor_of_the_published_files_has_a_place(name: str, twin: str) -> None:
    with torch.device("meta"):
        published = getattr(torchvision.models.video, twin)().state_dict()
        model = create_model(name, options=FAMILIES[name][2])
    shapes = {model.own_name(key): tensor.shape for key, tensor in published.items()}
    assert shapes == {key: tensor.shape for key, tensor in model.state_dict().items()}


def test_their_weights_do_not_fit_the_papers_stem(tmp_path: Path) -> None:
    torch.save(theirs("resnet3d18").state_dict(), tmp_path / "r3d.pth")
    with pytest.raises(CheckpointError, match=r"missing: conv1\.weight.*unexpected: stem\.0\.weight"):
        convert_checkpoint(
            tmp_path / "r3d.pth",
            tmp_path / "ours.safetensors",
            card=ModelCard(
                "resnet3d18", classes=tuple("abcde"), clip=ClipSpec(), options={"block_config": [1, 1, 2, 1]}
            ),
        )


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("resnet3d18", torchvision.models.video.R3D_18_Weights.DEFAULT),
        ("r2plus1d18", torchvision.models.video.R2Plus1D_18_Weights.DEFAULT),
    ],
)
def test_counts_are_torchvisions(name: str, twin: torchvision.models.WeightsEnum) -> None:
    """Parameters and GMAC of a 16 × 112 × 112 clip match the metadata of torchvision's weights."""
    size = model_size(name, options=FAMILIES[name][2], num_frames=16, size=112)
    assert size.parameters == twin.meta["num_params"]
    assert round(size.macs / 1e9, 3) == twin.meta["_ops"]


def test_counts_are_ibms() -> None:
    """IBM/action-recognition-pytorch, benchmark_full.md, kinetics400-i3d-resnet-50-tp-f16.

    Its 16 frames are not halved by the stem, so they are our 32; it does not count the classifier's products.
    """
    size = model_size("resnet3d50")
    assert size.parameters == 46_980_944
    assert size.macs - 2048 * 400 == 58_920_271_872


@pytest.mark.parametrize("depth", [18, 34, 38, 50, 101])
def test_every_2d_layer_is_made_3d(depth: int) -> None:
    """The 2D twin's parameters with each k×k kernel three deep, its 1×1 as they are."""
    bottleneck = torchvision.models.resnet.Bottleneck
    with torch.device("meta"):
        twin = (
            torchvision.models.ResNet(bottleneck, [3, 3, 3, 3], num_classes=400)
            if depth == 38
            else getattr(torchvision.models, f"resnet{depth}")(num_classes=400)
        )
        ours = create_model(f"resnet3d{depth}")
    expected = {
        name: p.numel() * (3 if p.ndim == 4 and p.shape[-1] > 1 else 1) for name, p in twin.named_parameters()
    }
    assert {name: p.numel() for name, p in ours.named_parameters()} == expected
    convolutions = [m for name, m in ours.named_modules() if isinstance(m, nn.Conv3d) and "down" not in name]
    assert len(convolutions) + 1 == depth


def sizes_behind_stages(name: str, frames: int, side: int, **options: object) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = create_model(name, options=options).eval()
        x = torch.empty(1, 3, frames, side, side)
    sizes = {}
    for stage, modules in model.stages().items():
        for module in modules:
            x = module(x)
        sizes[stage] = tuple(x.shape[2:])
    return sizes


@pytest.mark.parametrize("name", ["resnet3d18", "resnet3d38", "resnet3d50", "resnet3d50_ttl"])
def test_maps_have_table_1s_sizes(name: str) -> None:
    assert sizes_behind_stages(name, 32, 224) == TABLE1_SIZES


def test_stems() -> None:
    sizes = sizes_behind_stages("r2plus1d18", 16, 112)
    assert (sizes["stem"], sizes["layer4"]) == ((16, 56, 56), (2, 7, 7))
    assert sizes_behind_stages("resnet3d18", 16, 112, stem="torchvision") == sizes
    assert sizes_behind_stages("resnet3d18", 32, 224, stem_pool_time_stride=2)["layer4"] == (1, 7, 7)


@pytest.mark.parametrize("frames", [1, 2, 5, 16])
@pytest.mark.parametrize("side", [1, 17, 64])
@pytest.mark.parametrize("stem", ["paper", "torchvision"])
def test_any_clip(frames: int, side: int, stem: str) -> None:
    options = {"width": 0.0625, "block_config": (1, 1, 1, 1), "stem": stem}
    model = create_model("resnet3d18", num_classes=4, options=options).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, frames, side, side + 2)).isfinite().all()


def test_a_full_net_computes() -> None:
    torch.manual_seed(0)
    model = create_model("resnet3d50", num_classes=3).eval()
    with torch.no_grad():
        features = model.forward_features(torch.randn(1, 3, 4, 32, 32))
    assert features.shape == (1, 2048, 1, 1, 1)
    assert features.std() > 0


def test_width_and_dropout() -> None:
    with torch.device("meta"):
        half = create_model("resnet3d50", num_classes=0, options={"width": 0.5})
        whole = create_model("resnet3d50", num_classes=0)
    assert 0.2 < count_parameters(half) / count_parameters(whole) < 0.3
    model = create_model("resnet3d18", num_classes=3, options={"width": 0.125, "drop_rate": 0.5})
    features = torch.rand(2, 64, 1, 2, 2)
    assert not torch.equal(model.forward_head(features), model.forward_head(features))
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((2, 3, 4)))
    model.eval()
    assert torch.equal(model.forward_head(features), model.forward_head(features))
    model.train().reset_classifier(0)  # what is left gives the features themselves
    assert torch.equal(model.forward_head(features), features.mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_config": [1, 1, 1]}, "must be a list of 4"),
        ({"block_config": [1, 0, 1, 1]}, "every block needs at least 1 layer"),
        ({"stem": "papers"}, "did you mean 'paper'"),
        ({"block": "bottle"}, "did you mean 'bottleneck'"),
        ({"stem_pool_time_stride": 3}, "allowed: 1, 2"),
        ({"width": 0.01}, "width is 0.01"),
        ({"width": -1}, "width is -1"),
        ({"drop_rate": 1.0}, r"\[0, 1\)"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"time_padding": "none"}, "time_padding"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("resnet3d18", options=options)
