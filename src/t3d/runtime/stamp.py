"""Metadata of an exported file: the model card, and a stamp of the export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from t3d.card import CARD_KEY, ModelCard
from t3d.errors import CheckpointError, shortened

STAMP_KEY = "t3d.export"
"""Name of the text in the file's metadata that holds a stamp. The card is at `t3d.card`."""
STAMP_VERSION = 1

Numbers = Literal["fp32", "int8"]


@dataclass(frozen=True)
class Stamp:
    """Stamp of an export.

    Args:
        numbers: `fp32`, or `int8` for a quantized model.
        source: Digest of the weights file that the model is from.
        t3d: Version of T3D that wrote the file.
        weights: Digest of the file next to it that holds its weights; empty if there is none.
    """

    numbers: Numbers
    source: str
    t3d: str
    weights: str = ""

    def to_json(self) -> str:
        """Return the stamp as JSON text."""
        return json.dumps({"version": STAMP_VERSION, **asdict(self)})


def metadata(card: ModelCard, stamp: Stamp) -> dict[str, str]:
    """Return the texts that an exported file holds, by name."""
    return {CARD_KEY: card.to_json(), STAMP_KEY: stamp.to_json()}


def read_metadata(texts: Mapping[str, str], path: Path) -> tuple[ModelCard, Stamp]:
    """Read the card and the stamp of an exported file.

    Args:
        texts: The file's texts by name.
        path: The file, for messages.

    Raises:
        CheckpointError: They are missing or damaged, or of another version.
    """
    if CARD_KEY not in texts or STAMP_KEY not in texts:
        raise CheckpointError(
            f"{path}: `t3d export` did not write this file: it does not say its classes and clips. Export "
            "the run with `t3d export`"
        )
    try:
        values = json.loads(texts[STAMP_KEY])
        version = values.pop("version")
        if version != STAMP_VERSION:
            raise CheckpointError(
                f"{path}: exported in version {shortened(str(version))} of the format; this T3D reads "
                f"version {STAMP_VERSION}. Export the run again, or update T3D"
            )
        stamp = Stamp(**values)
        if stamp.numbers not in get_args(Numbers):
            raise ValueError(f"numbers is {shortened(str(stamp.numbers))}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the file is damaged ({error}); export the run again") from error
    try:
        card = ModelCard.from_json(texts[CARD_KEY])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not card.classes:
        raise CheckpointError(f"{path}: the file is damaged (no classes); export the run again")
    return card, stamp
