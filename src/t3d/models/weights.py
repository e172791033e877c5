"""Weights on disk: one self-describing safetensors file.

The file's header holds a model card as JSON: architecture, options, class names, clip and provenance. Loading
a file never runs code. `t3d.models.convert` converts files of other projects.

Wherever a weights file is read, the folder of a training run is accepted too, see `weights_file`.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError, ConfigError
from t3d.models.loading import LoadReport, compare, load_matching
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.skeleton import no_weights
from t3d.models.tensor_files import Described, PathLike, TensorFile, open_tensors, write_tensors
from t3d.models.weights_file import unfinished, weights_file

CHECKPOINT_KEY = "t3d_checkpoint"


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
    with _weights(path, allow_unfinished=allow_unfinished) as weights:
        if weights.card is None:
            raise CheckpointError(
                f"{os.fspath(path)}: this file was not written by t3d (it does not name a model and "
                "classes); convert it with `t3d convert`, or start a training from it (`init`)"
            )
        card = _parsed(weights.card, path)
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
    with _weights(path, allow_unfinished=allow_unfinished) as weights:
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


@dataclass(frozen=True)
class _Weights:
    """The weights in an open file.

    Args:
        file: The file.
        prefix: Start of the names of their tensors in the file.
        card: Text of their card, or None.
    """

    file: TensorFile
    prefix: str
    card: str | None

    def described(self) -> dict[str, Described]:
        """Return the description of each tensor, by its name in the model."""
        return {name: self.file.describe(self.prefix + name) for name in self._names()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors, by their names in the model."""
        return {name: self.file.tensor(self.prefix + name) for name in self._names()}

    def _names(self) -> list[str]:
        return [each.removeprefix(self.prefix) for each in self.file.names if each.startswith(self.prefix)]


@contextmanager
def _weights(path: PathLike, *, allow_unfinished: bool, quiet: bool = False) -> Iterator[_Weights]:
    """Open the weights of a weights file or a checkpoint. Warn about those of a checkpoint."""
    source = weights_file(path, allow_unfinished=allow_unfinished)
    with open_tensors(source) as file:
        if CHECKPOINT_KEY not in file.metadata:
            yield _Weights(file, "", file.metadata.get(CARD_KEY))
            return
        if not allow_unfinished:
            raise CheckpointError(unfinished(source))
        try:
            header = json.loads(file.metadata[CHECKPOINT_KEY])
            weights = _Weights(file, str(header["weights"]), str(header["card"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"{source}: the checkpoint does not say which weights it offers; it is damaged, or an "
                "earlier version of t3d wrote it"
            ) from error
        if not quiet:
            warnings.warn(
                f"{os.fspath(path)}: this run is not finished; these are its weights so far", stacklevel=4
            )
        yield weights


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


def read_card(path: PathLike, *, allow_unfinished: bool = False) -> ModelCard | None:
    """Read the card of a weights file, without its weights.

    Args:
        path: A safetensors file, or the folder of a training run.
        allow_unfinished: See `weights_file`.

    Returns:
        The card, or None if the file has none.

    Raises:
        CheckpointError: The file does not exist, or the file or its card is damaged.
    """
    with _weights(path, allow_unfinished=allow_unfinished, quiet=True) as weights:
        return None if weights.card is None else _parsed(weights.card, path)


def _parsed(text: str, path: PathLike) -> ModelCard:
    try:
        return ModelCard.from_json(text)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error


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
