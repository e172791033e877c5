"""Measured peaks of a device: a large matrix product, and a large copy.

A network cannot compute faster than the matrix product, or move data faster than the copy. Both peaks are the
best of several runs and shapes, with the threads that torch uses.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from t3d.timing import Call, timed, waiting

_RUNS = 5
_SECONDS = 0.1  # of a short call, which runs more often


@dataclass(frozen=True)
class Peaks:
    """Measured peaks of a device.

    Args:
        flops: Floating-point operations per second of a large matrix product, by precision (`fp32`, `bf16`,
            and `int8` if it could be measured). A multiply-accumulate is two operations.
        bytes: Bytes per second of a large copy, read and written.
    """

    flops: dict[str, float]
    bytes: float

    def least_seconds(self, macs: float, traffic: float, precision: str) -> float | None:
        """Return the least seconds for some work, limited by arithmetic or by memory traffic.

        Args:
            macs: Multiply-accumulates.
            traffic: Bytes read and written.
            precision: Precision of the arithmetic.

        Returns:
            Seconds; None if the peak of this precision was not measured.
        """
        peak = self.flops.get(precision)
        return None if peak is None else max(2 * macs / peak, traffic / self.bytes)


def measure_peaks(
    device: torch.device, precisions: tuple[str, ...] = ("fp32", "bf16"), *, sizes: tuple[int, ...] = ()
) -> Peaks:
    """Measure the peaks of a device.

    Args:
        device: The device.
        precisions: Precisions to measure, of `fp32`, `bf16` and `int8`.
        sizes: Sides of the square matrices. Default: 512 to 2048 on a CPU, 4096 and 8192 on a GPU.
    """
    sizes = sizes or ((512, 1024, 2048) if device.type == "cpu" else (4096, 8192))
    flops = {}
    for precision in precisions:
        if rate := max(_product(device, precision, size) for size in sizes):
            flops[precision] = rate
    return Peaks(flops, _copy(device, numbers=sizes[-1] ** 2 * 8))


def _product(device: torch.device, precision: str, size: int) -> float:
    """Return the operations per second of a product of two square matrices; 0 if it cannot be computed."""
    calls: list[tuple[Call, int]] = []  # with the number of products
    with torch.inference_mode():
        if precision == "int8":
            left, right = (torch.ones(size, size, dtype=torch.int8, device=device) for _ in range(2))
            calls.append((lambda: torch._int_mm(left, right), 1))
            if device.type == "cpu" and find_spec("openvino") is not None:
                from t3d.bench.openvino_product import PRODUCTS, int8_product

                calls.append((int8_product(size), PRODUCTS))  # it uses instructions that torch does not
        else:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            calls += [(lambda: left @ right, 1), (lambda: torch.nn.functional.linear(left, right), 1)]
        wait = waiting(device)
        return max(2 * size**3 * count / _best(call, wait) for call, count in calls)


def _best(call: Call, wait: Call) -> float:
    """Return the seconds of the fastest run; infinity if the call cannot run."""
    with suppress(Exception):  # an operation that this device does not have
        first = timed(call, wait)
        runs = min(max(_RUNS, round(_SECONDS / max(first, 1e-6))), 1000)
        return min(timed(call, wait) for _ in range(runs))
    return float("inf")


def _copy(device: torch.device, *, numbers: int) -> float:
    """Return the bytes per second of copying float32 numbers, read and written."""
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return 8 * numbers / _best(lambda: target.copy_(source), waiting(device))
