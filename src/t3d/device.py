"""What the machine's processors can do."""

from __future__ import annotations

import torch

from t3d.errors import ConfigError, did_you_mean

_PRECISIONS = ("auto", "fp32", "bf16")


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on.

    Args:
        name: `auto` takes a CUDA GPU where there is one; otherwise a torch device name.

    Raises:
        ConfigError: No such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} cannot be used: {error}; try auto or cpu") from error
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 in hardware, so that it is faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        can = torch.cpu.get_capabilities()
        return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
    return False


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16 under `precision`: `auto`, `fp32` or `bf16`.

    Raises:
        ConfigError: Another precision.
    """
    if precision not in _PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}; {did_you_mean(precision, _PRECISIONS)}")
    return precision == "bf16" or (precision == "auto" and has_bf16(device))
