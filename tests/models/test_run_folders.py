"""A run folder wherever weights are: finished, unfinished, and none at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from t3d.errors import CheckpointError, WriteError
from t3d.evaluation.config import TestConfig
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.run_test import run_test
from t3d.models import ModelCard, VideoNet, create_model, load_backbone, load_model, save_model
from t3d.models.weights_file import weights_file
from t3d.models.weights_header import CHECKPOINT_KEY, read_card

OPTIONS: dict[str, object] = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
CARD = ModelCard("densenet3d_tiny", options=OPTIONS, classes=("a", "b"), provenance={"epochs": 3})


def net(seed: int) -> VideoNet:
    torch.manual_seed(seed)
    return create_model("densenet3d_tiny", num_classes=2, options=OPTIONS)


def named(model: VideoNet, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in model.state_dict().items()}


def checkpoint(folder: Path, *, weights: str) -> Path:
    """Folder of an unfinished run, with three sets of weights."""
    header = {"format": 2, "progress": {"epoch": 3}, "card": CARD.to_json(), "weights": weights}
    tensors = named(net(1), "model.") | named(net(2), "ema.module.") | named(net(3), "best.")
    tensors |= {
        "optim.features.conv0.weight.momentum_buffer": torch.ones(2),
        "ema.n_averaged": torch.ones(()),
    }
    path = folder / "checkpoint.safetensors"
    save_file(tensors, path, metadata={CHECKPOINT_KEY: json.dumps(header)})
    return path


def same(a: VideoNet, b: VideoNet) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_opened_by_its_best_weights_or_its_last(tmp_path: Path) -> None:
    checkpoint(tmp_path, weights="best.")  # it stays
    save_model(net(5), tmp_path / "last.safetensors", card=CARD)
    assert weights_file(tmp_path) == tmp_path / "last.safetensors"
    save_model(net(6), tmp_path / "best.safetensors", card=CARD)
    for allow_unfinished in (False, True):
        assert weights_file(tmp_path, allow_unfinished=allow_unfinished) == tmp_path / "best.safetensors"
    assert weights_file(tmp_path / "last.safetensors") == tmp_path / "last.safetensors"
    model, card = load_model(tmp_path)
    assert same(model, net(6))
    assert card == read_card(tmp_path) == CARD
    other = net(7)
    assert load_backbone(other, tmp_path).complete
    assert torch.equal(
        other.get_parameter("features.conv0.weight"), net(6).get_parameter("features.conv0.weight")
    )
    assert Predictor(tmp_path).card == CARD


@pytest.mark.parametrize(("weights", "seed"), [("best.", 3), ("model.", 1), ("ema.module.", 2)])
def test_an_unfinished_run_is_opened_by_its_current_weights_if_allowed(
    tmp_path: Path, weights: str, seed: int
) -> None:
    path = checkpoint(tmp_path, weights=weights)
    for asked in (tmp_path, path):
        for refuse in (load_model, read_card, lambda p: load_backbone(net(0), p), Predictor):
            with pytest.raises(CheckpointError, match=r"this run is not finished.*resume.*allow_unfinished"):
                refuse(asked)  # type: ignore[operator]
        with pytest.warns(UserWarning, match="this run is not finished; these are its weights so far"):
            model, card = load_model(asked, allow_unfinished=True)
        assert same(model, net(seed))
        assert card == read_card(asked, allow_unfinished=True) == CARD
    with pytest.warns(UserWarning, match="not finished"):
        assert Predictor(tmp_path, allow_unfinished=True).card == CARD


def test_other_folders_and_checkpoints_are_refused(tmp_path: Path) -> None:
    for allow_unfinished in (False, True):
        with pytest.raises(
            CheckpointError, match=r"does not contain best\.safetensors, last\.safetensors or check"
        ):
            load_model(tmp_path, allow_unfinished=allow_unfinished)
    path = tmp_path / "checkpoint.safetensors"
    for text in ("{}", "[]", "{", json.dumps({"weights": "best."})):
        save_file({"best.x": torch.ones(1)}, path, metadata={CHECKPOINT_KEY: text})
        with pytest.raises(CheckpointError, match="does not say which weights it offers"):
            load_model(tmp_path, allow_unfinished=True)
    with pytest.raises(CheckpointError, match="absent: no such run folder or weights file"):
        load_model(tmp_path / "absent", allow_unfinished=True)


def test_a_folder_of_an_earlier_version_names_its_weights_file(tmp_path: Path) -> None:
    old = tmp_path / "model.safetensors"
    save_model(net(5), old, card=CARD)
    save_model(net(6), tmp_path / "best.safetensors", card=CARD)  # earlier versions: of a run under way, too
    with pytest.raises(
        CheckpointError, match=f"earlier version of t3d wrote this folder; .*{re.escape(str(old))}"
    ):
        weights_file(tmp_path, allow_unfinished=True)
    assert same(load_model(old)[0], net(5))
    save_model(net(7), tmp_path / "last.safetensors", card=CARD)
    assert weights_file(tmp_path) == tmp_path / "best.safetensors"


def test_a_model_without_a_classifier_classifies_nothing(tmp_path: Path) -> None:
    student = create_model("densenet3d_tiny", num_classes=0, options=OPTIONS)
    save_model(student, tmp_path / "last.safetensors", card=ModelCard("densenet3d_tiny", options=OPTIONS))
    assert load_model(tmp_path)[1].classes == ()
    with pytest.raises(CheckpointError, match="has no classifier"):
        Predictor(tmp_path)
    with pytest.raises(CheckpointError, match="has no classifier"):
        run_test(TestConfig(str(tmp_path), "videos.csv"))


def test_a_full_disk_is_an_error_and_the_previous_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    save_model(net(5), path, card=CARD)

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(WriteError, match=r"last\.safetensors: cannot be written: No space left"):
        save_model(net(6), path, card=CARD)
    assert same(load_model(path)[0], net(5))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("runs/frist", "; did you mean {runs}/first?"),
        ("runs/x", "; runs in {runs}: first, second"),
        ("runs/first/bst.safetensors", "; did you mean {runs}/first/best.safetensors?"),
        ("resnet18", "not the name of a model. `t3d convert` with `inflate` turns the weights file of a 2D"),
        ("t3d_tiny", "; t3d_tiny is the name of a model, not a file. Give a weights file"),
    ],
)
def test_missing_weights_come_with_a_hint(
    name: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in ("first", "second"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "config.yaml").touch()
    (tmp_path / "runs/first/best.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    path = name if "/" not in name else str(tmp_path / name)
    with pytest.raises(CheckpointError) as error:
        read_card(path)
    assert str(error.value).startswith(f"{path}: no such run folder or weights file")
    assert hint.format(runs=tmp_path / "runs") in str(error.value)


@pytest.mark.parametrize("ending", [".xml", ".pt2"])
def test_an_exported_file_has_no_weights_to_load(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"net{ending}").write_bytes(b"exported")
    with pytest.raises(CheckpointError, match=r"an exported model.*Give a run folder"):
        read_card(tmp_path / f"net{ending}")


def test_an_onnx_file_may_be_a_teacher_but_has_no_weights_to_load(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    with pytest.raises(CheckpointError, match=r"an ONNX file, .* can be a teacher"):
        read_card(tmp_path / "net.onnx")
