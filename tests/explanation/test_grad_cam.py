"""Grad-CAM, compared with captum and with networks that are computed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.explanation.grad_cam import FEATURES, Layer, class_activation, layers_of
from t3d.explanation.network import ExplainedNet
from t3d.models.frames import FrameNet, FrameNetOptions
from t3d.models.fusion import FusedNet, FusedOptions, Member
from t3d.models.net import NetOptions, VideoNet
from t3d.models.registry import create_model

SPEC = ClipSpec(num_frames=8, stride=1, size=64, resize=64)
SMALL = {"block_config": [1, 1, 1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


def clip(spec: ClipSpec = SPEC) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (spec.segments * spec.num_frames, 3, spec.size, spec.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def net_of(name: str, options: dict[str, object], spec: ClipSpec = SPEC) -> ExplainedNet:
    torch.manual_seed(0)
    return ExplainedNet(create_model(name, num_classes=3, options=options), spec)


@pytest.mark.parametrize(
    ("name", "options", "stage", "module"),
    [
        ("resnet3d18", {"width": 0.25}, None, "layer3"),  # its last map has 2 × 2 places
        ("resnet3d18", {"width": 0.25}, "layer4", "layer4"),
        ("resnet3d18", {"width": 0.25}, "stem", "maxpool"),
        ("t3d_tiny", {}, None, "features.denseblock3"),
        ("t3d_tiny", {}, "denseblock2", "features.transition2"),
        ("t3d_tiny", {}, "denseblock4", "features.norm5"),
    ],
)
@pytest.mark.parametrize("segments", [1, 2])
def test_the_map_equals_that_of_captum(
    name: str, options: dict[str, object], stage: str | None, module: str, segments: int
) -> None:
    spec = ClipSpec(num_frames=8, stride=1, size=64, resize=64, segments=segments)
    net = net_of(name, options, spec)
    x = net.input_of(clip(spec))
    strongest = 0.0
    for label in range(3):
        ours = class_activation(net, x, label, layers_of(net.net, x, stage))
        other = LayerGradCam(net.net, net.net.get_submodule(module))
        theirs = other.attribute(x.clone().requires_grad_(), target=label, relu_attributions=True).detach()
        theirs = F.interpolate(theirs, (8, 64, 64), mode="trilinear", align_corners=False)[:, 0]
        theirs = theirs.flatten(0, 1) / segments  # the score is the mean over the segments
        assert ours.shape == (8 * segments, 64, 64)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.max()) + 1e-9)
        strongest = max(strongest, float(theirs.max()))
    assert strongest > 1e-6


class Corner(VideoNet):
    """A network whose map is the clip, pooled 2 × 2: class 0 is red, class 1 is blue."""

    def __init__(self) -> None:
        super().__init__(NetOptions(), in_channels=3, num_features=3, num_classes=2)
        self.pool = nn.AvgPool3d((1, 2, 2))
        self.classifier = nn.Linear(3, 2, bias=False)
        self.classifier.weight.data = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])

    def layers(self) -> dict[str, list[nn.Module]]:
        return {"pool": [self.pool]}

    def forward_features(self, x: Tensor) -> Tensor:
        return self.run_stages(x)

    def min_input_size(self) -> tuple[int, int]:
        return 1, 2


def test_a_network_computed_by_hand() -> None:
    spec = ClipSpec(num_frames=2, stride=1, size=8, resize=8, mean=(0, 0, 0), std=(1, 1, 1))
    net = ExplainedNet(Corner(), spec)
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    frames[0, 0, :2, :2] = 255  # red in the first frame
    frames[1, 2, 6:, 6:] = 255  # blue in the second
    x = net.input_of(frames)
    red = class_activation(net, x, 0, layers_of(net.net, x))
    assert red[0, 0, 0] == pytest.approx(1 / 32, rel=1e-5)  # gradient: 1 of 2 × 4 × 4 places
    assert red[0].argmax() == 0
    assert red[0, 4:].max() == 0
    assert red[1, 4:, 4:].max() == 0
    blue = class_activation(net, x, 1, layers_of(net.net, x))
    assert blue[1, 7, 7] == pytest.approx(1 / 32, rel=1e-5)
    assert blue[0, 0, 0] == 0


class InPlace(Corner):
    """The same with a layer after the map that changes it in place."""

    def layers(self) -> dict[str, list[nn.Module]]:
        return {"pool": [self.pool], "relu": [nn.ReLU(inplace=True)]}


def test_a_later_layer_may_change_the_map_in_place() -> None:
    spec = ClipSpec(num_frames=2, stride=1, size=8, resize=8)  # normalized: some pixels are below 0
    plain, other = ExplainedNet(Corner(), spec), ExplainedNet(InPlace(), spec)
    x = plain.input_of(clip(spec))
    kept = class_activation(other, x, 0, layers_of(other.net, x, "pool"))
    maps = F.avg_pool3d(x, (1, 2, 2))
    gradient = (maps > 0).float() * torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1, 1) / 32
    cam = F.relu((gradient.mean((2, 3, 4), keepdim=True) * maps).sum(1))
    expected = F.interpolate(cam[:, None], (2, 8, 8), mode="trilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(kept, expected)
    assert expected.max() > 0


def test_the_last_map_with_four_places_is_chosen() -> None:
    for side, name in ((32, "denseblock2"), (64, "denseblock3"), (128, FEATURES)):
        net = net_of("t3d_tiny", SMALL, ClipSpec(num_frames=4, stride=1, size=side, resize=side))
        x = torch.zeros(1, 3, 4, side, side)
        assert [layer.name for layer in layers_of(net.net, x)] == [name]


def test_stages_that_do_not_exist() -> None:
    net = net_of("t3d_tiny", SMALL)
    with pytest.raises(ConfigError, match=r"`stage` is 'denseblok3'; did you mean 'denseblock3'\?"):
        layers_of(net.net, torch.zeros(1, 3, 8, 64, 64), "denseblok3")
    frames = ExplainedNet(FrameNet(FrameNetOptions("timm:resnet10t"), num_classes=2), SPEC)
    with pytest.raises(ConfigError, match="a 2D network on frames has no stages"):
        layers_of(frames.net, torch.zeros(1, 3, 8, 64, 64), "frames")


@pytest.mark.parametrize("pooling", ["mean", "mean_std"])
def test_frames_have_a_map_each(pooling: str) -> None:
    torch.manual_seed(0)
    options = FrameNetOptions("torchvision:squeezenet1_1", pooling=pooling)  # type: ignore[arg-type]
    net = ExplainedNet(FrameNet(options, num_classes=3), SPEC)
    x = net.input_of(clip())
    (layer,) = layers_of(net.net, x)
    ours = class_activation(net, x, 1, [layer])
    assert layer.module is not None
    with torch.enable_grad():
        images = x.transpose(1, 2).flatten(0, 1)
        maps = net.net.frames.net(images).detach().requires_grad_()  # squeezenet's features: 512 × 3 × 3
        pooled = maps.mean((2, 3))
        features = [pooled.mean(0)]
        if pooling == "mean_std":
            features.append(pooled.std(0, correction=0))
        score = net.net.classifier(torch.cat(features)[None])[0, 1]
        (gradient,) = torch.autograd.grad(score, maps)
    cam = F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1)).detach()
    expected = F.interpolate(cam[:, None], (64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6 * float(expected.max()) + 1e-9)
    assert expected.max() > 0


def test_a_transformer_on_frames_has_no_map() -> None:
    options = FrameNetOptions("timm:test_vit", image_size=64)
    net = ExplainedNet(FrameNet(options, num_classes=3), SPEC)
    x = net.input_of(clip())
    assert layers_of(net.net, x) == []


def test_members_of_a_fused_model_are_placed_in_the_shared_clip() -> None:
    torch.manual_seed(0)
    long = ClipSpec(num_frames=8, stride=1, size=64, resize=64)
    short = ClipSpec(num_frames=2, stride=2, size=32, resize=64)  # the center of two pairs of frames
    members = (Member("densenet3d_tiny", dict(SMALL), long), Member("densenet3d_tiny", dict(SMALL), short))
    model = FusedNet(FusedOptions(members), num_classes=3)
    net = ExplainedNet(model, model.clip)
    x = net.input_of(clip(model.clip))
    layers = layers_of(net.net, x)
    assert [layer.name.partition(":")[0] for layer in layers] == ["1 densenet3d_tiny", "2 densenet3d_tiny"]
    places = [places_of(net, x, layer) for layer in layers]
    strongest = 0.0
    for label in range(3):
        both = class_activation(net, x, label, layers)
        first, second = (class_activation(net, x, label, [layer]) for layer in layers)
        assert both.shape == (8, 64, 64)
        torch.testing.assert_close(both, first * places[0] + second * places[1], rtol=1e-3, atol=1e-6)
        assert second[:, :15].max() == 0  # the second member does not see the border
        strongest = max(strongest, float(second[:, 20:44, 20:44].max()))
    assert strongest > 0


def places_of(net: ExplainedNet, x: Tensor, layer: Layer) -> int:
    """Number of places of the map of a layer, counted by a hook."""
    shapes: list[torch.Size] = []
    assert layer.module is not None
    handle = layer.module.register_forward_hook(lambda _module, _inputs, out: shapes.append(out.shape))
    with torch.no_grad():
        net.net(x)
    handle.remove()
    return shapes[0][2:].numel()
