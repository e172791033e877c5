"""Header of a weights file: its card, and which tensors it has. Reading it needs no torch."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError
from t3d.models.tensor_files import Described, PathLike, TensorFile, open_tensors
from t3d.models.weights_file import unfinished, weights_file

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_KEY = "t3d_checkpoint"
"""Name of the text in the header of a checkpoint that says which of its tensors are the weights."""


@dataclass(frozen=True)
class StoredWeights:
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
def open_weights(
    path: PathLike, *, allow_unfinished: bool, header_only: bool = False
) -> Iterator[StoredWeights]:
    """Open the weights of a weights file or a checkpoint.

    Args:
        path: A safetensors file, or the folder of a training run.
        allow_unfinished: See `weights_file`.
        header_only: Whether only the card and the descriptions of tensors are read. Otherwise the weights of
            a checkpoint cause a warning.

    Raises:
        CheckpointError: The file does not exist, is damaged, or is of an unfinished run.
    """
    source = weights_file(path, allow_unfinished=allow_unfinished)
    with open_tensors(source, header_only=header_only) as file:
        if CHECKPOINT_KEY not in file.metadata:
            yield StoredWeights(file, "", file.metadata.get(CARD_KEY))
            return
        if not allow_unfinished:
            raise CheckpointError(unfinished(source))
        try:
            header = json.loads(file.metadata[CHECKPOINT_KEY])
            weights = StoredWeights(file, str(header["weights"]), str(header["card"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(
                f"{source}: the checkpoint does not say which weights it offers; it is damaged, or an "
                "earlier version of t3d wrote it"
            ) from error
        if not header_only:
            warnings.warn(
                f"{os.fspath(path)}: this run is not finished; these are its weights so far", stacklevel=4
            )
        yield weights


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
    with open_weights(path, allow_unfinished=allow_unfinished, header_only=True) as weights:
        return None if weights.card is None else parsed_card(weights.card, path)


def parsed_card(text: str, path: PathLike) -> ModelCard:
    """Return the card of a weights file.

    Args:
        text: Text of the card.
        path: The file, for messages.

    Raises:
        CheckpointError: The text is not a card.
    """
    try:
        return ModelCard.from_json(text)
    except CheckpointError as error:
        raise CheckpointError(f"{os.fspath(path)}: {error}") from error
