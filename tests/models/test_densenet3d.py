"""DenseNet3D and T3D against the paper's Table 1; memory-efficient dense layers against the plain ones."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from t3d.errors import ConfigError
from t3d.models import VideoNet, create_model
from t3d.models.densenet3d import DenseLayer, DenseNet3D, DenseNet3DOptions
from t3d.models.flops import count_macs, count_parameters, model_size

TABLE1_SIZES = {
    "conv0": (16, 112, 112),
    "pool0": (16, 56, 56),
    "denseblock1": (16, 56, 56),
    "transition1": (8, 28, 28),
    "denseblock2": (8, 28, 28),
    "transition2": (4, 14, 14),
    "denseblock3": (4, 14, 14),
    "transition3": (2, 7, 7),
    "denseblock4": (2, 7, 7),
    "norm5": (2, 7, 7),
}
TABLE1_LAYERS = {
    "densenet3d121": (6, 12, 24, 16),
    "t3d121": (6, 12, 24, 16),
    "t3d169": (6, 12, 32, 32),
}


def on_meta(name: str, **options: object) -> VideoNet:
    with torch.device("meta"):
        return create_model(name, options=options).eval()


def output_sizes(model: VideoNet, frames: int, side: int) -> dict[str, tuple[int, ...]]:
    sizes: dict[str, tuple[int, ...]] = {}
    assert isinstance(model.features, nn.Sequential)
    for name, stage in model.features.named_children():
        stage.register_forward_hook(lambda _m, _x, out, name=name: sizes.update({name: tuple(out.shape)}))
    model(torch.empty(1, 3, frames, side, side, device="meta"))
    return sizes


@pytest.mark.parametrize("name", TABLE1_LAYERS)
def test_sizes_after_every_stage_are_table_1s(name: str) -> None:
    model = on_meta(name)
    sizes = {stage: size[2:] for stage, size in output_sizes(model, 32, 224).items() if stage in TABLE1_SIZES}
    assert sizes == TABLE1_SIZES
    assert model(torch.empty(2, 3, 32, 224, 224, device="meta")).shape == (2, 400)


@pytest.mark.parametrize(("name", "layers"), TABLE1_LAYERS.items())
def test_layers_are_table_1s(name: str, layers: tuple[int, ...]) -> None:
    model = on_meta(name)
    assert isinstance(model.features, nn.Sequential)
    blocks = [model.features.get_submodule(f"denseblock{i}") for i in range(1, 5)]
    assert [len(list(block.children())) for block in blocks] == list(layers)
    for block in blocks:
        for layer in block.children():
            assert isinstance(layer, DenseLayer)
            assert (layer.conv1.kernel_size, layer.conv1.out_channels) == ((1, 1, 1), 128)
            assert (layer.conv2.kernel_size, layer.conv2.out_channels) == ((3, 3, 3), 32)
    stem = model.features.conv0
    assert (stem.kernel_size, stem.stride, stem.out_channels) == ((3, 7, 7), (2, 2, 2), 64)


def test_ttl_depths_and_widths_are_table_1s() -> None:
    model = on_meta("t3d121")
    for i, depths in enumerate(((1, 3, 6), (1, 3, 4), (1, 3, 4))):
        transition = model.get_submodule(f"features.transition{i + 1}")
        assert [b.conv.kernel_size[0] for b in transition.branches] == list(depths)  # type: ignore[union-attr]
        assert transition.out_channels == 384
    assert model.num_features == 896
    assert on_meta("t3d169").num_features == 1408


@pytest.mark.parametrize(
    ("name", "millions", "gmacs"),
    [
        ("densenet3d121", 11.66, 62.5),
        ("t3d121", 29.88, 244.1),
        ("t3d169", 38.52, 247.9),
        ("densenet3d169", 19.21, 64.9),
    ],
)
def test_counts(name: str, millions: float, gmacs: float) -> None:
    size = model_size(name)
    assert round(size.parameters / 1e6, 2) == millions
    assert round(size.macs / 1e9, 1) == gmacs
    assert str(size) == f"{millions:.2f} M parameters, {gmacs} GMAC at 32 × 224 × 224"


def test_count_with_1000_classes() -> None:
    model = on_meta("densenet3d121")
    model.reset_classifier(1000)
    assert round(count_parameters(model) / 1e6, 2) == 12.27


def test_macs_equal_a_count_by_hand() -> None:
    options = DenseNet3DOptions(
        growth_rate=2,
        block_config=(1, 1),
        stem_channels=4,
        bottleneck=3,
        ttl_depths=((1, 4),),
        ttl_channels=5,
    )
    model = DenseNet3D(options, num_classes=7)
    running = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # Maps at 8 × 32 × 32: stem 4×16×16, block 1 at 4×8×8, block 2 at 2×4×4.
    stem = 4 * 3 * 3 * 49 * (4 * 16 * 16)
    block1 = (4 * 6 + 6 * 2 * 27) * (4 * 8 * 8)
    ttl = (6 * 5 + 6 * 5 * 4 * 9) * (4 * 8 * 8)
    block2 = (10 * 6 + 6 * 2 * 27) * (2 * 4 * 4)
    assert count_macs(model, num_frames=8, size=32) == stem + block1 + ttl + block2 + 12 * 7
    assert model.training
    assert all(torch.equal(running[name], buffer) for name, buffer in model.named_buffers())


@pytest.mark.parametrize("name", ["t3d_tiny", "densenet3d_tiny"])
def test_tiny_nets_are_tiny(name: str) -> None:
    assert count_parameters(on_meta(name)) < 2_000_000


def test_tiny_nets_differ_in_the_transition_alone() -> None:
    plain, temporal = (asdict(on_meta(name).options) for name in ("densenet3d_tiny", "t3d_tiny"))
    assert {key for key in plain if plain[key] != temporal[key]} == {"ttl_depths"}


@pytest.mark.parametrize("depth", [121, 161, 169, 201])
def test_keys_are_torchvisions(depth: int) -> None:
    with torch.device("meta"):
        twin = getattr(torchvision.models, f"densenet{depth}")(num_classes=400)
    ours, theirs = on_meta(f"densenet3d{depth}").state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        without_depth = (
            [*ours[name].shape[:2], *ours[name].shape[3:]] if tensor.ndim == 4 else ours[name].shape
        )
        assert list(without_depth) == list(tensor.shape), name


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, (1, 29)),
        ({"adapt_pool": False}, (15, 29)),
        ({"adapt_pool": False, "stem_pool_time_stride": 2}, (29, 29)),
        ({"stem_pool_time_stride": 2}, (1, 29)),
        ({"block_config": (2, 2), "ttl_depths": ((1, 3),)}, (1, 5)),
        ({"block_config": (2, 2), "ttl_depths": ((1, 3),), "adapt_pool": False}, (3, 5)),
    ],
)
def test_least_input(options: dict[str, object], least: tuple[int, int]) -> None:
    model = on_meta("t3d_tiny", **options)
    assert model.min_input_size() == least
    frames, side = least
    assert model(torch.empty(1, 3, frames, side, side, device="meta")).shape == (1, 400)
    assert isinstance(model.features, nn.Sequential)
    for shape in ((frames - 1, side, side), (frames, side - 1, side), (frames, side, side - 1)):
        x = torch.empty(1, 3, *shape, device="meta")
        with pytest.raises(ConfigError, match=f"at least {frames} frames of {side} × {side} pixels"):
            model(x)
        with pytest.raises(RuntimeError):  # the bound is not stricter than the layers themselves
            model.features(x)


@pytest.mark.parametrize("frames", [8, 9, 16, 31, 64])
@pytest.mark.parametrize("side", [64, 65, 112])
def test_any_clip_from_8_frames_and_side_64(frames: int, side: int) -> None:
    narrow = {"growth_rate": 4, "block_config": (1, 1, 1, 1), "stem_channels": 4, "ttl_channels": 4}
    for name in ("t3d121", "densenet3d121"):
        model = create_model(name, options=narrow).eval()
        with torch.no_grad():
            features = model.forward_features(torch.randn(1, 3, frames, side, side + 3))
        assert features.shape[2:] == (
            max(-(-frames // 2) // 8, 1),
            -(-side // 4) // 8,
            -(-(side + 3) // 4) // 8,
        )
        assert features.isfinite().all()


def test_stem_pool_can_halve_time() -> None:
    sizes = output_sizes(on_meta("t3d121", stem_pool_time_stride=2), 32, 224)
    assert sizes["pool0"][2:] == (8, 56, 56)
    assert sizes["norm5"][2:] == (1, 7, 7)


def test_projection_adds_a_1x1x1_of_unchanged_width() -> None:
    extra = count_parameters(on_meta("t3d_tiny", ttl_projection=True)) - count_parameters(on_meta("t3d_tiny"))
    assert extra == 3 * (96 * 96 + 2 * 96)


def test_time_padding_reaches_every_convolution_in_time() -> None:
    model = on_meta("t3d_tiny", time_padding="replicate")
    deep = [m for m in model.modules() if isinstance(m, nn.Conv3d) and m.kernel_size[0] > 1]
    assert deep
    assert all(getattr(conv, "time_padding", None) == "replicate" for conv in deep)


def test_initialization() -> None:
    torch.manual_seed(0)
    model = create_model("t3d_tiny", num_classes=5)
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 10_000:
            expected = (2 / module.weight[0].numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05)
        elif isinstance(module, nn.BatchNorm3d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
    assert model.get_submodule("classifier").bias.eq(0).all()  # type: ignore[union-attr, operator]


def slow_dense_block(block: nn.Module, x: Tensor) -> Tensor:
    for layer in block.children():
        assert isinstance(layer, DenseLayer)
        new = layer.conv1(F.relu(layer.norm1(x)))
        x = torch.cat([x, layer.conv2(F.relu(layer.norm2(new)))], dim=1)
    return x


def test_dense_block_equals_the_slow_one() -> None:
    torch.manual_seed(0)
    block = create_model("t3d_tiny").get_submodule("features.denseblock2").eval()
    x = torch.randn(2, block.denselayer1.norm1.num_features, 3, 5, 5)  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(block(x), slow_dense_block(block, x))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = create_model("t3d_tiny", num_classes=3, options={"drop_rate": 0.5})
    x = torch.randn(2, 3, 8, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth_rate": 0}, "growth_rate is 0"),
        ({"block_config": ()}, "block_config"),
        ({"block_config": (2, 2)}, "one for each of the 1 transitions"),
        ({"stem_pool_time_stride": 3}, "allowed: 1, 2"),
        ({"drop_rate": 1.0}, r"\[0, 1\)"),
        ({"ttl_depths": ((1,), (0,), (1,))}, "temporal depth"),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("t3d_tiny", options=options)
