"""Convert weights of other projects into weights files. The only module that reads .pth files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from t3d.card import ModelCard
from t3d.errors import CheckpointError, ConfigError
from t3d.io.files import refuse_unreadable, refuse_url
from t3d.models.inflate import Inflation, inflate
from t3d.models.loading import LoadReport, compare
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.weights import read_tensors, save_model

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def import_torch_file(
    path: str | os.PathLike[str], *, rename: Mapping[str, str] | None = None
) -> dict[str, Tensor]:
    """Read the tensors of a .pth or .pt file without running any code in it.

    A training checkpoint is unwrapped (`state_dict`), and the `module.` prefix of DataParallel is removed.
    Dotted names of old DenseNets and the authors' code (`denselayer1.norm.1.weight`) get the current form
    (`norm1`).

    Args:
        path: The file.
        rename: Map of old name prefixes to new ones, applied last. The longest matching prefix wins.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        CheckpointError: The file does not exist, requires running code, or contains no tensors.

    Example:
        >>> import_torch_file("resnet.pth", rename={"fc.": "classifier."})  # doctest: +SKIP
    """
    refuse_url(path, error=CheckpointError)
    source = Path(path)
    refuse_unreadable(source, name="weights file", error=CheckpointError)
    try:
        values = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # on invalid input, an unpickler can raise almost any error
        raise CheckpointError(
            f"{source}: not a file of plain tensors ({_reason(error)}); a file with Python objects is "
            "not read, because reading it would run code: save only its state_dict() in the original project"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
            break
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{source}: contains a {type(values).__name__}, not named tensors")
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

    Tensor names that the model family knows from other projects are translated (`VideoNet.own_name`).

    Args:
        src: The other project's file.
        dst: The file to write; ends with .safetensors.
        card: The model, its options, its classes in the order of the scores, and how its training clips
            were cut. The source's name and SHA-256 are added to its provenance.
        rename: See `import_torch_file`.

    Returns:
        The card that was written.

    Raises:
        CheckpointError: The file cannot be read, or its names or shapes differ from the model's.
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
    method: Inflation = "mean",
) -> LoadReport:
    """Inflate a 2D model's file into a 3D model's file without classifier, as initial weights for training.

    Args:
        src: The 2D model's .pth, .pt or .safetensors file.
        dst: The file to write; ends with .safetensors.
        card: The 3D model and its options, without classes, and how clips are cut. Use the normalization of
            the 2D model's images. `t3d.models.inflate` describes which models have a 2D counterpart.
        rename: See `import_torch_file`.
        method: See `inflate`.

    Returns:
        Which tensors were filled and which were not.

    Raises:
        CheckpointError: The file cannot be read, or none of its tensors fit.
        ConfigError: An unknown architecture, option or `method`, or a card with classes.

    Example:
        >>> card = ModelCard("resnet3d50", clip=ClipSpec())  # doctest: +SKIP
        >>> inflate_checkpoint("resnet50.pth", "start.safetensors", card=card)  # doctest: +SKIP
    """
    if card.classes:
        raise ConfigError(
            f"card.classes has {len(card.classes)} names; the classifier of a 2D model is not converted, so "
            "pass a card without classes"
        )
    model = create_model(card.architecture, num_classes=0, options=card.options)
    try:
        report = inflate(_read(src, model, rename), model, method=method)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(src)}: {error}") from error
    provenance = {**card.provenance, "inflated": method, **_origin(src)}
    save_model(model, dst, card=replace(card, provenance=provenance))
    return report


def _read(
    src: str | os.PathLike[str], model: VideoNet, rename: Mapping[str, str] | None
) -> dict[str, Tensor]:
    """Return the tensors of another project's file by the model's own names."""
    if Path(src).suffix == ".safetensors":
        foreign = _renamed(read_tensors(src)[0], rename or {})
    else:
        foreign = import_torch_file(src, rename=rename)
    state = {model.own_name(name): tensor for name, tensor in foreign.items()}
    for name in model.state_dict():
        # PyTorch before 0.4.1 did not count batches, and inference does not use the count.
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
    # PyTorch's message advises loading the file unsafely, so only the offending name is repeated.
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f"it names {match[1]}" if match else type(error).__name__
