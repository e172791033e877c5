"""Result of a benchmark: typed rows that are complete in JSON."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from t3d.bench.batch import BatchPoint, BatchSearch
from t3d.bench.peaks import Peaks
from t3d.timing import Timing

BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes per number."""
_PACKAGES = ("torch", "torchvision", "openvino", "onnxruntime", "av", "torchcodec")


@dataclass(frozen=True)
class Row:
    """One line of the table of a benchmark.

    Args:
        network: The network.
        setting: Program that computes it, and how, such as `eager, channels last`.
        precision: Numbers it computes with.
        batch: Clips per call.
        time: Seconds per clip; None if it failed.
        macs: Multiply-accumulates per clip; None if they are not known.
        traffic: Least bytes read and written per clip; None if they are not known.
        memory: Bytes at the peak, with the weights, without the libraries; None if they were not measured.
        eager: Whether this is the network, or its textbook version, without compiler or other runtime.
        error: Why it failed; empty if it did not.
        speedup: Time of the reference, the first row, divided by this one's.
        eager_speedup: Time of the fastest eager row divided by this one's.
        peak_share: Share of the measured peak of arithmetic.
        bound_share: Share of the speed that arithmetic and memory traffic allow together.
    """

    network: str
    setting: str
    precision: str
    batch: int
    time: Timing | None
    macs: float | None = None
    traffic: float | None = None
    memory: int | None = None
    eager: bool = False
    error: str = ""
    speedup: float | None = None
    eager_speedup: float | None = None
    peak_share: float | None = None
    bound_share: float | None = None


@dataclass(frozen=True)
class LayerTime:
    """Time of all layers of one kind.

    Args:
        kind: Kind of the layers, such as `Convolution 3×3×3`.
        count: Number of layers.
        seconds: Their time per clip.
        macs: Their multiply-accumulates per clip.
        primitives: Names of the code that computed them.
        peak_share: Share of the measured peak of arithmetic; None for layers without multiply-accumulates.
    """

    kind: str
    count: int
    seconds: float
    macs: float
    primitives: str
    peak_share: float | None = None


@dataclass(frozen=True)
class Machine:
    """Machine that a benchmark ran on.

    Args:
        device: Name of the processor.
        threads: Threads that computed.
        load: Load average of the last minute when the benchmark began: processes that wanted to run.
        cores: Cores of the machine.
        packages: Versions of packages.
    """

    device: str
    threads: int
    load: float
    cores: int
    packages: dict[str, str]

    @property
    def busy(self) -> bool:
        """True if other work ran when the benchmark began."""
        return self.load > 0.5


@dataclass(frozen=True)
class BenchResult:
    """Result of a benchmark.

    Args:
        kind: `model` or `train`.
        model: The model.
        clip: Frames and side of a clip.
        machine: Where it ran.
        peaks: Measured peaks of the device.
        rows: The rows, the reference first.
        searches: Searches of the batch size, by `network, setting, precision`.
        layers: Times of layers, the slowest first.
    """

    kind: str
    model: str
    clip: tuple[int, int]
    machine: Machine
    peaks: Peaks
    rows: tuple[Row, ...]
    searches: dict[str, BatchSearch]
    layers: tuple[LayerTime, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> BenchResult:
        """Return the result that `to_json` wrote."""
        return cls(
            kind=values["kind"],
            model=values["model"],
            clip=tuple(values["clip"]),
            machine=Machine(**values["machine"]),
            peaks=Peaks(**values["peaks"]),
            rows=tuple(
                Row(**{**row, "time": None if row["time"] is None else Timing(**row["time"])})
                for row in values["rows"]
            ),
            searches={
                name: BatchSearch(
                    tuple(BatchPoint(**point) for point in search["points"]),
                    search["best"],
                    search["reason"],
                )
                for name, search in values["searches"].items()
            },
            layers=tuple(LayerTime(**layer) for layer in values["layers"]),
        )


def completed(rows: Sequence[Row], peaks: Peaks) -> tuple[Row, ...]:
    """Return rows with their ratios and shares.

    Args:
        rows: Rows; the first one is the reference.
        peaks: Measured peaks of the device.
    """
    reference = rows[0].time if rows else None
    eager = [row.time.median for row in rows if row.eager and row.time is not None]
    done = []
    for row in rows:
        if row.time is None:
            done.append(row)
            continue
        seconds, precision = row.time.median, row.precision.partition(" ")[0]
        peak = peaks.flops.get(precision)
        share = bound = None
        if row.macs is not None and peak is not None:
            share = 2 * row.macs / seconds / peak
        if row.macs is not None and row.traffic is not None:
            least = peaks.least_seconds(row.macs, row.traffic, precision)
            bound = None if least is None else least / seconds
        done.append(
            replace(
                row,
                speedup=None if reference is None else reference.median / seconds,
                eager_speedup=min(eager) / seconds if eager else None,
                peak_share=share,
                bound_share=bound,
            )
        )
    return tuple(done)


def this_machine(device: str, threads: int) -> Machine:
    """Describe the machine.

    Args:
        device: Name of the torch device that computes.
        threads: Threads that compute.
    """
    packages = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return Machine(_name(device), threads, load_average(), os.cpu_count() or 1, packages)


def load_average() -> float:
    """Return the load average of the last minute: processes that wanted to run; 0 if it is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _name(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    names = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*: (.+)$", names.read_text(), re.M) if names.exists() else None
    return match[1] if match else platform.processor() or platform.machine()
