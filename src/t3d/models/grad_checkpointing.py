"""Gradient checkpointing: recompute activations in the backward pass to save memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Recomputing(nn.Module):
    """Base class of the blocks that `VideoNet.set_grad_checkpointing` switches.

    Attributes:
        grad_checkpointing: Whether the block recomputes its activations. Off by default.
    """

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False

    def recomputed(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Compute a part of the block. If checkpointing is on, keep only its inputs for the backward pass.

        Args:
            part: Function to compute, made of modules of this block. It must not be random.
            *inputs: Arguments of `part`, which must not change them.

        Returns:
            The result of `part`.
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
    # The second pass would update BatchNorm's statistics twice, so it gets copies of them.
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
