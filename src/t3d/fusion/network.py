"""One model made of several trained ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import nn

from t3d.card import ModelCard
from t3d.errors import CheckpointError, ConfigError
from t3d.models.fused_clip import shared_clip
from t3d.models.fusion import FUSED, AveragedScores, FusedNet, FusedOptions, Member
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.weights import load_classifier


@dataclass(frozen=True)
class Trained:
    """A trained model to fuse with others.

    Args:
        name: Weights file or run folder that it was loaded from.
        net: The model.
        card: Its card.
    """

    name: str
    net: VideoNet
    card: ModelCard


def load_members(
    names: Sequence[str], *, device: torch.device, allow_unfinished: bool = False
) -> list[Trained]:
    """Load models, and check that they can be averaged.

    Args:
        names: Weights files or run folders.
        device: Device to put the models on.
        allow_unfinished: See `t3d.models.weights_file.weights_file`.

    Raises:
        CheckpointError: A file cannot be used, or the models have different classes, several labels per video
            or classifiers that are not a linear layer.
        ConfigError: One is itself a fused model, or their clips do not fit together.
    """
    members = []
    for name in names:
        net, card = load_classifier(name, device=device, allow_unfinished=allow_unfinished)
        members.append(Trained(name, net, card))
        if card.architecture == FUSED:
            raise ConfigError(f"{name} is itself a fused model; fuse its members together with the others")
        if card.targets != "single":
            raise CheckpointError(
                f"{name}: this model gives several labels per video; only models with one label per video "
                "can be fused"
            )
        if not isinstance(net.get_classifier(), nn.Linear):
            raise CheckpointError(f"{name}: the classifier is not a linear layer, so it cannot be fused")
        _refuse_other_classes(members[0], members[-1])
    try:
        shared_clip([member.card.clip for member in members])
    except ConfigError as error:
        raise ConfigError(f"{', '.join(names)} cannot be fused: {error}") from error
    return members


def fused_model(
    members: Sequence[Trained], *, weights: Sequence[float], temperatures: Sequence[float]
) -> tuple[FusedNet, ModelCard]:
    """Return the model that averages the probabilities of others, and its card.

    Args:
        members: Models that `load_members` accepts. Their classifiers are removed.
        weights: Weight of each model. 0 leaves it out.
        temperatures: Temperature of each model.
    """
    used = [
        (member, Member(member.card.architecture, member.card.options, member.card.clip, weight, temperature))
        for member, weight, temperature in zip(members, weights, temperatures, strict=True)
        if weight > 0
    ]
    options = asdict(FusedOptions(tuple(part for _, part in used)))
    classes = members[0].card.classes
    net = create_model(FUSED, num_classes=len(classes), options=options)
    assert isinstance(net, FusedNet)
    assert isinstance(net.classifier, AveragedScores)
    for (member, _), part, head in zip(used, net.features.members, net.classifier.heads, strict=True):
        order = torch.tensor([member.card.classes.index(name) for name in classes])
        linear = member.net.cpu().get_classifier()
        head.load_state_dict({name: tensor[order] for name, tensor in linear.state_dict().items()})
        member.net.reset_classifier(0)
        part.get_submodule("net").load_state_dict(member.net.state_dict())
    provenance: dict[str, object] = {
        "fused": [{"model": member.name, **member.card.provenance} for member, _ in used]
    }
    card = ModelCard(FUSED, options, classes=classes, clip=net.clip, provenance=provenance)
    return net.eval(), card


def _refuse_other_classes(first: Trained, other: Trained) -> None:
    """Raise an error if two models do not have the same classes, in any order."""
    known, classes = set(first.card.classes), set(other.card.classes)
    if known == classes:
        return
    only = [
        f"{name} has {', '.join(map(repr, sorted(extra)[:3]))}{' …' if len(extra) > 3 else ''}, which the "
        "other does not have"
        for name, extra in ((first.name, known - classes), (other.name, classes - known))
        if extra
    ]
    raise CheckpointError(
        f"{other.name}: the classes differ from those of {first.name} ({'; '.join(only)}). Train all models "
        "with the same classes"
    )
