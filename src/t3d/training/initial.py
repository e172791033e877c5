"""Start a run from the weights of an earlier model (`model.init`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from t3d.card import ModelCard
from t3d.clip import Targets
from t3d.errors import CheckpointError, ConfigError
from t3d.models.fusion import FUSED
from t3d.models.loading import is_classifier, load_matching
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.skeleton import no_weights
from t3d.models.weights import read_tensors
from t3d.models.weights_file import weights_file
from t3d.models.weights_header import read_card
from t3d.training.config import ModelConfig

_INSERTED = "inserted."  # tensors of TTLs that `insert_ttl` adds to a network


def check_initial(asked: ModelConfig) -> None:
    """Raise an error for weights of another model, before any video is read.

    Args:
        asked: The model of the run. Without `init` there is nothing to check.

    Raises:
        CheckpointError: The weights are missing or damaged, or not all of the backbone can be loaded.
        ConfigError: The model is a fused one.
    """
    if asked.name == FUSED or (asked.init and _is_fused(asked.init)):
        raise ConfigError(
            f"{'model.name' if asked.name == FUSED else 'model.init'} is {asked.init or asked.name}, a fused "
            "model, which cannot be trained. Train its members, and fuse them again with `t3d fuse`"
        )
    if asked.init:
        with no_weights():
            model = create_model(asked.name, num_classes=0, options=asked.options)
        _refuse_another(model, asked, *_read(asked.init))


def load_initial(model: VideoNet, asked: ModelConfig, *, classes: Sequence[str], targets: Targets) -> str:
    """Load weights into a new model.

    The file must contain the whole backbone. Only inserted TTLs may be missing. The classifier is loaded if
    the file has the same classes, in any order, and the same kind of targets.

    Args:
        model: The new model. It is changed in place.
        asked: The options of the model. Without `init`, nothing is loaded.
        classes: Class names of the run, in the order of the model's scores.
        targets: Whether a video has one label or several.

    Returns:
        Sentence about the loaded weights. Empty if nothing was loaded.

    Raises:
        CheckpointError: The weights are missing or damaged, or not all of the backbone can be loaded.
    """
    if not asked.init:
        return ""
    card, state = _read(asked.init)
    _refuse_another(model, asked, card, state)
    report = load_matching(model, state, source=asked.init)
    text = f"weights from {asked.init}: the backbone"
    if report.missing:
        text += " (the inserted TTLs are new)"
    if not classes or not report.skipped:
        return text
    if card is None:
        return f"{text}; the classifier is new, because the classes of the file are unknown"
    if card.targets == targets and sorted(card.classes) == sorted(classes):
        rows = torch.tensor([card.classes.index(name) for name in classes])
        for name, tensor in model.state_dict().items():
            if is_classifier(model, name):
                tensor.copy_(state[name][rows])
        return f"{text} and the classifier (the same {len(classes)} classes)"
    return f"{text}; the classifier is new, because the classes differ"


def _is_fused(path: str) -> bool:
    card = read_card(path)
    return card is not None and card.architecture == FUSED


def _read(path: str) -> tuple[ModelCard | None, dict[str, Tensor]]:
    card = read_card(path)  # refuses the checkpoint of an unfinished run
    return card, read_tensors(weights_file(path))[0]


def _refuse_another(
    model: VideoNet, asked: ModelConfig, card: ModelCard | None, state: Mapping[str, Tensor]
) -> None:
    backbone = {name: tensor for name, tensor in model.state_dict().items() if not is_classifier(model, name)}
    differing = [
        name
        for name, tensor in backbone.items()
        if (name in state or not name.startswith(_INSERTED))
        and (name not in state or state[name].shape != tensor.shape)
    ]
    if card is not None:  # files of other projects may contain more than the model
        differing += [name for name in state if name not in backbone and not is_classifier(model, name)]
    if not differing:
        return
    first = f"{len(differing)} tensors of the backbone differ, such as {differing[0]}"
    if card is None:
        raise CheckpointError(
            f"model.init: {asked.init} does not have the weights of {_described(asked.name, asked.options)} "
            f"({first}); set model.name and model.options to those of the model in the file"
        )
    theirs = _described(card.architecture, card.options)
    if card.architecture != asked.name:
        setting, remedy = f"model.name is {asked.name}", f"set model.name to {card.architecture}"
    else:
        setting = f"the run trains {_described(asked.name, asked.options)}"
        remedy = f"set model.options to {json.dumps(card.options)}"
    raise CheckpointError(
        f"model.init: {asked.init} has the weights of {theirs}, but {setting} ({first}); {remedy}, or choose "
        "other weights"
    )


def _described(name: str, options: Mapping[str, object]) -> str:
    listed = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"{name} ({listed})" if listed else name
