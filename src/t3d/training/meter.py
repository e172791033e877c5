"""Counters of a training run: losses, speed, and videos that could not be read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

from t3d.errors import ManifestError, printable


class Meter:
    """Mean loss, speed and waiting time since the last report.

    Args:
        accelerator: Accelerator that averages over processes.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.load_state_dict({"loss": 0.0, "steps": 0, "epoch_loss": 0.0, "epoch_steps": 0})
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
        return {"loss": loss_sum, "steps": self._steps, **epoch}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        """Restore what `state_dict` returned."""
        self._loss_sum = torch.tensor(float(state["loss"]), device=self.accelerator.device)
        self._steps = int(state["steps"])
        self._epoch_loss, self._epoch_steps = float(state["epoch_loss"]), int(state["epoch_steps"])

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
        """Return the means since the last report, and reset them.

        Args:
            loss_sum: Result of `loss_sum`.
        """
        seconds = time.monotonic() - self._began
        line = {
            "loss": loss_sum / self._steps,
            "clips_per_second": round(self._clips * self.accelerator.num_processes / seconds, 3),
            "waiting_for_data": round(self._waited / seconds, 4),
        }
        self._epoch_loss += loss_sum
        self._epoch_steps += self._steps
        self._loss_sum = torch.zeros_like(self._loss_sum)
        self._steps = 0
        self.start()
        return line

    def epoch_loss(self) -> float:
        """Return the mean loss of the steps reported since the last call. There must be at least one."""
        mean = self._epoch_loss / self._epoch_steps
        self._epoch_loss, self._epoch_steps = 0.0, 0
        return mean


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
