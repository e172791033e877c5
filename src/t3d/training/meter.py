"""Counters of a training run: losses, speed, and videos that could not be read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from t3d.data.config import ReadConfig
from t3d.errors import ManifestError, printable

_SOME_WAITING = 0.05  # share of an epoch
_MUCH_WAITING = 0.25  # share of an epoch
_LEAST_WAITED = 10.0  # seconds


@dataclass(frozen=True)
class EpochFigures:
    """Figures of an epoch.

    Args:
        loss: Mean loss of its steps.
        seconds: Duration of its steps, averaged over processes.
        waited: Seconds of these in which a process waited for data. On a GPU this is an upper bound, because
            the GPU may still compute while the process waits.
    """

    loss: float
    seconds: float
    waited: float

    @property
    def waiting(self) -> float:
        """Share of the time spent waiting for data, in [0, 1]."""
        return self.waited / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        waiting = f"  waiting for data {self.waiting:.0%}" if self.waiting >= _SOME_WAITING else ""
        return f"loss {self.loss:.3f}{waiting}"


class Meter:
    """Mean loss, speed and waiting time since the last report.

    Args:
        accelerator: Accelerator that averages over processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.load_state_dict({"loss": 0.0, "steps": 0})
        self.start()

    def start(self) -> None:
        """Restart the clock, so that a pause does not count as slow training."""
        self._clips = 0
        self._waited = 0.0
        self._began = time.monotonic()

    def state_dict(self, loss_sum: float) -> dict[str, float | int]:
        """Return the sums of losses as JSON values, so that a resumed run reports complete means.

        Args:
            loss_sum: Result of `loss_sum`.
        """
        epoch = {"epoch_loss": self._epoch_loss, "epoch_steps": self._epoch_steps}
        times = {"epoch_seconds": self._epoch_seconds, "epoch_waited": self._epoch_waited}
        return {"loss": loss_sum, "steps": self._steps, **epoch, **times}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Restore what `state_dict` returned."""
        self._loss_sum = torch.tensor(float(state["loss"]), device=self.accelerator.device)
        self._steps = int(state["steps"])
        self._epoch_loss, self._epoch_steps = (
            float(state.get("epoch_loss", 0)),
            int(state.get("epoch_steps", 0)),
        )
        # Checkpoints of earlier versions have no times.
        self._epoch_seconds = float(state.get("epoch_seconds", 0))
        self._epoch_waited = float(state.get("epoch_waited", 0))

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in the block as waiting for data."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def add(self, loss: torch.Tensor, clips: int) -> None:
        """Count one forward pass."""
        self._loss_sum += loss.detach()
        self._clips += clips

    def end_step(self) -> None:
        """Count one optimizer step."""
        self._steps += 1

    def loss_sum(self) -> float:
        """Return the sum of the losses since the last report, averaged over processes."""
        return float(self.accelerator.reduce(self._loss_sum, reduction="mean"))

    def report(self, loss_sum: float) -> dict[str, float]:
        """Return the means since the last report over all processes, and reset them.

        Args:
            loss_sum: Result of `loss_sum`.
        """
        times = torch.tensor([time.monotonic() - self._began, self._waited], device=self._loss_sum.device)
        seconds, waited = self.accelerator.reduce(times, reduction="mean").tolist()
        line = {
            "loss": loss_sum / self._steps,
            "clips_per_second": round(self._clips * self.accelerator.num_processes / seconds, 3),
            "waiting_for_data": round(waited / seconds, 4),
        }
        self._epoch_seconds += seconds
        self._epoch_waited += waited
        self._epoch_loss += loss_sum
        self._epoch_steps += self._steps
        self._loss_sum = torch.zeros_like(self._loss_sum)
        self._steps = 0
        self.start()
        return line

    def epoch(self) -> EpochFigures:
        """Return the figures of the steps reported since the last call. There must be at least one."""
        figures = EpochFigures(self._epoch_loss / self._epoch_steps, self._epoch_seconds, self._epoch_waited)
        self._epoch_loss, self._epoch_steps = 0.0, 0
        self._epoch_seconds, self._epoch_waited = 0.0, 0.0
        return figures


def faster_data(figures: EpochFigures, data: ReadConfig) -> str:
    """Return how to make reading faster, as a sentence. Empty if training hardly waits for data.

    Args:
        figures: Figures of an epoch. Epochs with less than 10 seconds of waiting say too little.
        data: Options of reading.
    """
    if figures.waiting < _MUCH_WAITING or figures.waited < _LEAST_WAITED:
        return ""
    cache = "" if data.cache else "decode each video once with `cache`, or "
    return (
        f"Training waited for data {figures.waiting:.0%} of the time: {cache}use more reading processes with "
        f'`workers` (now {data.workers}). docs/guides/training.md, "Training waits for data", has details'
    )


class BrokenVideos:
    """Videos that opened before the run, but could not be decoded during it.

    Args:
        videos: Number of training videos.
        max_bad: Largest share of them that may fail.
    """

    def __init__(self, videos: int, max_bad: float) -> None:
        self.videos = videos
        self.max_bad = max_bad
        self.reasons: dict[str, str] = {}

    def count(self, batch: Any) -> None:
        """Count the videos of a batch that failed. Each is printed once.

        Raises:
            ManifestError: Too many videos failed, or all videos of the batch.
        """
        for video in batch.bad:
            if video.path not in self.reasons:
                self.reasons[video.path] = video.reason
                print(printable(f"left out: {video}"), flush=True)  # printed by the process that read it
        if len(self.reasons) > self.max_bad * self.videos:
            raise ManifestError(
                f"{len(self.reasons)} of {self.videos} videos could not be decoded, more than data.max_bad = "
                f"{self.max_bad:g} ({100 * self.max_bad:g} %) allows:" + _listed(self.reasons.items())
            )
        if batch.frames is None:
            raise ManifestError(
                "no video of a batch could be read:" + _listed((v.path, v.reason) for v in batch.bad)
            )


def _listed(videos: Iterable[tuple[str, str]]) -> str:
    return "".join(f"\n  {path}: {reason}" for path, reason in list(videos)[:20])
