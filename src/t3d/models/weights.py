"""Weights on disk: one self-describing safetensors file.

The file's header holds a model card as JSON: architecture, options, class names, clip and provenance. Loading
a file never runs code. `t3d.models.convert` converts files of other projects.

Wherever a weights file is read, the folder of a training run is accepted too, see `weights_file`.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError, ConfigError
from t3d.models.loading import LoadReport, compare, load_matching
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.skeleton import no_weights
from t3d.models.tensor_files import PathLike, open_tensors, write_tensors
from t3d.models.weights_header import open_weights, parsed_card


def save_model(model: VideoNet, path: PathLike, *, card: ModelCard) -> None:
    """Write weights and card into one file. The file appears complete or not at all.

    Args:
        model: The model itself, not wrapped by DDP or torch.compile.
        path: File to write, ending with .safetensors. An existing file is replaced.
        card: Model card of the file. It must describe `model`.

    Raises:
        CheckpointError: The card describes a different model, so the file could not be loaded again.

    Example:
        >>> net = create_model("t3d_tiny", num_classes=2)
        >>> card = ModelCard("t3d_tiny", classes=("run", "jump"))
        >>> save_model(net, "net.safetensors", card=card)  # doctest: +SKIP
    """
    target = Path(path)
    if target.suffix != ".safetensors":
        raise CheckpointError(f"{target}: the name of a weights file must end with .safetensors")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    difference = compare(_skeleton(card).state_dict(), state)
    if difference:
        raise CheckpointError(
            f"{target}: not written, because the card describes a different model ({difference})"
        )
    write_tensors(state, target, metadata={CARD_KEY: card.to_json()})


def load_model(
    path: PathLike, *, device: str | torch.device = "cpu", allow_unfinished: bool = False
) -> tuple[VideoNet, ModelCard]:
    """Build the model that a weights file describes and load its weights.

    Args:
        path: A file that `save_model` or `t3d convert` wrote, or the folder of a training run.
        device: Device to put the model on.
        allow_unfinished: See `weights_file`.

    Returns:
        The model, in evaluation mode, and the file's card.

    Raises:
        CheckpointError: The file does not exist, is damaged, has no card, or has weights that do not match
            it; or the folder's run is not finished.

    Example:
        >>> net, card = load_model("net.safetensors")  # doctest: +SKIP
    """
    with open_weights(path, allow_unfinished=allow_unfinished) as weights:
        if weights.card is None:
            raise CheckpointError(
                f"{os.fspath(path)}: this file was not written by t3d (it does not name a model and "
                "classes); convert it with `t3d convert`, or start a training from it (`init`)"
            )
        card = parsed_card(weights.card, path)
        try:
            model = _skeleton(card)
        except ConfigError as error:
            raise CheckpointError(f"{os.fspath(path)}: {error}") from error
        difference = compare(model.state_dict(), weights.described())  # before anything large is in memory
        if difference:
            raise CheckpointError(
                f"{os.fspath(path)}: the weights are not those of {card.architecture} with "
                f"{len(card.classes)} classes, as the file's card says ({difference})"
            )
        model = _with_memory(model, card)
        model.load_state_dict(weights.tensors())
    return model.to(device).eval(), card


def load_backbone(model: VideoNet, path: PathLike, *, allow_unfinished: bool = False) -> LoadReport:
    """Initialize a model from a weights file: load every tensor that fits, except the classifier.

    Args:
        model: The model, changed in place.
        path: A safetensors file, with or without a card, or the folder of a training run.
        allow_unfinished: See `weights_file`.

    Returns:
        Which tensors were loaded.

    Raises:
        CheckpointError: The file does not exist or is damaged, or no tensor of the backbone fits.

    Example:
        >>> print(load_backbone(create_model("t3d_tiny"), "kinetics.safetensors"))  # doctest: +SKIP
    """
    with open_weights(path, allow_unfinished=allow_unfinished) as weights:
        return load_matching(model, weights.tensors(), source=os.fspath(path))


def load_classifier(
    path: PathLike, *, device: str | torch.device = "cpu", allow_unfinished: bool = False
) -> tuple[VideoNet, ModelCard]:
    """Load a model that scores classes, as `load_model` does.

    Raises:
        CheckpointError: As `load_model`; or the model has no classifier.
    """
    model, card = load_model(path, device=device, allow_unfinished=allow_unfinished)
    if not card.classes:
        raise CheckpointError(
            f"{os.fspath(path)}: the model has no classifier, so it cannot score classes; train one that "
            "starts from these weights (`model.init`)"
        )
    return model, card


def read_tensors(path: PathLike) -> tuple[dict[str, Tensor], str | None]:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU, and the text of the card, or None if the file has none.

    Raises:
        CheckpointError: The file does not exist, or is not a complete safetensors file.
    """
    with open_tensors(path) as file:
        return {name: file.tensor(name) for name in file.names}, file.metadata.get(CARD_KEY)


def _skeleton(card: ModelCard) -> VideoNet:
    """Build the model of a card without memory for its weights, and without using random numbers."""
    with no_weights():
        return create_model(card.architecture, num_classes=len(card.classes), options=card.options)


def _with_memory(model: VideoNet, card: ModelCard) -> VideoNet:
    """Give a skeleton memory for its weights. Their values are arbitrary."""
    stored = model.state_dict()
    if all(name in stored for name, _ in model.named_buffers()):
        # `model.to_empty` does the same, but imports sympy, which takes 0.5 s.
        return model._apply(lambda t: torch.empty(t.shape, dtype=t.dtype))  # type: ignore[no-untyped-call]
    # Some buffers, of 2D transformers, are not stored in files: only building the model computes them.
    with torch.random.fork_rng(devices=[]):
        return create_model(card.architecture, num_classes=len(card.classes), options=card.options)
