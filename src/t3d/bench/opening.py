"""The network that a benchmark measures: by name, from weights, or that of an exported file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.models.net import VideoNet
from t3d.models.registry import create_model, list_models
from t3d.models.segments import with_consensus
from t3d.models.weights import load_classifier
from t3d.runtime.formats import exported_format
from t3d.runtime.load import read_model_card

FRAMES, SIZE = 16, 112
"""Frames and side of a clip for a model by name."""


@dataclass(frozen=True)
class Subject:
    """Network that a benchmark measures.

    Args:
        name: Name in tables.
        net: The network, on the CPU. That of an exported file has random weights.
        spec: What a clip is.
        file: The exported file; None for a network.
    """

    name: str
    net: VideoNet
    spec: ClipSpec
    file: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of a clip, C T H W."""
        frames = self.spec.segments * self.spec.num_frames
        return self.net.in_channels, frames, self.spec.size, self.spec.size

    @property
    def scorer(self) -> nn.Module:
        """The network, with the consensus of segments if there are several."""
        return with_consensus(self.net, self.spec.segments)


def open_subject(model: str, *, num_frames: int | None, size: int | None) -> Subject:
    """Open the network of a benchmark.

    Args:
        model: Name of a model, weights file, run folder, or exported file.
        num_frames: Frames per clip. None: those of the card, else 16.
        size: Side of a clip in pixels. None: that of the card, else 112.

    Raises:
        CheckpointError: The file cannot be used.
        ConfigError: There is no such model, or an exported file is of another clip.
    """
    torch.manual_seed(0)
    if model in list_models():
        spec = ClipSpec(num_frames=num_frames or FRAMES, stride=1, size=size or SIZE, resize=size or SIZE)
        return _checked(Subject(model, create_model(model).eval(), spec))
    if not Path(model).exists() and not Path(model).suffix and "/" not in model:
        create_model(model)  # raises the error about an unknown name, with the nearest one
    if exported_format(model) is None:
        net, card = load_classifier(model)
        frames, side = num_frames or card.clip.num_frames, size or card.clip.size
        spec = replace(card.clip, num_frames=frames, size=side, resize=max(side, card.clip.resize))
        return _checked(Subject(model, net.eval(), spec))
    known = read_model_card(model)
    assert known is not None  # an exported file has a card
    clip = known.clip
    for option, wanted, own in (("num_frames", num_frames, clip.num_frames), ("size", size, clip.size)):
        if wanted not in (None, own):
            raise ConfigError(
                f"{option} is {wanted}, but {model} was exported for clips of {clip.num_frames} frames of "
                f"{clip.size} × {clip.size} pixels. Remove `{option}`, or export the run for such clips"
            )
    net = create_model(known.architecture, num_classes=len(known.classes), options=known.options)
    return Subject(model, net.eval(), clip, Path(model))


def _checked(subject: Subject) -> Subject:
    """Refuse a clip that is too small for the network, before any work.

    Raises:
        ConfigError: It is.
    """
    frames, side = subject.net.min_input_size()
    if subject.spec.num_frames < frames or subject.spec.size < side:
        raise ConfigError(
            f"num_frames is {subject.spec.num_frames} and size is {subject.spec.size}, but {subject.name} "
            f"needs clips of at least {frames} frames of {side} × {side} pixels"
        )
    return subject


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Compute with this many threads in the block; None keeps those that torch uses.

    Yields:
        Number of threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
