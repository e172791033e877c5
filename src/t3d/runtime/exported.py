"""Base class of exported models. Importing this module imports no torch.

Legend: B batch, C channels, T frames, H height, W width, S segments, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from t3d.card import ModelCard
from t3d.device import Compute
from t3d.errors import ConfigError
from t3d.runtime.formats import Format
from t3d.runtime.stamp import Stamp

if TYPE_CHECKING:
    from torch import Tensor


class ExportedModel(ABC):
    """A model from an exported file, called as a network is. It computes on the CPU.

    Args:
        path: The file.
        card: Its card.
        stamp: How it was exported.
        precision: What it computes in: `fp32`, `bf16`, or `int8` with the other operations in one of these,
            such as `int8 and bf16`.

    Attributes:
        runtime: What computes it: `openvino` or `onnx`.
    """

    runtime: Format

    def __init__(self, path: Path, card: ModelCard, stamp: Stamp, *, precision: str) -> None:
        self.path = path
        self.card = card
        self.stamp = stamp
        self.precision = precision if stamp.numbers == "fp32" else f"int8 and {precision}"

    def __call__(self, x: Tensor) -> Tensor:
        """Score clips in torch tensors.

        Args:
            x: Clips, float, normalized, B 3 S·T H W, of the size that the file was exported for.

        Returns:
            Scores before the softmax, float32 B K, on the CPU.

        Raises:
            ConfigError: The clips have another shape or type.
        """
        import torch

        self._check(x.shape, str(x.dtype), floating=x.is_floating_point())
        return torch.from_numpy(self._scores(x.detach().to("cpu", torch.float32).numpy()))

    def scores(self, clips: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Score clips in NumPy arrays, without torch.

        Args:
            clips: Clips, float, normalized, B 3 S·T H W, of the size that the file was exported for.

        Returns:
            Scores before the softmax, float32 B K.

        Raises:
            ConfigError: The clips have another shape or type.
        """
        self._check(clips.shape, str(clips.dtype), floating=np.issubdtype(clips.dtype, np.floating))
        return self._scores(clips.astype(np.float32, copy=False))

    def _check(self, shape: Sequence[int], dtype: str, *, floating: bool) -> None:
        clip = self.card.clip
        frames = clip.segments * clip.num_frames
        if len(shape) != 5 or tuple(shape[1:]) != (3, frames, clip.size, clip.size):
            raise ConfigError(
                f"{self.path}: the input is {' × '.join(map(str, shape))}; this file was exported for "
                f"clips B × 3 × {frames} × {clip.size} × {clip.size} (the clip in its card). Give it such "
                "clips, or export another model"
            )
        if not floating:
            raise ConfigError(
                f"{self.path}: the input is {dtype}; a model takes normalized floats: divide 8-bit pixels "
                "by 255, subtract the clip's mean, divide by its std"
            )

    def _scores(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.array(self._run(np.ascontiguousarray(clips)), dtype=np.float32)

    @abstractmethod
    def _run(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Score clips [B, C, S·T, H, W]; return scores [B, K]."""


def refuse_gpu(compute: Compute, path: Path) -> None:
    """Raise an error if a GPU is asked for.

    Raises:
        ConfigError: The device is not `auto` or `cpu`.
    """
    if compute.device not in ("auto", "cpu"):
        raise ConfigError(
            f"device is {compute.device}, but {path} is an exported model, which computes on the CPU. Use "
            "device auto or cpu, or the run folder for a GPU"
        )
