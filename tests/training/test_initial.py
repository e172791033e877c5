"""Runs that start from the weights of an earlier model."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from t3d.card import ModelCard
from t3d.clip import Targets
from t3d.errors import CheckpointError
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.training.config import ModelConfig, TrainConfig
from t3d.training.initial import check_initial, load_initial
from t3d.training.run import train
from t3d.training.run_folder import RunFolder

Tiny = Callable[..., TrainConfig]
SMALL: dict[str, Any] = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
RESNET: dict[str, Any] = {"width": 0.125}
NAMES = ("jump", "run", "walk")


def saved(
    path: Path, name: str, options: dict[str, Any], classes: tuple[str, ...] = (), targets: Targets = "single"
) -> Path:
    torch.manual_seed(1)
    model = create_model(name, num_classes=len(classes), options=options)
    save_model(model, path, card=ModelCard(name, options=options, classes=classes, targets=targets))
    return path


def loaded(
    asked: ModelConfig, classes: tuple[str, ...] = (), targets: Targets = "single"
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], str]:
    """Return the tensors of a new model before and after weights are loaded, and the sentence about it."""
    torch.manual_seed(2)
    model = create_model(asked.name, num_classes=len(classes), options=asked.options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_initial(asked)
    text = load_initial(model, asked, classes=classes, targets=targets)
    return before, model.state_dict(), text


@pytest.mark.parametrize("name", ["densenet3d_tiny", "resnet3d18", "c3d", "inception3d"])
def test_the_classifier_of_the_same_classes_is_kept_in_their_order(name: str, tmp_path: Path) -> None:
    options = SMALL if name == "densenet3d_tiny" else {"width": 0.125}
    path = saved(tmp_path / "w.safetensors", name, options, NAMES)
    stored = load_file(path)
    _, after, text = loaded(ModelConfig(name, options, init=str(path)), ("walk", "jump", "run"))
    assert text == f"weights from {path}: the backbone and the classifier (the same 3 classes)"
    prefix = create_model(name, num_classes=1, options=options).classifier_name + "."
    rows = {key: value for key, value in stored.items() if key.startswith(prefix)}
    assert len(rows) == 2
    for key, value in rows.items():
        assert torch.equal(after[key], value[[2, 0, 1]]), key
    for key in stored.keys() - rows.keys():
        assert torch.equal(after[key], stored[key]), key


@pytest.mark.parametrize(
    ("classes", "targets"),
    [(("jump", "run", "sit"), "single"), (("jump", "run"), "single"), (NAMES, "multi")],
)
def test_the_classifier_of_other_classes_is_new(
    classes: tuple[str, ...], targets: Targets, tmp_path: Path
) -> None:
    path = saved(tmp_path / "w.safetensors", "densenet3d_tiny", SMALL, NAMES)
    asked = ModelConfig("densenet3d_tiny", SMALL, init=str(path))
    before, after, text = loaded(asked, classes, targets)
    assert text == f"weights from {path}: the backbone; the classifier is new, because the classes differ"
    for key in ("classifier.weight", "classifier.bias"):
        assert torch.equal(after[key], before[key])
    assert torch.equal(after["features.conv0.weight"], load_file(path)["features.conv0.weight"])


def test_a_backbone_without_classifier_is_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path / "student.safetensors", "densenet3d_tiny", SMALL)
    _, after, text = loaded(ModelConfig("densenet3d_tiny", SMALL, init=str(path)), NAMES)
    assert text == f"weights from {path}: the backbone"
    for key, value in load_file(path).items():
        assert torch.equal(after[key], value), key


@pytest.mark.filterwarnings("ignore:a TTL looks at")
def test_ttls_may_be_inserted_but_not_left_out(tmp_path: Path) -> None:
    ttl = {**RESNET, "ttl_after": ["layer1"], "ttl_depths": [[1, 3]], "ttl_channels": 4}
    plain = saved(tmp_path / "plain.safetensors", "resnet3d18", RESNET, NAMES)
    before, after, text = loaded(ModelConfig("resnet3d18", ttl, init=str(plain)), NAMES)
    expected = "the backbone (the inserted TTLs are new) and the classifier (the same 3 classes)"
    assert text == f"weights from {plain}: {expected}"
    inserted = [key for key in after if key.startswith("inserted.")]
    assert inserted
    assert all(torch.equal(before[key], after[key]) for key in inserted)
    assert torch.equal(after["layer1.0.conv1.weight"], load_file(plain)["layer1.0.conv1.weight"])

    with_ttl = saved(tmp_path / "ttl.safetensors", "resnet3d18", ttl, NAMES)
    with pytest.raises(CheckpointError, match=r"tensors of the backbone differ, such as inserted\."):
        check_initial(ModelConfig("resnet3d18", RESNET, init=str(with_ttl)))


@pytest.mark.parametrize(
    ("name", "options", "described"),
    [
        ("t3d_tiny", {}, "model.name is t3d_tiny"),
        (
            "densenet3d_tiny",
            {**SMALL, "growth_rate": 8},
            "the run trains densenet3d_tiny (block_config: [1, 1], growth",
        ),
        (
            "densenet3d_tiny",
            {**SMALL, "block_config": [1, 2]},
            "the run trains densenet3d_tiny (block_config: [1, 2],",
        ),
        (
            "densenet3d_tiny",
            {**SMALL, "block_config": [1]},
            "the run trains densenet3d_tiny (block_config: [1],",
        ),
    ],
)
def test_weights_of_another_network_are_refused_by_both_names(
    name: str, options: dict[str, Any], described: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "w.safetensors", "densenet3d_tiny", SMALL, NAMES)
    held = "densenet3d_tiny (block_config: [1, 1], growth_rate: 4, stem_channels: 8, bottleneck: 1)"
    message = f"model.init: {path} has the weights of {held}, but {described}"
    asked = ModelConfig(name, options, init=str(path))
    for refuse in (check_initial, lambda asked: loaded(asked, NAMES)):
        with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
            refuse(asked)  # type: ignore[operator]
        assert len(str(caught.value)) < 600
        remedy = "model.name to densenet3d_tiny" if name == "t3d_tiny" else 'model.options to {"block_config"'
        assert f"; set {remedy}" in str(caught.value)


def test_a_file_without_card_must_hold_the_backbone(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", "densenet3d_tiny", SMALL, NAMES)
    tensors = load_file(path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({**tensors, "head.weight": torch.ones(2)}, foreign)
    asked = ModelConfig("densenet3d_tiny", SMALL, init=str(foreign))
    _, after, text = loaded(asked, NAMES)
    assert text.endswith("the backbone; the classifier is new, because the classes of the file are unknown")
    assert torch.equal(after["features.conv0.weight"], tensors["features.conv0.weight"])
    del tensors["features.conv0.weight"]
    save_file(tensors, foreign)
    with pytest.raises(CheckpointError, match=r"1 tensors of the backbone differ, such as features\.conv0"):
        check_initial(asked)


def test_a_run_of_the_same_classes_starts_with_the_scores_of_its_initial_weights(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = RunFolder(train(tiny(out=str(tmp_path / "first"), optim={"epochs": 2})))
    still = {"lr": 1e-30, "weight_decay": 0.0}
    config = tiny(model={"init": str(first.path)}, optim=still)
    capsys.readouterr()
    second = RunFolder(train(config))
    assert "and the classifier (the same 2 classes)" in capsys.readouterr().out
    old, new = load_file(first.best), load_file(second.last)
    assert all(torch.equal(old[key], new[key]) for key in old if key.startswith("classifier."))
    # A run that is resumed has its weights in the checkpoint.
    first.best.unlink()
    train(replace(config, optim=replace(config.optim, epochs=2)), resume=True)
