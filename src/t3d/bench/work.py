"""Work of a network: multiply-accumulates, and the least memory traffic that they need.

Legend: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from t3d.models.flops import drop_norms

_WEIGHTED = ("convolution", "addmm", "mm", "bmm", "baddbmm", "_scaled_dot_product")
_POOLS = ("max_pool2d", "max_pool3d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool", "_adaptive_avg_pool")


@dataclass(frozen=True)
class Work:
    """Work of a network for one clip.

    Args:
        macs: Multiply-accumulates of convolutions and matrix products.
        activations: Numbers that layers read and write: each convolution, matrix product and pool reads its
            input once and writes its output once. BatchNorm and ReLU are part of their neighbors.
        weights: Learned numbers, which a forward pass reads once, whatever the batch size.
    """

    macs: int
    activations: int
    weights: int

    def traffic(self, *, batch: int, bytes_per_number: int) -> float:
        """Return the least memory traffic per clip in bytes, for clips in a batch."""
        return (self.activations + self.weights / batch) * bytes_per_number


def work_of(net: nn.Module, shape: Sequence[int]) -> Work:
    """Count the work of a network for one clip. Nothing is computed.

    Args:
        net: The network, which is copied to the meta device.
        shape: Shape of the clip, C T H W.

    Example:
        >>> work_of(nn.Conv3d(3, 8, 3, bias=False), (3, 4, 6, 6))
        Work(macs=20736, activations=688, weights=648)
    """
    skeleton = copy.deepcopy(net).to("meta").eval()
    weights = sum(parameter.numel() for parameter in skeleton.parameters())
    drop_norms(skeleton)
    clip = torch.zeros(1, *shape, device="meta")
    counted = _Traffic(parameter.untyped_storage() for parameter in skeleton.parameters())
    with torch.no_grad(), _no_fast_path(), FlopCounterMode(display=False) as flops, counted:
        skeleton(clip)
    return Work(flops.get_total_flops() // 2, counted.numbers, weights)


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sum up the numbers that weighted layers and pools read and write, without weights."""

    def __init__(self, weights: Iterator[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = {storage._cdata for storage in weights}
        self.numbers = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if name.startswith(_WEIGHTED) or name.startswith(_POOLS):
            outputs = results[:1] if isinstance(results, tuple) else (results,)
            for tensor in (*args, *outputs):
                if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._weights:
                    self.numbers += tensor.numel()
        return results


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Keep transformer layers from calling one fused operation, whose work would not be counted."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
