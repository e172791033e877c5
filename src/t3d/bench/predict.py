"""`t3d bench predict`: where the time of a prediction goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from t3d.bench.config import PredictBenchConfig
from t3d.bench.opening import threads
from t3d.bench.prediction_steps import PredictionSteps
from t3d.bench.result import Machine, load_average, this_machine
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import ConfigError
from t3d.evaluation.parts import as_manifest, parts_of
from t3d.evaluation.predictor import Predictor
from t3d.progress import track


@dataclass(frozen=True)
class PredictResult:
    """Result of `bench_predict`.

    Args:
        model: The model.
        videos: Videos that could be read.
        clips: Clips of them.
        startup: Seconds until a new process has loaded the model.
        steps: Seconds of each step of all videos, one step after another: open, decode, resize, network.
        total: Seconds of the same prediction as `t3d predict` runs it, after start-up. It reads videos while
            the network computes, so it can take less time than all steps together.
        bad: Videos that could not be read, with the reasons.
        machine: Where it ran.
    """

    model: str
    videos: int
    clips: int
    startup: float
    steps: dict[str, float]
    total: float
    bad: tuple[str, ...]
    machine: Machine

    @property
    def rate(self) -> float:
        """Videos per second, without start-up."""
        return self.videos / self.total if self.total else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {**asdict(self), "videos_per_second": self.rate}


def bench_predict(config: PredictBenchConfig) -> PredictResult:
    """Time the steps of a prediction: start-up, opening, decoding, resizing and the network.

    Every video is predicted twice: once step by step, and once as `t3d predict` does it in one process.

    Args:
        config: What to measure.

    Raises:
        CheckpointError: The model cannot be used.
        ConfigError: There is no such device, or no video can be read.
        ManifestError: No videos were found.
    """
    manifest = _spread(as_manifest(parts_of(config.videos)), config.count)
    load = load_average()
    startup = _startup(config)
    with threads(config.threads) as count:
        compute = Compute(device=config.device, workers=0)
        predictor = Predictor(config.model, compute=compute)
        device = str(compute.pick_device())
        steps = PredictionSteps(predictor, manifest)
        clips = 0
        good: list[int] = []
        bad: list[str] = []
        for row in track(range(len(manifest)), "Predicting step by step", len(manifest)):
            number, failed = steps.read(row)
            if failed is None:
                clips += number
                good.append(row)
            else:
                bad.append(str(failed))
        steps.finish()
        if not good:
            raise ConfigError(f"videos: not one of {len(manifest)} could be read (first error: {bad[0]})")
        paths = [str(manifest[row].path) for row in good]
        start = time.perf_counter()
        for _ in predictor.many(paths):
            pass
        total = time.perf_counter() - start
    machine = Machine(**{**asdict(this_machine(device, count)), "load": load})
    return PredictResult(config.model, len(good), clips, startup, steps.seconds, total, tuple(bad), machine)


def _spread(manifest: Manifest, most: int) -> Manifest:
    """Return at most this many videos, spread evenly."""
    count = min(most, len(manifest))
    rows = np.unique(np.linspace(0, len(manifest) - 1, count).round().astype(int))
    return manifest.select(rows.tolist())


_PROGRAM = """
import json, sys
model, device = json.load(sys.stdin)
from t3d.device import Compute
from t3d.evaluation.predictor import Predictor
Predictor(model, compute=Compute(device=device, workers=0))
"""


def _startup(config: PredictBenchConfig) -> float:
    """Return the seconds until a new process has loaded the model.

    Raises:
        ConfigError: The process failed; the error of loading the model here says more.
    """
    count = {} if config.threads is None else {"OMP_NUM_THREADS": str(config.threads)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],  # which imports torch only if the model needs it
        input=json.dumps([config.model, config.device]),
        env={**os.environ, **count},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        Predictor(config.model, compute=Compute(device=config.device, workers=0))
        raise ConfigError(f"{config.model}: a new process could not load it: {done.stderr[-300:]}")
    return seconds
