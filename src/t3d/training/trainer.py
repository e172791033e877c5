"""Epochs of steps, with log, checkpoints, signals and the exact way back in: what every kind of run shares.

One process or many (torchrun, accelerate launch) run the same code: Accelerate places the net and averages
gradients; the sampler gives every process its part of each batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from torch import nn
from torch.utils.data import Dataset

from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import ResumableBatchSampler
from t3d.data.prefetch import Prefetcher, Shards
from t3d.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from t3d.training.config import RunConfig
from t3d.training.interrupt import InterruptedRunError, agree, caught_signals
from t3d.training.logging import RunLog
from t3d.training.optim import Schedule, make_ema, make_optimizer
from t3d.training.run_folder import RunFolder
from t3d.training.step import Stepper


def make_accelerator() -> Accelerator:
    """One process of one or of many, on a GPU where there is one."""
    # The main process may look through videos for hours before the others hear of it.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patience])


class EpochLoop:
    """A run under way: the net, its optimiser, and how far it is.

    Args:
        config: The run's options.
        accelerator: This process and the others.
        folder: Where the state is saved.
        model: What learns, on the device; not wrapped.
        videos: Number of training videos.
        resume: Go on from the folder's checkpoint; from the beginning where there is none yet.
        classes: Class of each training video, to take every class equally often.
        shards: Which shard each training video lies in, to read shards one after another.

    Raises:
        CheckpointError: The checkpoint is damaged or belongs to another net.
        ConfigError: The batch size does not suit the videos or the processes.
    """

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        folder: RunFolder,
        *,
        model: nn.Module,
        videos: int,
        resume: bool,
        classes: npt.NDArray[np.int64] | None = None,
        shards: Shards | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.folder = folder
        self.model = model
        self.optimizer = make_optimizer(model, config.optim)
        self.ema = make_ema(model, config.optim.ema) if config.optim.ema else None
        self.sampler = ResumableBatchSampler(
            videos,
            batch_size=config.optim.batch_size,
            seed=config.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulate=config.optim.accumulate,
            classes=classes,
            shards=None if shards is None else shards.of_row,
            window=config.data.shuffle_window,
            lanes=config.data.lanes,
        )
        self.shards = shards
        self.steps = self.sampler.steps_per_epoch
        self.schedule = Schedule(self.optimizer, config.optim, steps_per_epoch=self.steps)
        self.progress = Progress()
        if resume and folder.checkpoint.exists():
            self.progress = load_checkpoint(
                folder.checkpoint,
                model=model,
                optimizer=self.optimizer,
                schedule=self.schedule,
                ema=self.ema,
            )
        self._started = time.monotonic() - 60 * self.progress.minutes

    @property
    def learned(self) -> nn.Module:
        """The net to test and save: the moving average of the weights where there is one."""
        return self.model if self.ema is None else self.ema.module

    def minutes(self) -> float:
        """Minutes spent so far, over all restarts."""
        return (time.monotonic() - self._started) / 60

    def loader(self, clips: Dataset[Any], collate: Callable[[list[Any]], Any]) -> Loader:
        """Batches in the run's order."""
        workers = self.config.data.workers
        return Loader(
            clips,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def run(
        self,
        loader: Loader,
        stepper: Stepper,
        *,
        opening: Sequence[str],
        close_epoch: Callable[[RunLog, int], str],
    ) -> None:
        """Run all epochs that are left.

        Args:
            loader: What `loader` made.
            stepper: Takes the steps.
            opening: Lines to print first.
            close_epoch: Called behind every epoch with the log and the number of epochs finished; validates,
                writes weights, sets `progress.best`, and gives the end of the epoch's printed line.

        Raises:
            InterruptedRunError: By a signal, after saving.
            DivergedError: The loss is infinite or NaN; the last checkpoint is from before.
        """
        config, steps, progress = self.config, self.steps, self.progress
        log = RunLog(
            self.folder.log,
            main=self.accelerator.is_main_process,
            steps=config.optim.epochs * steps,
            done=progress.epoch * steps + progress.step,
            validated=progress.step == 0,
        )
        with log, caught_signals() as caught:
            for line in opening:
                log.say(line)
            for epoch in range(progress.epoch, config.optim.epochs):
                self._epoch(epoch, loader, stepper, log, caught)
                last = epoch + 1 == config.optim.epochs
                line = f"epoch {epoch + 1:>3}/{config.optim.epochs}"
                rest = close_epoch(log, epoch + 1)
                loss = stepper.epoch_loss()  # a run that goes on behind an epoch's last step has none of it
                log.say(
                    f"{line}  {self.minutes():6.1f} min"
                    + ("" if math.isnan(loss) else f"  loss {loss:.3f}")
                    + rest
                )
                self.progress = replace(self.progress, epoch=epoch + 1, step=0)
                self.save(stepper)
                stop, _ = agree(self.accelerator, caught, False)
                if stop and not last:
                    self._stop(stop)
            log.say(f"done in {self.minutes():.1f} minutes: {self.folder.weights}")
        self.accelerator.wait_for_everyone()

    def _epoch(self, epoch: int, loader: Loader, stepper: Stepper, log: RunLog, caught: list[int]) -> None:
        self.sampler.set_state(epoch=epoch, step=self.progress.step)
        batches = iter(loader)
        if self.shards is None or not self.shards.remote:
            self._steps(epoch, batches, stepper, log, caught)
            return
        # Behind the loader, whose processes are forked without its thread.
        with Prefetcher(self.sampler.coming(), self.shards) as ahead:
            self._steps(epoch, batches, stepper, log, caught, ahead)

    def _steps(
        self,
        epoch: int,
        batches: Iterator[Any],
        stepper: Stepper,
        log: RunLog,
        caught: list[int],
        ahead: Prefetcher | None = None,
    ) -> None:
        config, steps, begun = self.config, self.steps, self.progress.step
        stepper.start_counting()
        saved = time.monotonic()
        for step in range(self.progress.step, steps):
            total = epoch * steps + step + 1
            stepper.step(batches, epoch=epoch, step=step, total=total - 1)
            if ahead is not None:
                ahead.at((step + 1 - begun) * config.optim.batch_size // self.accelerator.num_processes)
            if self.ema is not None:
                self.ema.update_parameters(self.model)
            self.progress = replace(self.progress, step=step + 1)
            if total % config.log_every == 0 or step + 1 == steps:
                log.write("train", total, **stepper.report())
            log.advance(f"epoch {epoch + 1}/{config.optim.epochs}")
            due = step + 1 < steps and time.monotonic() - saved > 60 * config.checkpoint_minutes
            stop, due = agree(self.accelerator, caught, due)
            if stop or due:
                self.save(stepper)
                saved = time.monotonic()
            if stop:
                self._stop(stop)

    def save(self, stepper: Stepper) -> None:
        """Write the whole state, and name the videos that broke."""
        stepper.check_finite()
        broken = dict(gather_object(list(stepper.bad.items())))
        if self.accelerator.is_main_process:
            self.folder.add_bad(broken)
            save_checkpoint(
                self.folder.checkpoint,
                model=self.model,
                optimizer=self.optimizer,
                schedule=self.schedule,
                ema=self.ema,
                progress=replace(self.progress, minutes=self.minutes()),
            )

    def _stop(self, number: int) -> None:
        self.accelerator.wait_for_everyone()
        raise InterruptedRunError(self.folder.path, number, self.config.command)
