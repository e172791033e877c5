"""Put tensors into a network by name, and say which fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t3d.errors import CheckpointError
from t3d.models.net import VideoNet

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """What of a file went into a network and what did not; print it.

    Attributes:
        loaded: Names whose tensors were copied.
        missing: Names that only the network has; they keep their values.
        unexpected: Names that only the file has; they were left out.
        mismatched: Names in both whose shapes differ: (name, shape in the file, shape in the network).
        skipped: Names of the classifier, left out on purpose.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, Shape, Shape], ...]
    skipped: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything but the classifier was loaded."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.mismatched)
        parts = [f"{len(self.loaded)} of {total} backbone tensors loaded"]
        if self.missing:
            parts.append(f"not in the file: {_few(self.missing)}")
        if self.mismatched:
            shapes = tuple(f"{name} {_times(got)} for {_times(want)}" for name, got, want in self.mismatched)
            parts.append(f"another shape: {_few(shapes)}")
        if self.unexpected:
            parts.append(f"not in the network: {_few(self.unexpected)}")
        if self.skipped:
            parts.append(f"left out on purpose: {_few(self.skipped)}")
        return "; ".join(parts)


def compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> str:
    """Say where two sets of named tensors differ, first differences first.

    Args:
        expected: What there should be.
        got: What there is.

    Returns:
        Half-sentences; empty where names and shapes agree.
    """
    lines = []
    missing = tuple(name for name in expected if name not in got)
    unexpected = tuple(name for name in got if name not in expected)
    shapes = tuple(
        f"{name} is {_times(got[name].shape)}, expected {_times(tensor.shape)}"
        for name, tensor in expected.items()
        if name in got and got[name].shape != tensor.shape
    )
    if missing:
        lines.append(f"missing: {_few(missing)}")
    if unexpected:
        lines.append(f"unexpected: {_few(unexpected)}")
    if shapes:
        lines.append(f"another shape: {_few(shapes)}")
    return "; ".join(lines)


@torch.no_grad()
def load_matching(model: VideoNet, state: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Copy every tensor of the backbone whose name and shape fit; the classifier is left as it is.

    Args:
        model: The network; changed in place.
        state: Tensors by name.
        source: Where they come from, for error messages.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: No convolution or linear weight of the backbone fits.
    """
    backbone = {name: tensor for name, tensor in model.state_dict().items() if not is_classifier(model, name)}
    loaded, missing, mismatched = [], [], []
    for name, target in backbone.items():
        if name not in state:
            missing.append(name)
        elif state[name].shape != target.shape:
            mismatched.append((name, tuple(state[name].shape), tuple(target.shape)))
        else:
            target.copy_(state[name])
            loaded.append(name)
    if not any(backbone[name].ndim > 1 for name in loaded):
        raise CheckpointError(
            f"{source}: no weight of the backbone fits this network ({compare(backbone, state)}); "
            "was it made with another architecture?"
        )
    skipped = tuple(name for name in state if is_classifier(model, name))
    unexpected = tuple(name for name in state if name not in backbone and name not in skipped)
    return LoadReport(tuple(loaded), tuple(missing), unexpected, tuple(mismatched), skipped)


def is_classifier(model: VideoNet, name: str) -> bool:
    """Whether a tensor's name belongs to the classifier of a network."""
    return name.startswith(f"{model.classifier_name}.")


def convolutions(model: nn.Module) -> set[str]:
    """Names of the weights of all 3D convolutions."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv3d)}


def _few(names: tuple[str, ...]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


def _times(shape: Shape | torch.Size) -> str:
    return "×".join(map(str, shape)) or "a single number"
