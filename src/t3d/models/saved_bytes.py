"""Count what a forward pass keeps in memory for its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Run a forward pass and count the bytes that autograd keeps for the backward pass.

    Memory counts once, also if several operations keep it. Parameters and buffers of the model do not count,
    because they exist anyway. Copies of parameters that autocast makes count.

    Args:
        model: Model whose parameters and buffers do not count.
        forward: Function that computes the forward pass, such as `lambda: model(x)`. It runs once.

    Returns:
        Number of bytes. 0 without gradients.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> saved_bytes(net, lambda: net(torch.zeros(2, 4)))  # inputs of the linear layers: 8 and 16 floats
        96
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # held until the end, so that no other gets the same address
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    total = sum(storage.nbytes() for storage in kept.values())
    del result  # the graph lives until here
    return total
