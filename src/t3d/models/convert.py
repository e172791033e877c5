"""Weights of other projects made into files of this one: the only place that reads .pth files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from t3d.errors import CheckpointError, ConfigError
from t3d.models.inflate import Inflation, inflate
from t3d.models.loading import LoadReport, compare
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.weights import ModelCard, read_tensors, save_model

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def import_torch_file(
    path: str | os.PathLike[str], *, rename: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a .pth or .pt file without running code that it may carry.

    A training checkpoint is unwrapped (`state_dict`), the `module.` of DataParallel is taken off, and dotted
    names (`denselayer1.norm.1.weight`, of old DenseNets and the authors' code) get today's form (`norm1`).

    Args:
        path: The file.
        rename: New beginnings of names by old ones, applied last; the longest that fits wins.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        CheckpointError: No such file, a file that needs code to be run, or no tensors in it.

    Example:
        >>> import_torch_file("resnet.pth", rename={"fc.": "classifier."})  # doctest: +SKIP
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{source}: no such weights file")
    try:
        values = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # given garbage, an unpickler raises errors of almost any kind
        raise CheckpointError(
            f"{source}: not a file of plain tensors ({_reason(error)}); a file that holds Python objects is "
            "refused, because reading it would run code: save its state_dict() alone where it was made"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
            break
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{source}: holds a {type(values).__name__}, not named tensors")
    state = {str(name): tensor for name, tensor in values.items() if isinstance(tensor, Tensor)}
    if not state:
        keys = ", ".join(map(str, list(values)[:5])) or "none"
        raise CheckpointError(f"{source}: no named tensors in it; its keys are {keys}")
    return _renamed(state, rename or {})


def convert_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    card: ModelCard,
    rename: Mapping[str, str] | None = None,
) -> ModelCard:
    """Convert a .pth, .pt or .safetensors file of another project into a weights file with a card.

    Names that a family of models knows from other projects (`VideoNet.own_name`) are taken as its own.

    Args:
        src: The other project's file.
        dst: The file to write; ends with .safetensors.
        card: The model, its options, its classes in the order of the scores, and the clips that it was
            trained on. The source's name and SHA-256 are added to its provenance.
        rename: See `import_torch_file`.

    Returns:
        The card that was written.

    Raises:
        CheckpointError: The file cannot be read, or names and shapes differ from the model's.
        ConfigError: An unknown architecture or option.

    Example:
        >>> card = ModelCard("densenet3d121", classes=names, clip=ClipSpec())  # doctest: +SKIP
        >>> convert_checkpoint("d121.pth", "d121.safetensors", card=card)  # doctest: +SKIP
    """
    model = create_model(card.architecture, num_classes=len(card.classes), options=card.options)
    state = _read(src, model, rename)
    difference = compare(model.state_dict(), state)
    if difference:
        raise CheckpointError(
            f"{os.fspath(src)}: these are not the weights of {card.architecture} with {len(card.classes)} "
            f"classes ({difference}); other options or `rename` may fix it"
        )
    model.load_state_dict(state)
    card = replace(card, provenance={**card.provenance, **_origin(src)})
    save_model(model, dst, card=card)
    return card


def inflate_checkpoint(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    card: ModelCard,
    rename: Mapping[str, str] | None = None,
    how: Inflation = "mean",
) -> LoadReport:
    """Convert a 2D model's file into one of a 3D model without classifier, to start a training from.

    Args:
        src: The 2D model's .pth, .pt or .safetensors file.
        dst: The file to write; ends with .safetensors.
        card: The 3D model and its options, without classes, and how clips are to be cut, normalized as the
            2D model's images were. `t3d.models.inflate` says which models have a 2D twin.
        rename: See `import_torch_file`.
        how: See `inflate`.

    Returns:
        What was filled and what was not.

    Raises:
        CheckpointError: The file cannot be read, or nothing of it fits.
        ConfigError: An unknown architecture, option or `how`, or a card with classes.

    Example:
        >>> card = ModelCard("resnet3d50", clip=ClipSpec())  # doctest: +SKIP
        >>> inflate_checkpoint("resnet50.pth", "start.safetensors", card=card)  # doctest: +SKIP
    """
    if card.classes:
        raise ConfigError(
            f"card.classes has {len(card.classes)} names; the classifier of a 2D model is left behind, so "
            "give a card without classes"
        )
    model = create_model(card.architecture, num_classes=0, options=card.options)
    try:
        report = inflate(_read(src, model, rename), model, how=how)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(src)}: {error}") from error
    provenance = {**card.provenance, "inflated": how, **_origin(src)}
    save_model(model, dst, card=replace(card, provenance=provenance))
    return report


def _read(
    src: str | os.PathLike[str], model: VideoNet, rename: Mapping[str, str] | None
) -> dict[str, Tensor]:
    """Tensors of a foreign file by a net's own names."""
    if Path(src).suffix == ".safetensors":
        found = _renamed(read_tensors(src)[0], rename or {})
    else:
        found = import_torch_file(src, rename=rename)
    state = {model.own_name(name): tensor for name, tensor in found.items()}
    for name in model.state_dict():
        # PyTorch before 0.4.1 did not count batches, and the count does not enter inference.
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.long))
    return state


def _origin(src: str | os.PathLike[str]) -> dict[str, str]:
    path = Path(src)
    return {
        "converted_from": path.name,
        "converted_from_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def _renamed(state: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    beginnings = sorted(rename, key=len, reverse=True)
    renamed = {}
    for full_name, tensor in state.items():
        name = _DOTTED.sub(r"\1\2.", full_name.removeprefix("module."))
        old = next((beginning for beginning in beginnings if name.startswith(beginning)), "")
        renamed[rename[old] + name.removeprefix(old) if old else name] = tensor
    return renamed


def _reason(error: Exception) -> str:
    # PyTorch's message advises to read the file unsafely; only what it found is worth repeating.
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it names {found[1]}" if found else type(error).__name__
