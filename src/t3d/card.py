"""Model card: what a weights file or an exported file says about its model."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import get_args

from t3d.clip import ClipSpec, Targets
from t3d.errors import CheckpointError, ConfigError, did_you_mean, shortened
from t3d.overrides import refuse_depth, with_overrides

CARD_KEY = "t3d.card"
"""Name of the text in a file's metadata that holds the card."""
CARD_VERSION = 1
MAX_CARD = 4 << 20
"""Maximum length of a model card, in characters. One of 700 classes has about 20,000."""
MAX_CLASSES = 100_000
"""Maximum number of classes of a model."""


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
        ConfigError: Options or provenance cannot be stored as JSON, there are too many classes, or `targets`
            is unknown.

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
            refuse_depth(getattr(self, name), name=f"{name} of a model card")
            try:
                plain = json.loads(json.dumps(getattr(self, name)))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{name} of a model card must hold plain JSON values: {error}") from error
            object.__setattr__(self, name, plain)
        object.__setattr__(self, "classes", tuple(self.classes))
        if len(self.classes) > MAX_CLASSES:
            raise ConfigError(
                f"a model card has {len(self.classes):,} classes; at most {MAX_CLASSES:,} are allowed"
            )
        if any(re.search(r"[\ud800-\udfff]", name) for name in self.classes):
            raise ConfigError("a class of a model card is not text: it has half of a character")
        if self.targets not in get_args(Targets):
            hint = did_you_mean(str(self.targets), get_args(Targets))
            raise ConfigError(f"targets of a model card are {self.targets!r}; {hint}")

    def to_json(self) -> str:
        """Return the card as JSON text."""
        values = dataclasses.asdict(self)
        # Fields are omitted where versions without them do the same, so that they can read the file.
        if self.targets == "single":
            del values["targets"]
        if self.clip.fps is None:
            del values["clip"]["fps"]
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
        if len(text) > MAX_CARD:
            raise CheckpointError(
                f"the model card has {len(text):,} characters; at most {MAX_CARD:,} are read"
            )
        try:
            values = json.loads(text)
        except (
            ValueError,
            RecursionError,
        ) as error:  # not JSON, a number of thousands of digits, or brackets
            raise CheckpointError(f"the model card is not JSON ({shortened(str(error))})") from error
        if not isinstance(values, dict) or values.pop("version", None) != CARD_VERSION:
            raise CheckpointError(
                f"the model card is not of version {CARD_VERSION}; a newer t3d wrote it: update t3d"
            )
        try:
            return with_overrides(cls(""), values, where="the model card")
        except ConfigError as error:
            raise CheckpointError(f"the model card is damaged: {error}") from error
