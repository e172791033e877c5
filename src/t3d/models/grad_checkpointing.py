"""Activations thrown away in the forward pass and computed again in the backward pass: time for memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """Base of the blocks that `VideoNet.set_grad_checkpointing` switches.

    Attributes:
        grad_checkpointing: Whether the block recomputes; off at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False

    def recomputed(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Compute a part of the block; where checkpointing is on, keep nothing but its inputs.

        Args:
            part: What is computed, with modules of this block; nothing in it may be random.
            *inputs: What goes in; `part` must not change them.

        Returns:
            What `part` gives.
        """
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return part(*inputs)
        return checkpoint(
            part, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _spare_buffers(self)


@contextmanager
def _spare_buffers(block: nn.Module) -> Iterator[None]:
    # The second pass over a BatchNorm would count the batch twice: give it copies to spoil.
    kept = [(module, dict(module.named_buffers(recurse=False))) for module in block.modules()]
    for module, buffers in kept:
        for name, buffer in buffers.items():
            setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, buffers in kept:
            for name, buffer in buffers.items():
                setattr(module, name, buffer)
