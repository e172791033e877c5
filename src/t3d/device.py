"""Device, precision, batch size and processes of a model's computation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from t3d.errors import ConfigError, OutOfMemoryError, T3DError, at_least, did_you_mean, first_line, one_of

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """Options of a computation. They affect the results only by rounding.

    Args:
        device: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`, or one GPU such as `cuda:1`.
        precision: `fp32`, `bf16`, or `auto` (bf16 on devices that support it in hardware, else fp32).
        batch_size: Clips, or crops of clips, per forward pass. Affects speed and memory only.
        workers: Processes that read videos; threads, if `t3d predict` runs an exported file. 0 reads them in
            this process.

    Raises:
        ConfigError: A value is invalid.
    """

    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int = 8
    workers: int = 2

    def __post_init__(self) -> None:
        one_of("precision", self.precision, get_args(Precision))
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)

    def pick_device(self) -> torch.device:
        """Return the torch device.

        Raises:
            ConfigError: The device does not exist.
        """
        return pick_device(self.device)

    def use_bf16(self, device: torch.device) -> bool:
        """Return whether to compute in bfloat16 on this device."""
        return use_bf16(self.precision, device)


def is_main() -> bool:
    """Return whether this is the main process of the command, also before processes are connected."""
    return os.environ.get("RANK", "0") == "0"


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Args:
        name: `auto` (a CUDA GPU if there is one, else the CPU), or the name of a torch device.

    Raises:
        ConfigError: The device does not exist.
    """
    import torch  # imported here, because reading options and showing help do not need torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {error}; try auto or cpu") from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware, so that it is faster than float32."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def use_bf16(precision: str, device: torch.device) -> bool:
    """Return whether to compute in bfloat16, for the precision `auto`, `fp32` or `bf16`.

    Raises:
        ConfigError: The precision is unknown.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"unknown precision {precision!r}; {did_you_mean(precision, get_args(Precision))}")
    return precision == "bf16" or (precision == "auto" and has_bf16(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a CPU or a GPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("not enough memory", "can't allocate memory", "out of memory"))


@contextmanager
def explained_memory(doing: str, remedy: str) -> Iterator[None]:
    """Say what to change if the memory of the device runs out within the `with` block.

    Args:
        doing: When it ran out, such as `in a training step`.
        remedy: What to change, as a sentence without a full stop.

    Raises:
        OutOfMemoryError: Memory ran out, on a CPU or a GPU.
    """
    try:
        yield
    except T3DError:  # it says already what to do, such as that of a killed reading process
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"memory ran out {doing} ({first_line(error)}). {remedy}") from error
