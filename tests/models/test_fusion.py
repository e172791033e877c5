"""Several models as one: the members' probabilities, and the frames and pixels that each of them sees."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from t3d.card import CARD_KEY
from t3d.clip import ClipSpec
from t3d.data.clips import pixels
from t3d.data.clips.sampling import clips_of
from t3d.data.clips.transforms import center_view, normalize
from t3d.errors import CheckpointError, ConfigError
from t3d.models import ModelCard, create_model, list_models, load_model, save_model
from t3d.models.fused_clip import MOST_FRAMES, shared_clip, view_of
from t3d.models.fusion import FusedNet, FusedOptions, Member, normalized
from t3d.models.tensor_files import write_tensors

SMALL = {"growth_rate": 4, "block_config": [1, 1], "stem_channels": 8, "bottleneck": 1}
LONG = ClipSpec(num_frames=8, stride=2, size=32, resize=40, modality="diff")
SHORT = ClipSpec(num_frames=4, stride=2, size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def member(clip: ClipSpec, **values: float) -> Member:
    return Member("densenet3d_tiny", SMALL, clip, **values)


def fused(*members: Member) -> FusedNet:
    torch.manual_seed(0)
    net = create_model("fused", num_classes=3, options=asdict(FusedOptions(members)))
    assert isinstance(net, FusedNet)
    return net.eval()


def separate(net: FusedNet, number: int) -> nn.Module:
    """Return a member as a model with its own classifier."""
    own = net.options.members[number]
    model = create_model(own.architecture, num_classes=3, options=own.options).eval()
    part = net.get_submodule(f"features.members.{number}.net").state_dict()
    head = net.get_submodule(f"classifier.heads.{number}").state_dict()
    model.load_state_dict({**part, **{f"classifier.{name}": tensor for name, tensor in head.items()}})
    return model


@torch.inference_mode()
def test_probabilities_are_the_weighted_mean_of_the_members_with_their_temperatures() -> None:
    net = fused(member(LONG, weight=3.0, temperature=2.0), member(SHORT, weight=1.0, temperature=0.5))
    assert (net.clip.num_frames, net.clip.stride, net.clip.size, net.clip.resize) == (8, 2, 40, 40)
    frames = torch.randint(0, 256, (2, 8, 3, 40, 40), dtype=torch.uint8)
    long = separate(net, 0)(normalize(torch.stack([center_view(each, LONG) for each in frames]), LONG))
    small = torch.stack([pixels.resize(each.float(), 32, 32).round().byte() for each in frames])
    parts = [separate(net, 1)(normalize(clip, SHORT)) for clip in (small[:, :4], small[:, 4:])]
    short = torch.stack([(part / 0.5).softmax(1) for part in parts]).mean(0)
    expected = 0.75 * (long / 2).softmax(1) + 0.25 * short
    torch.testing.assert_close(net(normalize(frames, net.clip)).softmax(1), expected, rtol=0, atol=1e-5)


def test_members_see_their_own_clips() -> None:
    clips = [
        ClipSpec(num_frames=16, stride=4),
        ClipSpec(num_frames=8, stride=2),
        ClipSpec(num_frames=3, stride=8),
    ]
    shared = shared_clip(clips)
    assert (shared.num_frames, shared.stride) == (32, 2)
    frames = clips_of(128, shared)
    for clip in clips[:2]:
        seen = [at[list(window)].tolist() for at in frames for window in view_of(clip, shared).windows]
        assert seen == [own.tolist() for own in clips_of(128, clip)]
    # 3 frames of every eighth reach 24 frames: two clips of them fit into 64, at its ends.
    assert [list(each) for each in view_of(clips[2], shared).windows] == [[0, 4, 8], [20, 24, 28]]


def test_members_by_time() -> None:
    shared = shared_clip([ClipSpec(num_frames=8, fps=12.5), ClipSpec(num_frames=4, fps=5)])
    assert (shared.num_frames, shared.fps) == (20, 25.0)
    assert list(view_of(ClipSpec(num_frames=4, fps=5), shared).windows) == [range(0, 20, 5)]


@pytest.mark.parametrize("modality", ["rgb", "diff", "gray"])
def test_normalization_is_that_of_other_models(modality: str) -> None:
    spec = replace(SHORT, modality=modality, mean=(0.4, 0.5, 0.3), std=(0.2, 0.3, 0.4))
    frames = torch.randint(0, 256, (2, 5, 3, 6, 6), dtype=torch.uint8)
    expected = normalize(frames, spec)
    torch.testing.assert_close(normalized(frames.transpose(1, 2).float(), spec), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([ClipSpec(), ClipSpec(fps=12.5)], r"by time \(clip.fps\), and others count frames"),
        ([ClipSpec(), ClipSpec(resize_mode="square")], "clip.resize_mode of the models differs"),
        ([ClipSpec(), ClipSpec(tonemap=True)], "clip.tonemap of the models differs"),
        ([ClipSpec(), ClipSpec(pixel_aspect="square")], "clip.pixel_aspect of the models differs"),
        ([ClipSpec(), ClipSpec(segments=3)], "clip.segments of a model is 3"),
        (
            [ClipSpec(num_frames=MOST_FRAMES), ClipSpec(stride=3)],
            "clip.stride of the models is 2, 3; .* 1,024 frames",
        ),
    ],
)
def test_clips_that_do_not_fit_together(clips: list[ClipSpec], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shared_clip(clips)


def test_wrong_members() -> None:
    with pytest.raises(ConfigError, match="needs members"):
        create_model("fused")
    with pytest.raises(ConfigError, match="itself a fused model"):
        FusedOptions((Member("fused"),))
    with pytest.raises(ConfigError, match=r"temperature of a member is 0\.0"):
        FusedOptions((Member("t3d_tiny", temperature=0.0),))
    with pytest.raises(ConfigError, match="at most 16"):
        FusedOptions((Member("t3d_tiny"),) * 17)
    with pytest.raises(ConfigError, match="exactly 4 frames of 32 × 32"):
        fused(member(SHORT))(torch.zeros(1, 3, 8, 32, 32))
    assert "fused" not in list_models()


def test_a_file_has_all_of_it(tmp_path: Path) -> None:
    net = fused(member(LONG, weight=3.0), member(SHORT, temperature=0.5))
    card = ModelCard("fused", options=asdict(net.options), classes=("a", "b", "c"), clip=net.clip)
    save_model(net, tmp_path / "net.safetensors", card=card)
    loaded, loaded_card = load_model(tmp_path / "net.safetensors")
    assert loaded.options == net.options
    assert loaded_card.clip == net.clip
    x = torch.rand(1, 3, 8, 40, 40)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(x), net(x), rtol=0, atol=0)
    wrong = replace(card, options={"members": [{**asdict(member(LONG)), "weight": -1}]})
    with pytest.raises(ConfigError, match=r"weight of a member is -1\.0"):
        save_model(net, tmp_path / "wrong.safetensors", card=wrong)


def test_a_new_classifier_sees_the_features_of_all_members() -> None:
    net = fused(member(LONG), member(SHORT))
    x = torch.rand(2, 3, 8, 40, 40)
    with torch.inference_mode():
        pooled = net.forward_head(net.forward_features(x), pre_logits=True)
        net.reset_classifier(5)
        linear = net.get_classifier()
        assert isinstance(linear, nn.Linear)
        assert linear.in_features == pooled.shape[1] == net.num_features
        torch.testing.assert_close(net(x), linear(pooled))
    again = create_model("fused", num_classes=5, options=asdict(net.options))
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    "members",
    [
        [],
        [{"architecture": "fused"}],
        [{"architecture": "t3d_tiny", "weight": "much"}],
        [{"architecture": "t3d_tiny", "clip": {"fps": 1e-9, "stride": None}}],
        [{"architecture": "t3d_tiny", "clip": {"num_frames": 10_000, "size": 8}}],
        [{"architecture": "resnet3d101", "options": {"width": 8.0}}] * 16,
    ],
)
def test_a_file_with_impossible_members_is_refused(members: list[object], tmp_path: Path) -> None:
    values = json.loads(ModelCard("fused", classes=("a",)).to_json())
    values["options"] = {"members": members}
    path = tmp_path / "net.safetensors"
    write_tensors({"x": torch.zeros(1)}, path, metadata={CARD_KEY: json.dumps(values)})
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_model(path)
