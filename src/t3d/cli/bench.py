"""`t3d bench`."""

from __future__ import annotations

from collections.abc import Callable
from json import dumps
from typing import Any, Protocol, TypeVar

from t3d.bench.config import (
    DecodeBenchConfig,
    GrowthConfig,
    ModelBenchConfig,
    PredictBenchConfig,
    TrainBenchConfig,
)
from t3d.cli.options import Spelling


@Spelling(
    metavars={"model": "MODEL", "batch_size": "N|auto"},
    first=("num_frames", "size", "batch_size", "precision", "runtimes", "peers", "layers", "threads", "json"),
)
def model(config: ModelBenchConfig, *, json: bool = False) -> int:
    """Time a model in every way of computing it.

    The first row is the reference: eager PyTorch in inference mode, float32, contiguous, batch 1. All rows
    take turns. The table shows medians and quartiles, speed relative to the reference and to the fastest
    eager row, and the share of the measured peak. The exit status is 1 if a row could not be measured.

        t3d bench model t3d121 --threads 1 --precision bf16 int8
        t3d bench model runs/first --batch-size auto
        t3d bench model t3d_tiny --peers --json

    Args:
        json: Print the result as JSON.
    """
    from t3d.bench.model import bench_model
    from t3d.report.bench import print_bench

    result = bench_model(config)
    return _show(result, print_bench, json=json, failed=any(row.error for row in result.rows))


@Spelling(metavars={"model": "MODEL", "batch_size": "N|auto"})
def train(config: TrainBenchConfig, *, json: bool = False) -> int:
    """Time training steps of a model.

    A step is forward pass, loss, backward pass and SGD on clips in memory. The first row is the reference:
    eager PyTorch, float32, contiguous. All rows take turns. The exit status is 1 if a row could not be
    measured.

        t3d bench train t3d_tiny --batch-size 8

    Args:
        json: Print the result as JSON.
    """
    from t3d.bench.train import bench_train
    from t3d.report.bench import print_bench

    result = bench_train(config)
    return _show(result, print_bench, json=json, failed=any(row.error for row in result.rows))


@Spelling(metavars={"model": "RUN", "videos": "VIDEO"})
def predict(config: PredictBenchConfig, *, json: bool = False) -> int:
    """Time the steps of a prediction: start-up, decoding, resizing, network.

    The exit status is 1 if some videos could not be read.

        t3d bench predict runs/first videos/

    Args:
        json: Print the result as JSON.
    """
    from t3d.bench.predict import bench_predict
    from t3d.report.bench import print_predict

    result = bench_predict(config)
    return _show(result, print_predict, json=json, failed=bool(result.bad))


@Spelling(metavars={"videos": "VIDEO"})
def decode(config: DecodeBenchConfig, *, json: bool = False) -> int:
    """Time the reading of video files, compared with PyAV and torchcodec.

    Every reader uses one thread and opens the files. torchcodec takes part if it is installed. The exit
    status is 1 if some videos could not be read.

        t3d bench decode videos/

    Args:
        json: Print the result as JSON.
    """
    from t3d.bench.decode import bench_decode
    from t3d.report.bench import print_decode

    result = bench_decode(config)
    return _show(result, print_decode, json=json, failed=bool(result.bad))


@Spelling(metavars={"model": "NAME", "depths": "NAME"})
def growth(config: GrowthConfig, *, json: bool = False) -> int:
    """Measure how time and memory grow with frames, side, batch size and depth.

    One size grows at a time, from 16 frames of 112 × 112. The result says where the growth of time stops
    being linear in the work. The exit status is 1 if a point could not be measured.

        t3d bench growth t3d_tiny --out growth.svg

    Args:
        json: Print the result as JSON.
    """
    from pathlib import Path

    from t3d.bench.growth import bench_growth
    from t3d.report.bench import print_growth
    from t3d.report.plots import growth_figure, save_figure

    result = bench_growth(config)
    if config.out is not None:
        save_figure(growth_figure(result), Path(config.out))
    return _show(result, print_growth, json=json, failed=any(point.time is None for point in result.points))


class _Result(Protocol):
    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""


Result = TypeVar("Result", bound=_Result)


def _show(result: Result, show: Callable[[Result], None], *, json: bool, failed: bool) -> int:
    """Print a result, and return the exit status."""
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        show(result)
    return int(failed)
