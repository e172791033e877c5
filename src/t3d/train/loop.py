"""The training run, from top to bottom: data, net, epochs of steps, validation, checkpoints.

One process or many (torchrun, accelerate launch) run the same code: Accelerate places the net and averages
gradients; the sampler gives every process its part of each batch.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast, broadcast_object_list, gather_object
from torch import nn
from torch.utils.data import DataLoader

from t3d.data.catalogue import open_manifest
from t3d.data.check import open_all, readable
from t3d.data.dataset import BadVideo, TrainClips, collate, start_worker
from t3d.data.frames import FrameStore
from t3d.data.manifest import Manifest
from t3d.data.sampler import ResumableBatchSampler
from t3d.device import use_bf16
from t3d.errors import ConfigError, ManifestError, T3DError
from t3d.evaluate import Metrics, measure, score_videos
from t3d.models.net import VideoNet
from t3d.models.registry import create_model, model_options
from t3d.models.weights import ModelCard, load_backbone, save_model
from t3d.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from t3d.train.config import TrainConfig
from t3d.train.logging import RunLog
from t3d.train.optim import Schedule, make_ema, make_optimizer
from t3d.train.run_folder import RunFolder
from t3d.train.step import DivergedError, Stepper


class InterruptedRunError(T3DError):
    """The run was asked to stop (SIGINT or SIGTERM) and saved its state.

    Args:
        folder: The run folder.
        number: The signal.
    """

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; go on with: t3d train --resume {folder}")
        self.signal = number


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Run a training to its end.

    Args:
        config: Everything there is to choose.
        resume: Go on from the checkpoint in `config.out` at its exact step.

    Returns:
        The run folder. `model.safetensors` is the net after the last epoch (its moving average, where
        `optim.ema` is on), `best.safetensors` the one that validated best, `log.jsonl` the log,
        `train.csv` and `val.csv` the videos, `bad.csv` those that could not be read.

    Raises:
        ConfigError: An option cannot work, or the run folder exists.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
        DivergedError: The loss became infinite or NaN; the last checkpoint is from before.
        InterruptedRunError: By a signal, after saving.
    """
    # The main process may look through videos for hours before the others hear of it.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patience]
    )
    folder = RunFolder(config.out)
    model_options(config.model.name, config.model.options)  # a misspelt name is told before videos are read
    store = FrameStore(config.clip, cache=config.data.cache, cache_gb=config.data.cache_gb)
    if resume:
        if accelerator.is_main_process:
            folder.sweep()
        train_videos, val_videos = folder.read_videos()
        if accelerator.is_main_process and store.folder is not None:  # it may have made room meanwhile
            for part in (train_videos, val_videos):
                if part is not None:
                    open_all(part, store, workers=config.data.workers)
        left_out = len(folder.read_bad())
    else:
        folder.refuse_existing(overwrite=config.overwrite)
        train_videos, val_videos, bad = _videos(config, store, accelerator)
        left_out = len(bad)

    torch.manual_seed(config.seed)
    model = create_model(
        config.model.name, num_classes=len(train_videos.classes), options=config.model.options
    )
    frames, side = model.min_input_size()
    if config.clip.num_frames < frames or config.clip.size < side:
        raise ConfigError(
            f"clip.num_frames is {config.clip.num_frames} and clip.size {config.clip.size}; "
            f"{config.model.name} with its options needs at least {frames} frames of {side} × {side} pixels"
        )
    model = model.to(accelerator.device).to(memory_format=torch.channels_last_3d)
    model.set_grad_checkpointing(config.model.grad_checkpointing)
    goes_on = resume and folder.checkpoint.exists()
    initial = load_backbone(model, config.model.init) if config.model.init and not goes_on else None
    optimizer = make_optimizer(model, config.optim)
    ema = make_ema(model, config.optim.ema) if config.optim.ema else None
    sampler = ResumableBatchSampler(
        len(train_videos),
        batch_size=config.optim.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        accumulate=config.optim.accumulate,
    )
    schedule = Schedule(optimizer, config.optim, steps_per_epoch=sampler.steps_per_epoch)
    progress = Progress()
    if goes_on:
        progress = load_checkpoint(
            folder.checkpoint, model=model, optimizer=optimizer, schedule=schedule, ema=ema
        )
    elif accelerator.is_main_process and not resume:
        folder.start(config, train_videos, val_videos, bad)
    accelerator.wait_for_everyone()
    parallel = accelerator.prepare_model(model)
    loader = DataLoader(
        TrainClips(train_videos, config.clip, store=store, augment=config.augment, seed=config.seed),
        batch_sampler=sampler,
        num_workers=config.data.workers,
        collate_fn=collate,
        worker_init_fn=start_worker,
        persistent_workers=config.data.workers > 0,
        pin_memory=accelerator.device.type == "cuda",
    )
    card = ModelCard(
        architecture=config.model.name,
        options=dict(config.model.options),
        classes=train_videos.classes,
        clip=config.clip,
        provenance={"trained_on": config.data.train, "videos": len(train_videos), "seed": config.seed},
    )
    stepper = Stepper(
        config,
        accelerator,
        model=parallel,
        optimizer=optimizer,
        schedule=schedule,
        videos=len(train_videos),
    )
    steps = sampler.steps_per_epoch
    started = time.monotonic() - 60 * progress.minutes

    def minutes() -> float:
        return (time.monotonic() - started) / 60

    def save() -> None:
        stepper.check_finite()
        broken = dict(gather_object(list(stepper.bad.items())))
        if accelerator.is_main_process:
            folder.add_bad(broken)
            now = replace(progress, minutes=minutes())
            save_checkpoint(
                folder.checkpoint, model=model, optimizer=optimizer, schedule=schedule, ema=ema, progress=now
            )

    log = RunLog(
        folder.log,
        main=accelerator.is_main_process,
        steps=config.optim.epochs * steps,
        done=progress.epoch * steps + progress.step,
        validated=progress.step == 0,
    )
    with log, _signals() as caught:
        log.say(
            f"{config.model.name} on {len(train_videos)} videos of {len(train_videos.classes)} classes"
            + (f", validated on {len(val_videos)}" if val_videos else "")
            + (f", {left_out} unreadable videos left out (bad.csv)" if left_out else "")
            + f", {accelerator.num_processes} process(es) on {accelerator.device.type}"
        )
        if initial:
            log.say(f"weights from {config.model.init}: {initial}")
        for epoch in range(progress.epoch, config.optim.epochs):
            sampler.set_state(epoch=epoch, step=progress.step)
            batches = iter(loader)
            stepper.start_counting()
            saved = time.monotonic()
            for step in range(progress.step, steps):
                total = epoch * steps + step + 1
                stepper.step(batches, epoch=epoch, step=step, total=total - 1)
                if ema is not None:
                    ema.update_parameters(model)
                progress = replace(progress, step=step + 1)
                if total % config.log_every == 0 or step + 1 == steps:
                    log.write("train", total, **stepper.report())
                log.advance(f"epoch {epoch + 1}/{config.optim.epochs}")
                due = step + 1 < steps and time.monotonic() - saved > 60 * config.checkpoint_minutes
                stop, due = _agree(accelerator, caught, due)
                if stop or due:
                    save()
                    saved = time.monotonic()
                if stop:
                    accelerator.wait_for_everyone()
                    raise InterruptedRunError(folder.path, stop)
            last = epoch + 1 == config.optim.epochs
            if last or (epoch + 1) % config.eval_every == 0:
                if val_videos is not None:  # a signal's grace may end before the validation does
                    save()
                scored = cast(VideoNet, ema.module) if ema is not None else model
                metrics = _validate(scored, val_videos, config, store, accelerator)
                if metrics:
                    schedule.validated(metrics.loss)
                    log.write(
                        "val",
                        (epoch + 1) * steps,
                        epoch=epoch + 1,
                        loss=metrics.loss,
                        top1=metrics.video_top1,
                        top5=metrics.video_top5,
                        clip_top1=metrics.clip_top1,
                        bad=metrics.bad,
                    )
                if accelerator.is_main_process:
                    made = replace(card, provenance=card.provenance | {"epochs": epoch + 1})
                    save_model(scored, folder.weights, card=made)
                    if metrics and metrics.video_top1 > progress.best:
                        save_model(scored, folder.best, card=made)
                if metrics and metrics.video_top1 > progress.best:
                    progress = replace(progress, best=metrics.video_top1)
                log.say(_epoch_line(epoch + 1, config.optim.epochs, stepper.epoch_loss(), metrics, minutes()))
            progress = replace(progress, epoch=epoch + 1, step=0)
            save()
            stop, _ = _agree(accelerator, caught, False)
            if stop and not last:
                accelerator.wait_for_everyone()
                raise InterruptedRunError(folder.path, stop)
        log.say(f"done in {minutes():.1f} minutes: {folder.weights}")
    accelerator.wait_for_everyone()
    return folder.path


def _videos(
    config: TrainConfig, store: FrameStore, accelerator: Accelerator
) -> tuple[Manifest, Manifest | None, list[BadVideo]]:
    """The training and validation videos that can be read, and those that cannot."""
    data = config.data
    full = open_manifest(data.train, videos=data.videos, source_pattern=data.source_pattern)
    _refuse_unlabelled(full, data.train)
    empty = [name for name, count in full.class_counts().items() if count == 0]
    if len(full.classes) < 2 or empty:
        raise ManifestError(
            f"{data.train}: training needs at least 2 classes and a video of each; there are "
            f"{len(full.classes)} ({', '.join(full.classes[:20])})"
            + (f", without a video: {', '.join(empty)}" if empty else "")
        )
    val: Manifest | None = None
    if data.val is not None:
        val = open_manifest(data.val, videos=data.videos, source_pattern=None)
        _refuse_unlabelled(val, data.val)
        val = val.with_classes(full.classes)
    elif data.val_fraction > 0:
        full, val = full.split_by_source(data.val_fraction, seed=config.seed)
    checked: list[tuple[Manifest, list[BadVideo]] | None] = [None, None]
    if accelerator.is_main_process:
        for number, part in enumerate((full, val)):
            if part is not None:
                checked[number] = readable(part, store, workers=data.workers, max_bad=data.max_bad)
    checked = broadcast_object_list(checked)
    assert checked[0] is not None
    train_videos, bad = checked[0]
    if checked[1] is None:
        return train_videos, None, bad
    return train_videos, checked[1][0], bad + checked[1][1]


def _refuse_unlabelled(manifest: Manifest, name: str) -> None:
    unlabelled = int((manifest.labels < 0).sum())
    if unlabelled:
        raise ManifestError(
            f"{name}: {unlabelled} of {len(manifest)} videos have no label; training and validation need a "
            "label for every video"
        )


def _validate(
    model: nn.Module,
    videos: Manifest | None,
    config: TrainConfig,
    store: FrameStore,
    accelerator: Accelerator,
) -> Metrics | None:
    if videos is None:
        return None
    if accelerator.num_processes > 1:  # BatchNorm's buffers follow each process's own clips
        for tensor in model.buffers():
            tensor.copy_(broadcast(tensor))
    scores = score_videos(
        model,
        videos,
        spec=config.clip,
        store=store,
        workers=config.data.workers,
        bf16=use_bf16(config.precision, accelerator.device),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        gather=gather_object,
    )
    if np.isnan(scores.clip_probs).any():
        raise DivergedError(
            f"the net's scores of {int(np.isnan(scores.clip_probs).any(1).sum())} validation clips are not "
            "numbers; start again with a lower optim.lr, a longer optim.warmup_epochs or optim.clip_grad = 1"
        )
    for video in scores.bad:
        accelerator.print(f"left out of the validation: {video.path}: {video.reason}")
    return measure(scores)


def _agree(accelerator: Accelerator, caught: list[int], due: bool) -> tuple[int, bool]:
    """The signal to stop by, or 0, and whether a checkpoint is due: if on one process, then on all."""
    stop = caught[0] if caught else 0
    if accelerator.num_processes == 1:
        return stop, due
    flags = torch.tensor([[stop, due]], device=accelerator.device)
    stop, late = accelerator.gather(flags).amax(0).tolist()
    return stop, bool(late)


def _epoch_line(epoch: int, epochs: int, loss: float, metrics: Metrics | None, minutes: float) -> str:
    line = f"epoch {epoch:>3}/{epochs}  {minutes:6.1f} min"
    if not math.isnan(loss):  # a run that goes on behind the epoch's last step has no loss of it
        line += f"  loss {loss:.3f}"
    if metrics:
        line += (
            f"  val loss {metrics.loss:.3f}  top-1 {metrics.video_top1:.1%}  top-5 {metrics.video_top5:.1%}"
        )
    return line


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way ends and its state is saved."""
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (signal's own signature)
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: stop at once
        caught.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
