"""Foreign files: their names are understood, their code is not run."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import CheckpointError, ConfigError
from t3d.models import VideoNet, create_model, load_model
from t3d.models.convert import convert_checkpoint, import_torch_file, inflate_checkpoint

CLASSES = ("run", "jump")


@pytest.fixture
def net() -> VideoNet:
    torch.manual_seed(0)
    model = create_model("densenet3d_tiny", num_classes=2)
    model(torch.randn(2, 3, 8, 32, 32))
    return model.eval()


def dotted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of old DenseNets: denselayer1.norm.1.weight, and no count of batches."""
    return {
        re.sub(r"(denselayer\d+\.)(norm|conv)(\d)\.", r"\1\2.\3.", name): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def test_torchvision_names_load(net: VideoNet, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pth")
    state = import_torch_file(tmp_path / "net.pth")
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", ["state_dict", None])
def test_dotted_names_load(net: VideoNet, tmp_path: Path, prefix: str, wrapper: str | None) -> None:
    state = {prefix + name: tensor for name, tensor in dotted(net.state_dict()).items()}
    assert f"{prefix}features.denseblock1.denselayer1.norm.1.weight" in state
    torch.save({"epoch": 3, wrapper: state} if wrapper else state, tmp_path / "theirs.pth")
    target = tmp_path / "ours.safetensors"
    clip = ClipSpec(num_frames=16, size=64, resize=72)
    card = convert_checkpoint(
        tmp_path / "theirs.pth",
        target,
        card=ModelCard("densenet3d_tiny", classes=CLASSES, clip=clip, provenance={"license": "MIT"}),
    )
    again, read = load_model(target)
    assert read == card
    assert (read.classes, read.clip) == (CLASSES, clip)
    assert read.provenance["converted_from"] == "theirs.pth"
    assert read.provenance["license"] == "MIT"
    x = torch.randn(1, 3, 8, 32, 32)
    assert torch.equal(again(x), net(x))


def test_renaming(net: VideoNet, tmp_path: Path) -> None:
    theirs = {
        name.replace("features.", "body.").replace("classifier", "fc"): t
        for name, t in net.state_dict().items()
    }
    save_file(theirs, tmp_path / "theirs.safetensors")
    convert_checkpoint(
        tmp_path / "theirs.safetensors",
        tmp_path / "ours.safetensors",
        card=ModelCard("densenet3d_tiny", classes=CLASSES, clip=ClipSpec()),
        rename={"body.": "features.", "fc": "classifier"},
    )
    assert torch.equal(
        load_model(tmp_path / "ours.safetensors")[0].state_dict()["classifier.weight"], theirs["fc.weight"]
    )


def test_the_longest_old_name_wins(tmp_path: Path) -> None:
    torch.save({"a.b.c": torch.ones(1), "a.d": torch.ones(1)}, tmp_path / "x.pth")
    assert set(import_torch_file(tmp_path / "x.pth", rename={"a.": "x.", "a.b.": "y."})) == {"y.c", "x.d"}


def test_wrong_architecture_or_classes(net: VideoNet, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "net.pth")

    def convert(architecture: str, classes: tuple[str, ...]) -> None:
        convert_checkpoint(
            tmp_path / "net.pth",
            tmp_path / "out.safetensors",
            card=ModelCard(architecture, classes=classes, clip=ClipSpec()),
        )

    with pytest.raises(CheckpointError, match=r"not the weights of t3d_tiny.*missing: features\.transition1"):
        convert("t3d_tiny", CLASSES)
    with pytest.raises(CheckpointError, match=r"with 1 classes.*classifier\.weight is 2×\d+, expected 1"):
        convert("densenet3d_tiny", ("run",))
    with pytest.raises(ConfigError, match="did you mean 'densenet3d_tiny'"):
        convert("densenet_tiny", CLASSES)
    assert not (tmp_path / "out.safetensors").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "bomb": Bomb(tmp_path / "boom")}, tmp_path / "bad.pth")
    with pytest.raises(
        CheckpointError, match=r"bad\.pth: not a file of plain tensors \(it names \w+\.mkdir\)"
    ):
        import_torch_file(tmp_path / "bad.pth")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a file of plain tensors"),
        (b"hello", "not a file of plain tensors"),
        (b"<html>", "not a file of plain tensors"),
        (b"PK\x03\x04xx", "not a file of plain tensors"),
        (None, "no such weights file"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.pth: {message}"):
        import_torch_file(tmp_path / "x.pth")


def test_truncated_file(net: VideoNet, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="not a file of plain tensors"):
        import_torch_file(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("values", "message"), [([1, 2], "contains a list"), ({"epoch": 3}, "its keys are epoch")]
)
def test_files_without_tensors(tmp_path: Path, values: object, message: str) -> None:
    torch.save(values, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=message):
        import_torch_file(tmp_path / "x.pth")


def test_a_file_of_which_nothing_fits_is_not_inflated(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(4, 3, 5, 5)}, tmp_path / "other.pth")
    target = tmp_path / "ours.safetensors"
    with pytest.raises(CheckpointError, match=r"other\.pth: 2D weights: no weight of the backbone fits"):
        inflate_checkpoint(
            tmp_path / "other.pth", target, card=ModelCard("resnet3d18", clip=ClipSpec()), method="mean"
        )
    assert not target.exists()
