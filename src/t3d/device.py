"""Compute settings: the device, the precision, and how many clips and processes at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from t3d.errors import ConfigError, at_least, did_you_mean, one_of

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """Compute settings of a model. They change results by rounding only.

    Args:
        device: Device to compute on: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda` or
            `cuda:1`.
        precision: `fp32`, `bf16`, or `auto`, which is bf16 on devices that compute it in hardware.
        batch_size: Clips, or crops of clips, per forward pass. Affects speed and memory only.
        workers: Processes that read videos. 0 reads them in this process.

    Raises:
        ConfigError: A value that cannot work.
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
            ConfigError: There is no such device.
        """
        return pick_device(self.device)

    def use_bf16(self, device: torch.device) -> bool:
        """Return whether to compute in bfloat16 on this device."""
        return use_bf16(self.precision, device)


def pick_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Args:
        name: `auto` takes a CUDA GPU where there is one; otherwise a torch device name.

    Raises:
        ConfigError: There is no such device.
    """
    import torch  # not above: options are read, and help is shown, without torch

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
    """Return whether to compute in bfloat16 under a precision: `auto`, `fp32` or `bf16`.

    Raises:
        ConfigError: Another precision.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"unknown precision {precision!r}; {did_you_mean(precision, get_args(Precision))}")
    return precision == "bf16" or (precision == "auto" and has_bf16(device))
