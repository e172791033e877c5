"""The Temporal Transition Layer (TTL) of T3D, and the temporal convolution that it is built from.

Legend: B batch, C channels, T time, H height, W width; every map is B C T H W.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t3d.errors import ConfigError, did_you_mean
from t3d.models.grad_checkpointing import Recomputing

TimePadding = Literal["zeros", "replicate"]
Kernel = tuple[int, int, int]

PAPER_DEPTHS = ((1, 3, 6), (1, 3, 4), (1, 3, 4))
"""Temporal depths of T3D's three transitions (section 3.1)."""


class TemporalConv3d(nn.Conv3d):
    """3D convolution that keeps T at stride 1 for any temporal depth, odd or even.

    A depth of k is padded by (k-1)//2 steps before the clip and k//2 after it, height and width by
    (k-1)//2 zeros on both sides. No bias by default, since nearly every convolution here has a BatchNorm.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Kernel as T × H × W; height and width must be odd.
        stride: Stride as T × H × W.
        time_padding: `zeros`, or `replicate` to repeat the first and last step of the clip. Height and
            width are always padded with zeros.
        bias: Whether each filter adds a learned bias.

    Raises:
        ConfigError: A kernel that cannot be centered, or an unknown padding.

    Example:
        >>> TemporalConv3d(4, 8, kernel_size=(6, 3, 3))(torch.zeros(1, 4, 5, 7, 7)).shape
        torch.Size([1, 8, 5, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Kernel,
        stride: Kernel = (1, 1, 1),
        time_padding: TimePadding = "zeros",
        bias: bool = False,
    ) -> None:
        depth, height, width = kernel_size
        if depth < 1 or height % 2 == 0 or width % 2 == 0:
            raise ConfigError(
                f"kernel_size is {kernel_size} (T × H × W); T must be 1 or more, H and W must be odd"
            )
        if time_padding not in get_args(TimePadding):
            raise ConfigError(
                f"time_padding is {time_padding!r}; {did_you_mean(time_padding, get_args(TimePadding))}"
            )
        before, after = (depth - 1) // 2, depth // 2
        # The convolution does the padding where it can: separate padding costs a copy of the map.
        self_padded = time_padding == "zeros" and before == after
        self._pad: Kernel = (before if self_padded else 0, height // 2, width // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=self._pad, bias=bias)
        self.time_padding = time_padding
        self._pad_apart = (0, 0, 0, 0, before, after) if not self_padded and depth > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: Map, B C T H W.

        Returns:
            Map, B C' T' H' W', with T' = ceil(T / stride).
        """
        padding = self._pad
        if self._pad_apart is not None:
            x = F.pad(x, self._pad_apart, mode="constant" if self.time_padding == "zeros" else "replicate")
        elif misleads_onednn(
            device=x.device.type,
            bf16=x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu"),
            frames=x.shape[2],
            depth=self.kernel_size[0],
        ):
            x = F.pad(x, (0, 0, 0, 0, padding[0], padding[0]))
            padding = (0, *padding[1:])
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)


def misleads_onednn(*, device: str, bf16: bool, frames: int, depth: int) -> bool:
    """Decide whether time must be padded before a convolution, because oneDNN's own padding is wrong.

    Seen with torch 2.15 and AVX-512: if the map is shorter than the kernel, the gradient of the weights in
    bfloat16 is computed from uninitialized memory (T = 2, depth 3): garbage, sometimes NaN. A depth of 7 at
    stride 2 corrupts the heap on maps of 5 to 7 time steps, in float32 as well, so deep kernels are always
    padded first. Some CPUs do not show the fault; the decision is the same on all of them.

    Args:
        device: Type of the map's device.
        bf16: Whether the convolution computes in bfloat16.
        frames: Time steps of the map.
        depth: Temporal depth of the kernel.
    """
    if device != "cpu":
        return False
    return frames <= depth if depth > 3 else bf16 and frames < depth


class TransitionPool(nn.Module):
    """Average pool 2×2×2, whose temporal kernel is 1 if the map has only one time step left.

    Args:
        adapt: Accept a map of one time step. False raises an error, as a plain 2×2×2 pool does.

    Example:
        >>> TransitionPool()(torch.zeros(1, 8, 1, 6, 6)).shape
        torch.Size([1, 8, 1, 3, 3])
    """

    def __init__(self, *, adapt: bool = True) -> None:
        super().__init__()
        self.adapt = adapt

    def forward(self, x: Tensor) -> Tensor:
        """Pool.

        Args:
            x: Map, B C T H W.

        Returns:
            Map, B C T//2 H//2 W//2; B C 1 H//2 W//2 if T is 1 and the pool adapts.
        """
        depth = 1 if self.adapt and x.shape[2] == 1 else 2
        return F.avg_pool3d(x, kernel_size=(depth, 2, 2))

    def extra_repr(self) -> str:
        """Return the options that print(model) shows."""
        return f"2×2×2, adapt={self.adapt}"


class TemporalBranch(Recomputing):
    """One branch of a TTL: BN → ReLU → convolution of one temporal depth, T is kept."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: Kernel, time_padding: TimePadding = "zeros"
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = TemporalConv3d(
            in_channels, out_channels, kernel_size=kernel_size, time_padding=time_padding
        )

    def forward(self, x: Tensor) -> Tensor:
        """B C T H W → B C' T H W."""
        return self.recomputed(self._convolve, x)

    def _convolve(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(self.norm(x)))


class TemporalTransition(nn.Module):
    """Temporal Transition Layer: parallel branches of several temporal depths, then a pool.

    Each branch is BN → ReLU → convolution and keeps T. Their maps are concatenated on the channel axis and
    average-pooled 2×2×2 (section 3.1 and Table 1). The layer takes any map B C T H W.

    Args:
        in_channels: Input channels.
        depths: Temporal depth of each branch; the paper's are (1, 3, 6), (1, 3, 4) and (1, 3, 4). A branch
            of depth 1 has a kernel of 1×1×1, one of depth d a kernel of d×3×3.
        branch_channels: Filters of each branch.
        projection: Add BN → ReLU → 1×1×1 convolution of unchanged width between the branches and the
            pool. The authors' code has it; the paper's Table 1 does not.
        time_padding: How branches pad time, see `TemporalConv3d`.
        adapt_pool: See `TransitionPool`.
        pool: Whether to average-pool the map 2×2×2. False keeps its size.
        warn: Whether to warn once when training on maps with fewer time steps than the deepest branch.

    Attributes:
        out_channels: Output channels, `len(depths) * branch_channels`.

    Raises:
        ConfigError: No depth, or a depth below 1.

    Example:
        >>> ttl = TemporalTransition(16, (1, 3, 6), branch_channels=8)
        >>> ttl.out_channels, ttl(torch.zeros(2, 16, 8, 10, 10)).shape
        (24, torch.Size([2, 24, 4, 5, 5]))
    """

    def __init__(
        self,
        in_channels: int,
        depths: Sequence[int],
        *,
        branch_channels: int = 128,
        projection: bool = False,
        time_padding: TimePadding = "zeros",
        adapt_pool: bool = True,
        pool: bool = True,
        warn: bool = True,
    ) -> None:
        super().__init__()
        depths = tuple(depths)
        if not depths or min(depths) < 1:
            raise ConfigError(f"depths is {depths}; give one temporal depth of at least 1 per branch")
        self.out_channels = len(depths) * branch_channels
        self.branches = nn.ModuleList(
            TemporalBranch(
                in_channels,
                branch_channels,
                kernel_size=(1, 1, 1) if depth == 1 else (depth, 3, 3),
                time_padding=time_padding,
            )
            for depth in depths
        )
        self.projection = (
            TemporalBranch(self.out_channels, self.out_channels, kernel_size=(1, 1, 1))
            if projection
            else None
        )
        self.pool = TransitionPool(adapt=adapt_pool) if pool else nn.Identity()
        self._deepest = max(depths)
        self._may_warn = warn

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the map over several temporal depths, concatenate and pool.

        Args:
            x: Map, B C T H W. If T is shorter than a branch's depth, the branch also sees padding.

        Returns:
            Map, B out_channels T//2 H//2 W//2; B out_channels T H W without pool.
        """
        if self.training and x.shape[2] < self._deepest and not torch.compiler.is_compiling():
            self._warn_once(x.shape[2])
        x = torch.cat([branch(x) for branch in self.branches], dim=1)  # B D·C' T H W
        if self.projection is not None:
            x = self.projection(x)
        return self.pool(x)

    def _warn_once(self, steps: int) -> None:
        if self._may_warn:
            self._may_warn = False
            warnings.warn(
                f"a TTL looks at {self._deepest} time steps, but its map has only {steps} and is padded; "
                "longer clips or smaller ttl_depths avoid the wasted computation",
                stacklevel=1,
            )
