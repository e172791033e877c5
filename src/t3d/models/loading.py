"""Load tensors into a network by name, and report which ones fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from t3d.errors import CheckpointError, shortened
from t3d.models.net import VideoNet
from t3d.models.tensor_files import Described

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """Result of loading a file into a network, tensor by tensor. Printing it gives a summary.

    Attributes:
        loaded: Names whose tensors were copied.
        missing: Names that only the network has. Their values did not change.
        unexpected: Names that only the file has. They were not loaded.
        mismatched: Names in both whose shapes differ: (name, shape in the file, shape in the network).
        skipped: Names of the classifier, which is skipped on purpose.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, Shape, Shape], ...]
    skipped: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """True if everything but the classifier was loaded."""
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


def compare(expected: Mapping[str, Tensor], got: Mapping[str, Tensor] | Mapping[str, Described]) -> str:
    """Describe where two sets of named tensors differ.

    Args:
        expected: Expected tensors by name.
        got: Actual tensors by name, or their descriptions in a file.

    Returns:
        Phrases for an error message; empty if names and shapes agree.
    """
    lines = []
    missing = tuple(name for name in expected if name not in got)
    unexpected = tuple(name for name in got if name not in expected)
    shapes = tuple(
        f"{name} is {_times(got[name].shape)}, expected {_times(tensor.shape)}"
        for name, tensor in expected.items()
        if name in got and tuple(got[name].shape) != tuple(tensor.shape)
    )
    kinds = tuple(
        name
        for name, tensor in expected.items()
        if name in got and _is_floating(got[name]) != tensor.is_floating_point()
    )
    if missing:
        lines.append(f"missing: {_few(missing)}")
    if unexpected:
        lines.append(f"unexpected: {_few(unexpected)}")
    if shapes:
        lines.append(f"another shape: {_few(shapes)}")
    if kinds:
        lines.append(f"another kind of numbers: {_few(kinds)}")
    return "; ".join(lines)


@torch.no_grad()
def load_matching(model: VideoNet, state: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Copy every backbone tensor whose name and shape match. The classifier does not change.

    Args:
        model: The network; changed in place.
        state: Tensors by name.
        source: Where they come from, for error messages.

    Returns:
        Which tensors were loaded.

    Raises:
        CheckpointError: No convolution or linear weight of the backbone matches.
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
    """Return whether a tensor's name belongs to the classifier of a network."""
    return name.startswith(f"{model.classifier_name}.")


def convolutions(model: nn.Module) -> set[str]:
    """Return the names of the weights of all 3D convolutions."""
    return {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv3d)}


def _is_floating(tensor: Tensor | Described) -> bool:
    return tensor.is_floating if isinstance(tensor, Described) else tensor.is_floating_point()


def _few(names: tuple[str, ...]) -> str:
    rest = len(names) - 3
    return ", ".join(map(shortened, names[:3])) + (f" and {rest} more" if rest > 0 else "")


def _times(shape: Shape | torch.Size) -> str:
    return "×".join(map(str, shape)) or "a single number"
