"""One step of training, written out: forward pass, cross-entropy, backward pass, SGD with momentum."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train_step(
    net: nn.Module,
    clips: Tensor,
    *,
    bf16: bool,
    prepare: Callable[[nn.Module], Callable[[Tensor], Tensor]] = lambda net: net,
) -> Callable[[], float]:
    """Return a call that trains a network by one step on the same clips.

    The rate of learning is tiny, so that the weights stay as they are however often the step runs.

    Args:
        net: The network, in training mode, on the device of the clips.
        clips: Clips, float32 B C T H W.
        bf16: Compute in bfloat16 with torch's autocast.
        prepare: Function from the network to what computes it, such as `torch.compile`.

    Returns:
        A call that returns the loss.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-12, momentum=0.9, nesterov=True, foreach=True)
    forward = prepare(net)
    device = clips.device.type
    labels = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            scores = forward(clips)
        loss = F.cross_entropy(scores.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach().item()

    return step
