"""Weights files read back exactly, and damaged files raise an error that names them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from t3d.card import CARD_KEY
from t3d.clip import ClipSpec
from t3d.errors import CheckpointError, ConfigError
from t3d.models import ModelCard, create_model, load_backbone, load_model, save_model
from t3d.models.weights import read_tensors

OPTIONS: dict[str, object] = {"block_config": (1, 1), "ttl_depths": ((1, 3),)}
CARD = ModelCard(
    "t3d_tiny",
    options=OPTIONS,
    classes=("läuft", "ジャンプ", "a b"),
    clip=ClipSpec(num_frames=16, stride=4, size=64, resize=72, mean=(0.4, 0.5, 0.6), tail="shift"),
    provenance={"data": "none", "top1": 0.25, "seeds": [1, 2]},
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("t3d_tiny", num_classes=3, options=OPTIONS)
    model(torch.randn(2, 3, 8, 32, 32))  # gives the BatchNorms something to keep
    path = tmp_path / "net.safetensors"
    save_model(model, path, card=CARD)
    return path


def tamper(path: Path, change: Callable[[dict[str, Tensor], dict[str, object]], None]) -> None:
    state, text = read_tensors(path)
    assert text is not None
    card = json.loads(text)
    change(state, card)
    save_file(state, path, metadata={CARD_KEY: json.dumps(card)})


def test_a_card_carries_the_rate_of_clips_and_stays_readable_for_older_versions_without_one() -> None:
    timed = replace(CARD, clip=ClipSpec(num_frames=16, fps=12.5))
    assert ModelCard.from_json(timed.to_json()) == timed
    assert json.loads(timed.to_json())["clip"]["stride"] is None
    assert "fps" not in json.loads(CARD.to_json())["clip"]


def test_round_trip(saved: Path) -> None:
    state, _ = read_tensors(saved)
    random_state = torch.get_rng_state()
    model, card = load_model(saved)
    assert torch.equal(random_state, torch.get_rng_state())
    assert card == CARD
    assert not model.training
    assert model.num_classes == 3
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert model.get_buffer("features.norm0.num_batches_tracked") == 1
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


def test_memory_format_and_classless_nets(tmp_path: Path) -> None:
    model = create_model("t3d_tiny", num_classes=0, options=OPTIONS)
    model.to(memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]
    path = tmp_path / "new" / "folder" / "net.safetensors"
    save_model(model, path, card=ModelCard("t3d_tiny", options=OPTIONS))
    again, _ = load_model(path)
    x = torch.randn(1, 3, 8, 32, 32)
    assert again(x).shape == (1, again.num_features)
    torch.testing.assert_close(again(x), model(x))


def test_half_precision_files_become_float(saved: Path) -> None:
    def halve(state: dict[str, Tensor], _: dict[str, object]) -> None:
        state.update({k: v.half() for k, v in state.items() if v.is_floating_point()})

    tamper(saved, halve)
    model, _ = load_model(saved)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_card_is_readable_json_in_the_header(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        card = json.loads(file.metadata()[CARD_KEY])
    assert card["architecture"] == "t3d_tiny"
    assert card["classes"] == ["läuft", "ジャンプ", "a b"]
    assert card["clip"]["num_frames"] == 16
    assert card["version"] == 1


def test_the_card_carries_the_shape_of_pixels() -> None:
    card = ModelCard("t3d_tiny", clip=ClipSpec(pixel_aspect="square"))
    assert ModelCard.from_json(card.to_json()) == card
    assert "pixel_aspect" not in ModelCard("t3d_tiny").to_json()  # so that older versions can read it


def test_card_must_hold_json() -> None:
    with pytest.raises(ConfigError, match="provenance of a model card must hold plain JSON"):
        ModelCard("t3d_tiny", provenance={"path": Path("x")})


def test_card_must_describe_the_net(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    model = create_model("t3d_tiny", num_classes=3)
    with pytest.raises(CheckpointError, match=r"classifier.weight is 3×\d+, expected 2×\d+"):
        save_model(model, path, card=ModelCard("t3d_tiny", classes=("a", "b")))
    with pytest.raises(CheckpointError, match=r"missing: features\.transition1\.norm\.weight"):
        save_model(model, path, card=ModelCard("densenet3d_tiny", classes=("a", "b", "c")))
    with pytest.raises(CheckpointError, match=r"must end with \.safetensors"):
        save_model(model, tmp_path / "net.pth", card=ModelCard("t3d_tiny", classes=("a", "b", "c")))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full_disk(_state: object, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    model, card = load_model(saved)
    with pytest.raises(OSError, match="no space"):
        save_model(model, saved, card=card)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing\.safetensors: no such run folder or weights file"):
        load_model(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, 5000])
def test_truncated_file(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(
        CheckpointError, match=r"net\.safetensors: the file is damaged or incomplete .*; copy it again"
    ):
        load_model(saved)


def test_no_safetensors_file(tmp_path: Path) -> None:
    for name, message in (
        ("net.pth", r"net\.pth: a PyTorch file; convert it with `t3d convert`"),
        ("net.pt", r"net\.pt: a PyTorch file; convert it with `t3d convert`"),
        ("net.bin", r"net\.bin: not a safetensors file$"),
    ):
        torch.save({"a": torch.ones(1)}, tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / name)


def test_a_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(
        CheckpointError,
        match=r"was not written by t3d \(it does not name a model and classes\); convert it with `t3d",
    ):
        load_model(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"features.norm0.weight": None}, "missing: features.norm0.weight"),
        ({"extra": torch.ones(1)}, "unexpected: extra"),
        ({"classifier.bias": torch.ones(4)}, "classifier.bias is 4, expected 3"),
    ],
)
def test_tampered_tensors(saved: Path, tensors: dict[str, Tensor | None], message: str) -> None:
    def change(state: dict[str, Tensor], _: dict[str, object]) -> None:
        for name, tensor in tensors.items():
            if tensor is None:
                del state[name]
            else:
                state[name] = tensor

    tamper(saved, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classes": ["a", "b"]}, r"with 2 classes.*classifier.weight is 3×\d+, expected 2"),
        ({"architecture": "densenet3d121", "options": {}}, "missing: features.denseblock1.denselayer2"),
        ({"architecture": "t3d_tinny"}, "did you mean 't3d_tiny'"),
        ({"options": {"grow_rate": 3}}, "did you mean 'growth_rate'"),
        ({"version": 2}, "update t3d"),
        ({"clip": {"num_frame": 3}}, "did you mean 'num_frames'"),
        ({"clip": {"stride": "2"}}, "must be a whole number"),
        ({"clip": {"stride": 0}}, "must be at least 1"),
        ({"clip": 3}, "must be a table"),
        ({"classes": "ab"}, "must be a list"),
        ({"author": "me"}, "unknown name 'author'"),
    ],
)
def test_tampered_card(saved: Path, fields: dict[str, object], message: str) -> None:
    tamper(saved, lambda _, card: card.update(fields))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(saved)
    assert str(saved) in str(error.value)


def test_invalid_json_in_a_card(saved: Path) -> None:
    state, _ = read_tensors(saved)
    save_file(state, saved, metadata={CARD_KEY: "{"})
    with pytest.raises(CheckpointError, match="not JSON"):
        load_model(saved)


def test_backbone_of_another_class_count(saved: Path) -> None:
    model = create_model("t3d_tiny", num_classes=7, options=OPTIONS)
    classifier = {name: p.clone() for name, p in model.named_parameters() if "classifier" in name}
    report = load_backbone(model, saved)
    assert report.complete
    assert set(report.skipped) == {"classifier.weight", "classifier.bias"}
    assert not report.unexpected
    state, _ = read_tensors(saved)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, classifier.get(name, state.get(name, tensor))), name


def test_backbone_of_a_sibling_is_reported(saved: Path) -> None:
    model = create_model("densenet3d_tiny", options={"block_config": (1, 1)})
    untouched = model.get_parameter("features.transition1.conv.weight").clone()
    report = load_backbone(model, saved)
    assert "features.conv0.weight" in report.loaded
    assert "features.transition1.conv.weight" in report.missing
    assert "features.transition1.branches.0.conv.weight" in report.unexpected
    assert "features.denseblock2.denselayer1.conv1.weight" in {name for name, *_ in report.mismatched}
    assert torch.equal(untouched, model.get_parameter("features.transition1.conv.weight"))


def test_nothing_fits(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.ones(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r"no weight of the backbone fits.*another architecture"):
        load_backbone(create_model("t3d_tiny"), path)


def test_buffers_that_files_do_not_hold_are_computed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"backbone": "timm:levit_128s"}
    net = create_model("frames", num_classes=2, options=options).eval()
    assert any(name not in net.state_dict() for name, _ in net.named_buffers())
    save_model(net, tmp_path / "w.safetensors", card=ModelCard("frames", options=options, classes=("a", "b")))
    again, _ = load_model(tmp_path / "w.safetensors")
    for (name, one), (_, other) in zip(net.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(one, other), name
