"""Weights on disk: one self-describing safetensors file.

The file's header holds a model card as JSON: architecture, options, class names, clip and provenance. Loading
a file never runs code. `t3d.models.convert` converts files of other projects.

Wherever a weights file is read, the folder of a training run is accepted too, see `weights_file`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from t3d.clip import ClipSpec, Targets
from t3d.errors import CheckpointError, ConfigError, did_you_mean
from t3d.io.files import atomic_path, refuse_url
from t3d.models.loading import LoadReport, compare, load_matching
from t3d.models.net import VideoNet
from t3d.models.options import with_overrides
from t3d.models.registry import create_model

CARD_KEY = "t3d.card"
CARD_VERSION = 1
CHECKPOINT_KEY = "t3d_checkpoint"
BEST, LAST, CHECKPOINT = "best.safetensors", "last.safetensors", "checkpoint.safetensors"
"""The weights in a run folder, and its state. An unfinished run has only the state."""

_OLD_LAST = "model.safetensors"  # in the run folders of earlier versions, even of unfinished runs

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelCard:
    """Model card of a weights file: all that is needed to use it without any other file.

    Args:
        architecture: Name of a model, one of `list_models()`.
        options: Options that differ from the architecture's defaults, as plain JSON values.
        classes: Class names in the order of the scores; empty for a model without classifier.
        clip: How clips are cut and normalized.
        provenance: Where the weights come from: data, recipe, figures, license; plain JSON values.
        targets: Kind of scores: `single`, exactly one class (softmax), or `multi`, independent classes
            (sigmoid). Files written before this field existed are `single`.

    Raises:
        ConfigError: Options or provenance cannot be stored as JSON, or `targets` is unknown.

    Example:
        >>> ModelCard("t3d_tiny", classes=("run", "jump")).clip.num_frames
        32
    """

    architecture: str
    options: dict[str, object] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    clip: ClipSpec = field(default_factory=ClipSpec)
    provenance: dict[str, object] = field(default_factory=dict)
    targets: Targets = "single"

    def __post_init__(self) -> None:
        for name in ("options", "provenance"):
            try:
                plain = json.loads(json.dumps(getattr(self, name)))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{name} of a model card must hold plain JSON values: {error}") from error
            object.__setattr__(self, name, plain)
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.targets not in get_args(Targets):
            hint = did_you_mean(str(self.targets), get_args(Targets))
            raise ConfigError(f"targets of a model card are {self.targets!r}; {hint}")

    def to_json(self) -> str:
        """Return the card as JSON text."""
        values = dataclasses.asdict(self)
        if self.targets == "single":  # omitted, so that versions without this field can read the file
            del values["targets"]
        if self.clip.pixel_aspect == "ignore":
            del values["clip"]["pixel_aspect"]
        if not self.clip.tonemap:
            del values["clip"]["tonemap"]
        return json.dumps({"version": CARD_VERSION, **values}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Read a card.

        Args:
            text: Output of `to_json`.

        Returns:
            The card.

        Raises:
            CheckpointError: The text is not a card, or the card's version is not supported.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"the model card is not JSON ({error})") from error
        if not isinstance(values, dict) or values.pop("version", None) != CARD_VERSION:
            raise CheckpointError(
                f"the model card is not of version {CARD_VERSION}; a newer t3d wrote it: update t3d"
            )
        try:
            return with_overrides(cls(""), values, where="the model card")
        except ConfigError as error:
            raise CheckpointError(f"the model card is damaged: {error}") from error


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
    state, text = _read_weights(path, allow_unfinished=allow_unfinished)
    if text is None:
        raise CheckpointError(
            f"{os.fspath(path)}: this file was not written by t3d (it does not name a model and classes); "
            "convert it with `t3d convert`, or start a training from it (`init`)"
        )
    card = _parsed(text, path)
    try:
        model = _skeleton(card)
    except ConfigError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
    difference = compare(model.state_dict(), state)
    if difference:
        raise CheckpointError(
            f"{os.fspath(path)}: the weights are not those of {card.architecture} with {len(card.classes)} "
            f"classes, as the file's card says ({difference})"
        )
    model.load_state_dict(state)
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
    state, _ = _read_weights(path, allow_unfinished=allow_unfinished)
    return load_matching(model, state, source=os.fspath(path))


def weights_file(path: PathLike, *, allow_unfinished: bool = False) -> Path:
    """Find the weights file for a path.

    Args:
        path: A weights file, which is returned unchanged; or the folder of a training run, for its best
            weights, or its last weights if it did not validate.
        allow_unfinished: Accept the folder of an unfinished run, and return its checkpoint, which contains
            the best weights so far.

    Returns:
        The file.

    Raises:
        CheckpointError: The file does not exist, the folder is not a run or is one of an earlier version, or
            its run is not finished.
    """
    refuse_url(path, error=CheckpointError)
    source = Path(path)
    if not source.is_dir():
        if not source.is_file():
            raise CheckpointError(f"{source}: no such run folder or weights file")
        return source
    if (source / _OLD_LAST).is_file() and not (source / LAST).is_file():
        raise CheckpointError(
            f"{source}: an earlier version of t3d wrote this folder; give a weights file in it, such as "
            f"{source / _OLD_LAST}"
        )
    for name in (BEST, LAST):
        if (source / name).is_file():
            return source / name
    checkpoint = source / CHECKPOINT
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{source}: the folder does not contain {BEST}, {LAST} or {CHECKPOINT}; give a weights file, "
            "or the folder of a training run that has saved its state"
        )
    if not allow_unfinished:
        raise CheckpointError(_unfinished(source))
    return checkpoint


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


def _unfinished(path: PathLike) -> str:
    return (
        f"{os.fspath(path)}: this run is not finished, so it has no weights yet; resume it to its end. "
        "Tests, probes and predictions can use its best weights so far: `allow_unfinished`"
    )


def _read_weights(path: PathLike, *, allow_unfinished: bool) -> tuple[dict[str, Tensor], str | None]:
    """Read the tensors and card of a weights file or a checkpoint."""
    with _weights(path, allow_unfinished=allow_unfinished) as (file, prefix, text):
        if prefix:
            warnings.warn(
                f"{os.fspath(path)}: this run is not finished; these are its weights so far", stacklevel=4
            )
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a mapping)
        return {name.removeprefix(prefix): file.get_tensor(name) for name in names}, text


@contextmanager
def _weights(path: PathLike, *, allow_unfinished: bool) -> Iterator[tuple[Any, str, str | None]]:
    """Open weights: yield the file, the prefix of the tensors' names, and the text of the card."""
    source = weights_file(path, allow_unfinished=allow_unfinished)
    with _opened(source) as file:
        metadata = file.metadata() or {}
        if CHECKPOINT_KEY not in metadata:
            yield file, "", metadata.get(CARD_KEY)
            return
        if not allow_unfinished:
            raise CheckpointError(_unfinished(source))
        try:
            header = json.loads(metadata[CHECKPOINT_KEY])
            prefix, text = str(header["weights"]), str(header["card"])
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{source}: the checkpoint does not say which weights it offers; it is damaged, or an "
                "earlier version of t3d wrote it"
            ) from error
        yield file, prefix, text


def read_tensors(path: PathLike) -> tuple[dict[str, Tensor], str | None]:
    """Read a safetensors file.

    Args:
        path: The file.

    Returns:
        Tensors by name, on the CPU, and the text of the card, or None if the file has none.

    Raises:
        CheckpointError: The file does not exist, or is not a complete safetensors file.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(CARD_KEY)
        return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118 (not a mapping)


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
    with _weights(path, allow_unfinished=allow_unfinished) as (_, _, text):
        return None if text is None else _parsed(text, path)


def _parsed(text: str, path: PathLike) -> ModelCard:
    try:
        return ModelCard.from_json(text)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error


@contextmanager
def _opened(path: PathLike) -> Iterator[Any]:
    refuse_url(path, error=CheckpointError)
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"{source}: no such weights file")
    try:
        with safe_open(source, framework="pt") as file:
            yield file
    except SafetensorError as error:
        ending = source.suffix.lower()
        if ending == ".safetensors":
            reason = f"the file is damaged or incomplete ({error}); copy it again"
        elif ending in (".pth", ".pt"):
            reason = "a PyTorch file; convert it with `t3d convert`"
        else:
            reason = "not a safetensors file"
        raise CheckpointError(f"{source}: {reason}") from error


def write_tensors(state: Mapping[str, Tensor], path: Path, *, metadata: dict[str, str]) -> None:
    """Write a safetensors file. It appears complete or not at all.

    Args:
        state: Tensors by name, contiguous, none sharing memory with another.
        path: File to write. An existing file is replaced.
        metadata: Strings for the header.

    Raises:
        CheckpointError: The file cannot be written, for example because the disk is full. An existing file
        is kept.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(state), temporary, metadata=metadata)
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: cannot be written ({error}); the previous file is kept. Free some disk space and "
                "try again"
            ) from error


def _skeleton(card: ModelCard) -> VideoNet:
    # Reading or writing a file in the middle of a run must not shift the run's random numbers.
    with torch.random.fork_rng(devices=[]):
        return create_model(card.architecture, num_classes=len(card.classes), options=card.options)
