"""Time of each kind of layer in OpenVINO, from its own profile.

Legend: C channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from t3d.bench.peaks import Peaks
from t3d.bench.result import LayerTime
from t3d.runtime.openvino_file import openvino_core, read_graph

_RUNS = 5


@dataclass(frozen=True)
class Node:
    """One layer of OpenVINO's compiled graph.

    Args:
        name: Its name in the graph that was compiled.
        kind: Its kind, such as `Convolution`.
        primitive: Name of the code that computes it.
        seconds: Median time.
    """

    name: str
    kind: str
    primitive: str
    seconds: float


def layer_times(path: Path, *, bf16: bool, peaks: Peaks) -> tuple[LayerTime, ...]:
    """Measure the time of each kind of layer for one clip.

    Args:
        path: An `.xml` file that `t3d export` wrote.
        bf16: Compute in bfloat16.
        peaks: Measured peaks of the device.

    Returns:
        Kinds of layers, the slowest first. Convolutions of different kernels are different kinds.
    """
    graph, card, stamp = read_graph(path)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": True,
    }
    request = openvino_core(path).compile_model(graph, "CPU", settings).create_infer_request()
    frames, side = card.clip.segments * card.clip.num_frames, card.clip.size
    clip = np.random.default_rng(0).standard_normal((1, 3, frames, side, side), dtype=np.float32)
    request.infer([clip])
    runs = []
    for _ in range(_RUNS):
        request.infer([clip])
        runs.append(request.profiling_info)
    nodes = [
        Node(
            each[0].node_name,
            each[0].node_type,
            each[0].exec_type,
            median(node.real_time.total_seconds() for node in each),
        )
        for each in zip(*runs, strict=True)
        if any("EXECUTED" in str(node.status) for node in each)  # a very short layer is not in each profile
    ]
    graph.reshape([1, 3, frames, side, side])
    precision = "int8" if stamp.numbers == "int8" else "bf16" if bf16 else "fp32"
    return grouped(nodes, kernels_of(graph), peak=peaks.flops.get(precision))


def kernels_of(graph: Any) -> dict[str, tuple[str, float]]:
    """Return kernel and multiply-accumulates of each weighted layer of a graph of one clip, by its name."""
    kernels: dict[str, tuple[str, float]] = {}
    for op in graph.get_ops():
        shapes = [op.get_output_partial_shape(0)] if op.get_output_size() else []
        shapes += [each.get_partial_shape() for each in op.inputs()[1:2]]
        kind = op.get_type_name()
        if kind not in ("Convolution", "MatMul") or any(shape.is_dynamic for shape in shapes):
            continue
        weights = list(shapes[1].to_shape())
        outputs = prod(list(shapes[0].to_shape())[1:])
        if kind == "MatMul":
            kernels[op.get_friendly_name()] = ("", float(outputs * prod(weights) / max(outputs, 1)))
        else:  # weights are C_out C_in and the kernel
            kernel = "×".join(map(str, weights[2:]))
            kernels[op.get_friendly_name()] = (kernel, float(outputs * prod(weights[1:])))
    return kernels


def grouped(
    nodes: Sequence[Node], kernels: Mapping[str, tuple[str, float]], *, peak: float | None
) -> tuple[LayerTime, ...]:
    """Sum up layers of the same kind and kernel, the slowest first.

    Args:
        nodes: The layers.
        kernels: Kernel and multiply-accumulates of layers, by name.
        peak: Measured peak of arithmetic, in operations per second.

    Example:
        >>> grouped([Node("a", "Pooling", "jit", 2.0)], {}, peak=None)[0].seconds
        2.0
    """
    groups: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        kernel = kernels.get(node.name, ("", 0.0))[0]
        groups[f"{node.kind} {kernel}".strip()].append(node)
    times = []
    for kind, members in groups.items():
        seconds = sum(node.seconds for node in members)
        macs = sum(kernels.get(node.name, ("", 0.0))[1] for node in members)
        time = LayerTime(kind, len(members), seconds, macs, _most(node.primitive for node in members))
        if macs and seconds and peak:
            time = replace(time, peak_share=2 * macs / seconds / peak)
        times.append(time)
    return tuple(sorted(times, key=lambda time: -time.seconds))


def _most(names: Iterable[str]) -> str:
    """Return names, the most frequent first, without repeats."""
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name] += 1
    return ", ".join(sorted(counts, key=lambda name: -counts[name]))
