"""Trainer of every kind of run: optimizer steps, epochs, checkpoints, signals and final weights.

One process or many (torchrun, accelerate launch) run the same code. Accelerate places the model and averages
gradients. The sampler gives each process its share of each batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import Dataset

from t3d.card import ModelCard
from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import ResumableBatchSampler, ShardOrder
from t3d.data.manifest.manifest import Manifest
from t3d.data.prefetch import Prefetcher
from t3d.errors import DivergedError, Failed, ManifestError, ResumableError, WriteError
from t3d.models.segments import with_consensus
from t3d.training.checkpoint import Progress, Snapshot, load_checkpoint, save_checkpoint
from t3d.training.errors import InterruptedRunError, steadier, step_memory
from t3d.training.interrupt import agree
from t3d.training.learner import Learner
from t3d.training.length import record_length
from t3d.training.logging import RunLog
from t3d.training.meter import BrokenVideos, Meter, faster_data
from t3d.training.start import Run, leave_at_exit
from t3d.training.step import TrainStep


class Trainer:
    """Training loop of a model. If the run is resumed, the constructor restores its checkpoint.

    A run is a loop over `epochs`, within `running`, whose body validates and saves:

        with trainer.running():
            for epoch in trainer.epochs(loader):
                ...  # validate
                trainer.save(finished=epoch)
            trainer.finish()

    Args:
        run: Options, processes and folder.
        model: The model to train.
        step: Train step, which computes the loss of a batch.
        videos: Training videos.
        describe: Function from the progress of the run to the model card of the weights that are kept.
        part: Name of the submodule whose weights are kept. Empty keeps the whole model.
        classes: Class of each training video, to sample every class equally often.

    Raises:
        CheckpointError: The checkpoint is corrupt or belongs to another model.
        ConfigError: The batch size does not match the number of videos or processes.
    """

    def __init__(
        self,
        run: Run[Any],
        model: nn.Module,
        step: TrainStep,
        *,
        videos: Manifest,
        describe: Callable[[Progress], ModelCard],
        part: str = "",
        classes: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.run = run
        self.config = config = run.config
        self.accelerator = accelerator = run.accelerator
        self.folder = run.folder
        self.train_step = step
        self.describe = describe
        self.shards = run.store.shards(videos)
        self.sampler = ResumableBatchSampler(
            len(videos),
            batch_size=config.optim.batch_size,
            seed=config.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            accumulate=config.optim.grad_accum_steps,
            classes=classes,
            shards=None
            if self.shards is None
            else ShardOrder(self.shards.of_row, config.data.shuffle_window, config.data.lanes),
        )
        self.steps = self.sampler.steps_per_epoch
        model = model.to(accelerator.device)
        self.learner = Learner.of(model, config.optim, steps_per_epoch=self.steps, part=part)
        self.progress = Progress()
        self.best: Snapshot | None = None
        self.meter = Meter(accelerator)
        self._new_length = ""
        self._advised = False  # about slow data, once per run
        if run.restores:
            self.progress, self.best = load_checkpoint(self.folder.checkpoint, self.learner)
            self.meter.load_state_dict(self.progress.losses)
            self._new_length = self.learner.schedule.adopt_epochs(self._steps_done)
        self._stopped_early = False
        self.network: nn.Module = accelerator.prepare_model(with_consensus(model, config.clip.segments))
        self.broken = BrokenVideos(len(videos), config.data.max_bad)
        self._started = time.monotonic() - 60 * self.progress.minutes

    @property
    def _steps_done(self) -> int:
        """Number of optimizer steps since the start of the run."""
        return self.progress.epoch * self.steps + self.progress.step

    # --- a run, in order ---------------------------------------------------------------------------------

    def loader(self, clips: Dataset[Any], collate: Callable[[list[Any]], Any]) -> Loader:
        """Create the loader of a dataset's batches, in the order of the run."""
        workers = self.config.data.workers
        return Loader(
            clips,
            batch_sampler=self.sampler,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    @contextmanager
    def running(self, *opening: str) -> Iterator[None]:
        """Keep the log open and record signals.

        Args:
            *opening: Lines to print first. Empty lines are skipped.
        """
        progress, config = self.progress, self.config
        with self.run.signals, self._described(), ExitStack() as files:
            self.log = log = files.enter_context(
                RunLog(
                    self.folder.log,
                    main=self.accelerator.is_main_process,
                    steps=config.optim.epochs * self.steps,
                    done=self._steps_done,
                    validated=progress.step == 0,
                    trackers=config.tracker,
                    options=asdict(config),
                )
            )
            if self.accelerator.is_main_process:
                record_length(config, self.folder)
            for line in filter(None, (*opening, self._new_length)):
                log.say(line)
            try:
                yield
            except InterruptedRunError:
                leave_at_exit(self.accelerator)
                raise
        self.accelerator.wait_for_everyone()
        leave_at_exit(self.accelerator)

    @contextmanager
    def _described(self) -> Iterator[None]:
        """Record in `bad.csv` why videos stopped the run, and in an error how to resume the run."""
        try:
            yield
        except ResumableError as error:
            checkpoint = self.folder.checkpoint
            state = "The run has no checkpoint yet, so it starts over"
            if checkpoint.exists():
                state = f"The last checkpoint is complete: {checkpoint}"
            error.stopped_run(self.folder.path, self.config.command, state=state)
            raise
        except ManifestError:  # too many videos cannot be read; the next checkpoint would have recorded them
            with suppress(WriteError):
                self.folder.add_bad(self.broken.reasons)
            raise

    def left_out(self, videos: Iterable[Failed], *, of: str) -> None:
        """Report videos that could not be read, and record them in `bad.csv`.

        Args:
            videos: The same videos on every process.
            of: What they are left out of, such as "the validation".
        """
        reasons = {video.path: video.reason for video in videos}
        for path, reason in reasons.items():
            self.log.say(f"left out of {of}: {path}: {reason}")
        if reasons and self.accelerator.is_main_process:
            self.folder.add_bad(reasons)

    def epochs(self, loader: Loader, *, early_stopping: int = 0) -> Iterator[int]:
        """Train, epoch by epoch.

        Args:
            loader: From `loader`.
            early_stopping: Stop after this many validations without improvement, counted by `keep_if_best`.
                0: never stop early.

        Yields:
            The number of epochs trained so far, after each epoch. Pass it to `save` to count it as finished.

        Raises:
            InterruptedRunError: A signal stopped the run. Its state is saved.
            ResumableError: The disk is full, or a process that reads videos was killed.
            DivergedError: The loss or a weight is infinite or NaN. The last checkpoint is from before.
        """
        last = self.config.optim.epochs
        stop, _ = agree(self.accelerator, self.run.signals.numbers, False)
        if stop and self.progress.epoch < last:  # it arrived after the start-up: there is nothing to save yet
            raise self.run.interrupted(stop)
        for epoch in range(self.progress.epoch, last):
            # Only directly after a validation, even if the run is resumed with another `early_stopping`.
            validated = not self.progress.step and self._regular(epoch)
            self._stopped_early = validated and 0 < early_stopping <= self.progress.since_best
            if self._stopped_early:
                return
            self._train(epoch, loader)
            yield epoch + 1
            stop, _ = agree(self.accelerator, self.run.signals.numbers, False)
            if stop and epoch + 1 < last:
                self._stop(stop)

    def validates_after(self, epoch: int) -> bool:
        """Return whether a validation is due after this number of epochs."""
        return epoch == self.config.optim.epochs or self._regular(epoch)

    def _regular(self, epoch: int) -> bool:
        """Return whether longer runs have this validation, too. Schedule and early stopping ignore others."""
        return epoch % self.config.eval_every == 0

    def validated(self, epoch: int, loss: float, figures: dict[str, Any]) -> None:
        """Log a validation and update the learning-rate schedule with its loss."""
        if self._regular(epoch):
            self.learner.schedule.validated(loss)
        self.log.write("val", epoch * self.steps, epoch=epoch, **figures)
        self.progress = replace(self.progress, figures=figures)

    def keep_if_best(self, epoch: int, score: float, summary: str = "") -> bool:
        """Keep a copy of the weights if they validated best so far. It becomes part of every checkpoint.

        Args:
            epoch: Finished epochs.
            score: Figure that selects the best weights.
            summary: The figure in words, with its count and interval.

        Returns:
            Whether they validated best so far.
        """
        progress = self.progress
        if self._regular(epoch):
            since_best = 0 if score > progress.best_regular else progress.since_best + 1
            best_regular = max(score, progress.best_regular)
            self.progress = replace(progress, best_regular=best_regular, since_best=since_best)
        if score <= progress.best:
            return False
        self.progress = replace(self.progress, best=score, best_epoch=epoch, best_summary=summary)
        card = self.describe(replace(self.progress, epoch=epoch))
        self.best = Snapshot.of(self.learner.kept, card)
        return True

    def say(self, epoch: int, note: str = "") -> None:
        """Print the line of an epoch, followed by a note."""
        figures = self.meter.epoch()
        epochs = self.config.optim.epochs
        self.log.say(f"epoch {epoch:>3}/{epochs}  {self.minutes():6.1f} min  {figures}{note}")
        if not self._advised and (advice := faster_data(figures, self.config.data)):
            self._advised = True
            self.log.say(advice)

    def save(self, *, finished: int | None = None) -> None:
        """Write a checkpoint, and record the videos that could not be read.

        Args:
            finished: Number of finished epochs. None within an epoch.
        """
        if finished is not None:
            self.progress = replace(self.progress, epoch=finished, step=0)
        self.progress = replace(self.progress, losses=self.meter.state_dict(self.check_finite()))
        broken = dict(gather_object(list(self.broken.reasons.items())))
        if self.accelerator.is_main_process:
            self.folder.add_bad(broken)
            progress = replace(self.progress, minutes=self.minutes())
            card = self.describe(progress)
            save_checkpoint(
                self.folder.checkpoint, self.learner, progress=progress, card=card, best=self.best
            )

    def finish(self) -> None:
        """Write the weights of the finished run: `best.safetensors` if it validated, and `last.safetensors`.

        Both come from the last checkpoint, so a run interrupted between the two writes both when resumed.
        """
        if self.accelerator.is_main_process:
            if self.best is not None:  # first, so that the last weights never appear to be the best
                self.best.write(self.folder.best)
            Snapshot.of(self.learner.kept, self.describe(self.progress)).write(self.folder.last)
        progress = self.progress
        if self._stopped_early:
            self.log.say(
                f"stopped early after epoch {progress.epoch} of {self.config.optim.epochs}: "
                f"{progress.since_best} validations without improvement"
            )
        if self.best is not None:
            best = progress.best_summary or f"{progress.best:.1%}"  # checkpoints of earlier versions
            self.log.say(f"best validation: epoch {progress.best_epoch}, {best}: {self.folder.best}")
        self.log.say(f"done in {self.minutes():.1f} minutes: {self.folder.last}")

    # --- within an epoch ---------------------------------------------------------------------------------

    def _train(self, epoch: int, loader: Loader) -> None:
        self.sampler.set_state(epoch=epoch, step=self.progress.step)
        batches = iter(loader)
        if self.shards is None or not self.shards.remote:
            self._take_steps(epoch, batches)
            return
        # Start this thread after the loader, whose processes are forked.
        with Prefetcher(self.sampler.coming(), self.shards) as ahead:
            self._take_steps(epoch, batches, ahead)

    def _take_steps(self, epoch: int, batches: Iterator[Any], ahead: Prefetcher | None = None) -> None:
        config, first = self.config, self.progress.step
        self.meter.start()
        saved = time.monotonic()
        for step in range(first, self.steps):
            with step_memory(self.config):
                self.take_step(batches, epoch=epoch, step=step)
            if ahead is not None:
                ahead.at((step + 1 - first) * config.optim.batch_size // self.accelerator.num_processes)
            self.progress = replace(self.progress, step=step + 1)
            total, last = epoch * self.steps + step + 1, step + 1 == self.steps
            if last or total % config.log_every == 0:
                self.log.write("train", total, **self.report())
            self.log.advance(f"epoch {epoch + 1} of {config.optim.epochs}")
            due = not last and time.monotonic() - saved > 60 * config.checkpoint_minutes
            stop, due = agree(self.accelerator, self.run.signals.numbers, due)
            if stop or due:
                self.save()
                saved = time.monotonic()
            if stop:
                self._stop(stop)

    def take_step(self, batches: Iterator[Any], *, epoch: int, step: int) -> None:
        """Take one optimizer step.

        Args:
            batches: Iterator of batches. The step takes `optim.grad_accum_steps` of them.
            epoch: Epoch, counted from 0.
            step: Step within the epoch, counted from 0.

        Raises:
            ManifestError: Too many videos, or all videos of a batch, cannot be read.
        """
        config, optimizer = self.config.optim, self.learner.optimizer
        self.rate = self.learner.schedule.set(epoch * self.steps + step)
        # Mixup and dropout are seeded by the step in the run, so that a resumed run draws the same numbers.
        rng = np.random.default_rng((self.config.seed, epoch, step, self.accelerator.process_index, 1))
        torch.manual_seed(int(rng.integers(2**31)))
        self.network.train()
        optimizer.zero_grad(set_to_none=True)
        for part in range(config.grad_accum_steps):
            with self.meter.waiting():
                batch = next(batches)
            self.broken.count(batch)
            last = part + 1 == config.grad_accum_steps
            with nullcontext() if last else self.accelerator.no_sync(self.network):
                loss = self.train_step.loss(self.network, batch, rng) / config.grad_accum_steps
                self.accelerator.backward(loss)
            self.meter.add(loss, len(batch.videos))
        if config.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.network.parameters(), config.max_grad_norm)
        optimizer.step()
        if self.learner.ema is not None:
            self.learner.ema.update_parameters(self.learner.model)
        self.meter.end_step()

    def report(self) -> dict[str, float]:
        """Return the numbers of a log line: means since the last report, over all processes.

        Raises:
            DivergedError: See `check_finite`.
        """
        figures = self.train_step.figures()
        line = self.meter.report(self.check_finite())
        return {"loss": line.pop("loss"), "lr": self.rate} | line | figures

    def check_finite(self) -> float:
        """Raise an error if the loss, the weights or BatchNorm statistics are not finite.

        Returns:
            The sum of the losses since the last report, averaged over all processes.

        Raises:
            DivergedError: One of them is infinite or NaN on any process. Raised on every process.
        """
        loss = self.meter.loss_sum()
        norm = nn.utils.get_total_norm(self.network.parameters())
        statistics = [tensor for tensor in self.network.buffers() if tensor.is_floating_point()]
        broken = sum((~tensor.isfinite().all()).float() for tensor in statistics)
        # Processes share the weights, but each has its own statistics.
        state = torch.stack([norm, norm.new_tensor(0.0) + broken])
        mean_norm, mean_broken = self.accelerator.reduce(state, reduction="mean").tolist()
        if not math.isfinite(loss + mean_norm) or mean_broken:
            raise DivergedError(
                f"the loss is {loss}, the norm of the weights {mean_norm}"
                + (", and BatchNorm statistics are not finite" if mean_broken else "")
                + f"; the last checkpoint is kept. {steadier(self.config)}"
            )
        return loss

    def minutes(self) -> float:
        """Return the minutes spent so far, over all restarts."""
        return (time.monotonic() - self._started) / 60

    def _stop(self, number: int) -> None:
        self.accelerator.wait_for_everyone()
        raise InterruptedRunError(self.folder.path, number, self.config.command)
