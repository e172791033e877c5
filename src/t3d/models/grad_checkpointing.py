"""Gradient checkpointing: recompute activations in the backward pass to save memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

GradCheckpointing = Literal["none", "layers", "blocks"]
"""Mode of `VideoNet.set_grad_checkpointing`."""


class Recomputing(nn.Module):
    """Base class of the layers that `VideoNet.set_grad_checkpointing` switches.

    Attributes:
        grad_checkpointing: Whether the layer recomputes its activations. Off by default.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False

    def recomputed(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Compute a part of the layer. If checkpointing is on, keep only its inputs for the backward pass.

        The second computation ends before the last operation of the part, whose result nothing needs. A part
        that ends with a convolution is therefore cheap to recompute.

        Args:
            part: Function to compute, made of modules of this layer. It must not be random.
            *inputs: Arguments of `part`, which must not change them.

        Returns:
            The result of `part`.
        """
        if not self.grad_checkpointing:
            return part(*inputs)
        return recompute(part, *inputs, modules=[self])


def recompute(
    part: Callable[..., Tensor], *inputs: Tensor, modules: Iterable[nn.Module], random: bool = False
) -> Tensor:
    """Compute a part of a network, keep only its inputs, and compute it again in the backward pass.

    Args:
        part: Function to compute. It may contain parts that are recomputed themselves.
        *inputs: Arguments of `part`, which must not change them.
        modules: Modules of `part`. Their buffers, such as the statistics of BatchNorm, change only once.
        random: Whether `part` contains dropout, so that the second computation must draw the same numbers.

    Returns:
        The result of `part`.
    """
    if not torch.is_grad_enabled():
        return part(*inputs)
    if torch.compiler.is_compiling():  # a compiled graph changes buffers once, whatever it recomputes
        return checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=random)
    return checkpoint(
        part,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=random,
        context_fn=partial(_contexts, list(modules)),
    )


def _contexts(
    modules: list[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _spare_buffers(modules)


@contextmanager
def _spare_buffers(modules: list[nn.Module]) -> Iterator[None]:
    # The second pass would update BatchNorm's statistics twice, so it gets copies of them.
    parts = [part for module in modules for part in module.modules()]
    kept = [(part, dict(part.named_buffers(recurse=False))) for part in parts]
    for part, buffers in kept:
        for name, buffer in buffers.items():
            setattr(part, name, buffer.clone())
    try:
        yield
    finally:
        for part, buffers in kept:
            for name, buffer in buffers.items():
                setattr(part, name, buffer)
