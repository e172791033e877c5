"""`t3d bench growth`: how time and memory grow with frames, side, batch size and depth.

Legend: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t3d.bench.candidates import CHANNELS_LAST, SETTINGS, in_layout, scorer_of
from t3d.bench.child import peak_in_child
from t3d.bench.config import GrowthConfig
from t3d.bench.memory import free_bytes
from t3d.bench.opening import FRAMES, SIZE, threads
from t3d.bench.result import Machine, load_average, this_machine
from t3d.bench.train_step import train_step
from t3d.bench.work import Work, work_of
from t3d.errors import ConfigError, did_you_mean
from t3d.models.registry import create_model, list_models
from t3d.progress import progress
from t3d.timing import Call, Rounds, Timing, alternate

AXES = ("frames", "side", "batch", "network")
WITHIN = 0.15
"""Growth is called linear while the time per multiply-accumulate is within this share of the least."""
_DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class GrowthPoint:
    """One measurement.

    Args:
        axis: The size that grows, one of `AXES`.
        label: Its value, as text.
        macs: Multiply-accumulates of the call.
        time: Seconds of the call; None if it failed.
        memory: Bytes at its peak, with the weights; None if they could not be measured.
    """

    axis: str
    label: str
    macs: float
    time: Timing | None
    memory: int | None


@dataclass(frozen=True)
class GrowthResult:
    """Result of `bench_growth`.

    Args:
        model: The model.
        kind: `scoring` or `training step`.
        points: The measurements.
        machine: Where it ran.
    """

    model: str
    kind: str
    points: tuple[GrowthPoint, ...]
    machine: Machine

    @property
    def axes(self) -> list[str]:
        """Return the axes with at least two points that were measured."""
        return [axis for axis in AXES if len(self.of(axis)) > 1]

    def of(self, axis: str) -> list[GrowthPoint]:
        """Return the points of an axis that were measured, by their work."""
        points = [point for point in self.points if point.axis == axis and point.time is not None]
        return sorted(points, key=lambda point: point.macs)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return asdict(self)

    def sentences(self) -> Iterator[str]:
        """Yield where the growth of time stops being linear in the work, for each axis."""
        for axis in self.axes:
            points = self.of(axis)
            costs = relative_costs(points)
            far = [
                f"{cost:.2f} times at {point.label}"
                for point, cost in zip(points, costs, strict=True)
                if cost > 1 + WITHIN
            ]
            if far:
                yield (
                    f"{axis}: not linear in the work; a multiply-accumulate takes {', '.join(far)} what it "
                    "takes at the cheapest point"
                )
            else:
                yield f"{axis}: linear in the work, within {WITHIN:.0%}"


def relative_costs(points: Sequence[GrowthPoint]) -> list[float]:
    """Return the time per multiply-accumulate of each point, relative to the least.

    Args:
        points: Points that were measured.
    """
    costs = [point.time.median / point.macs for point in points if point.time is not None]
    return [cost / min(costs) for cost in costs]


@dataclass(frozen=True)
class _Case:
    """A network and a batch of clips, before they are measured."""

    axis: str
    label: str
    name: str
    shape: tuple[int, int, int, int, int]


def bench_growth(config: GrowthConfig) -> GrowthResult:
    """Measure time and memory while one size grows at a time, in eager fp32, channels last.

    Each point is timed in turn with the other points of its axis. Its memory is measured in its own process.
    Points that would need more memory than is free are left out.

    Args:
        config: What to measure.

    Raises:
        ConfigError: There is no such model.
    """
    for name in (config.model, *config.depths):
        if name not in list_models():
            raise ConfigError(f"unknown model {name!r}; {did_you_mean(name, list_models())}")
    load = load_average()
    points: list[GrowthPoint] = []
    cases = list(_cases(config))
    with threads(config.threads) as count, tempfile.TemporaryDirectory() as folder:
        with progress("Measuring growth", len(cases)) as bar:
            for axis in AXES:
                mine = [case for case in cases if case.axis == axis]
                points += _axis(mine, config, count, Path(folder), bar.advance)
        machine = replace(this_machine("cpu", count), load=load)
    return GrowthResult(
        config.model, "training step" if config.training else "scoring", tuple(points), machine
    )


def _cases(config: GrowthConfig) -> Iterator[_Case]:
    batch = 2 if config.training else 1  # BatchNorm needs two
    for frames in config.frames:
        yield _Case("frames", str(frames), config.model, (batch, 3, frames, SIZE, SIZE))
    for side in config.sides:
        yield _Case("side", str(side), config.model, (batch, 3, FRAMES, side, side))
    for size in config.batches:
        if size > 1 or not config.training:
            yield _Case("batch", str(size), config.model, (size, 3, FRAMES, SIZE, SIZE))
    for name in config.depths:
        yield _Case("network", name, name, (batch, 3, FRAMES, SIZE, SIZE))


def _axis(
    cases: Sequence[_Case],
    config: GrowthConfig,
    count: int,
    folder: Path,
    advance: Callable[[], object],
) -> Iterator[GrowthPoint]:
    """Yield the points of one axis."""
    calls: dict[str, Call] = {}
    macs: dict[str, float] = {}
    memory: dict[str, int | None] = {}
    networks: dict[str, nn.Module] = {}
    for case in cases:
        if case.name not in networks:
            torch.manual_seed(0)
            networks[case.name] = create_model(case.name)
            torch.save(networks[case.name], folder / case.name)
        work = work_of(networks[case.name], case.shape[1:])
        macs[case.label] = float(work.macs * case.shape[0] * (3 if config.training else 1))
        memory[case.label] = None
        if _fits(work, case.shape[0]):
            job = {"kind": "torch", "path": str(folder / case.name), "precision": "fp32", "threads": count}
            job |= {"shape": case.shape, "channels_last": True, "train": config.training}
            job["modules"] = sorted({type(each).__module__ for each in networks[case.name].modules()})
            memory[case.label] = peak_in_child(job)
        if memory[case.label] is not None:
            calls[case.label] = _call(networks[case.name], case.shape, training=config.training)
        advance()
    times = alternate(calls, Rounds.of_benchmark(config.seconds)).times
    for case in cases:
        time, peak = times.get(case.label), memory[case.label]
        yield GrowthPoint(case.axis, case.label, macs[case.label], time, peak)


def _fits(work: Work, batch: int) -> bool:
    """Return whether the maps of all layers together fit into the free memory, an upper bound for scoring."""
    return work.traffic(batch=batch, bytes_per_number=4) * batch < 0.6 * free_bytes()


def _call(net: nn.Module, shape: tuple[int, ...], *, training: bool) -> Call:
    clips = torch.rand(shape).contiguous(memory_format=torch.channels_last_3d)
    if training:
        return train_step(in_layout(net, channels_last=True).train(), clips, bf16=False)
    return partial(scorer_of(net, SETTINGS[CHANNELS_LAST], bf16=False, device=_DEVICE), clips)
