"""The training run, from top to bottom: data, net, epochs, validation, weights."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import nn

from t3d.data.catalog import open_index, open_manifest, refuse_other_targets
from t3d.data.clips.check import open_all, readable
from t3d.data.clips.dataset import TrainClips, collate
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.device import use_bf16
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.evaluation.metrics import Metrics, measure
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.scoring import score_videos
from t3d.io.files import sweep
from t3d.models.net import VideoNet
from t3d.models.registry import create_model
from t3d.models.segments import with_consensus
from t3d.models.weights import ModelCard, load_backbone, save_model
from t3d.training.config import RunConfig, TrainConfig
from t3d.training.logging import RunLog
from t3d.training.run_folder import RunFolder
from t3d.training.step import ClassificationStepper, DivergedError, MultiLabelStepper
from t3d.training.trainer import EpochLoop, make_accelerator


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
    accelerator = make_accelerator()
    folder = RunFolder(config.out)
    check_net(config)
    data = config.data
    index = open_index(data.index, data.train, data.val, root=data.root)
    store = FrameStore(
        config.clip, cache=data.cache, cache_gb=data.cache_gb, index=index, decoder=data.decoder
    )
    bad: list[Failed] = []
    if resume:
        train_videos, val_videos = reopen(folder, store, accelerator, workers=config.data.workers)
    else:
        folder.refuse_existing(overwrite=config.overwrite)
        train_videos, val_videos, bad = _videos(config, store, accelerator)

    torch.manual_seed(config.seed)
    model = create_model(
        config.model.name, num_classes=len(train_videos.classes), options=config.model.options
    )
    model = model.to(accelerator.device).to(memory_format=torch.channels_last_3d)
    model.set_grad_checkpointing(config.model.grad_checkpointing)
    fresh = not (resume and folder.checkpoint.exists())
    initial = load_backbone(model, config.model.init) if config.model.init and fresh else None
    model.freeze(config.model.freeze)
    classes = train_videos.labels if config.data.balance else None
    loop = EpochLoop(
        config,
        accelerator,
        folder,
        model=model,
        videos=len(train_videos),
        resume=resume,
        classes=classes,
        shards=store.shards(train_videos),
    )
    if accelerator.is_main_process and not resume:
        folder.start(config, train_videos, val_videos, bad)
    accelerator.wait_for_everyone()
    clips = TrainClips(train_videos, config.clip, store=store, augment=config.augment, seed=config.seed)
    make_stepper = ClassificationStepper if train_videos.targets == "single" else MultiLabelStepper
    stepper = make_stepper(
        config,
        accelerator,
        model=accelerator.prepare_model(with_consensus(model, config.clip.segments)),
        optimizer=loop.optimizer,
        schedule=loop.schedule,
        videos=len(train_videos),
    )
    card = ModelCard(
        architecture=config.model.name,
        options=dict(config.model.options),
        classes=train_videos.classes,
        clip=config.clip,
        provenance={"trained_on": config.data.train, "videos": len(train_videos), "seed": config.seed},
        targets=train_videos.targets,
    )

    def close_epoch(log: RunLog, epoch: int) -> str:
        last = epoch == config.optim.epochs
        if not last and epoch % config.eval_every:
            return ""
        if val_videos is not None:  # a signal's grace may end before the validation does
            loop.save(stepper)
        scored = cast(VideoNet, loop.learned)
        metrics = _validate(scored, val_videos, config, store, accelerator)
        if metrics:
            loop.schedule.validated(metrics.loss)
            log.write("val", epoch * loop.steps, epoch=epoch, **metrics.log_line())
        better = metrics is not None and metrics.best_by > loop.progress.best
        if accelerator.is_main_process:
            made = replace(card, provenance=card.provenance | {"epochs": epoch})
            save_model(scored, folder.weights, card=made)
            if better:
                save_model(scored, folder.best, card=made)
        if metrics is None:
            return ""
        if better:
            loop.progress = replace(loop.progress, best=metrics.best_by)
        return f"  val {metrics}"

    left_out = len(folder.read_bad())
    opening = [
        f"{config.model.name} on {len(train_videos)} videos of {len(train_videos.classes)} classes and "
        f"{len(train_videos.sources())} sources"
        + (f", {_labels_each(train_videos):.1f} labels each" if train_videos.targets == "multi" else "")
        + (f" ({config.data.label_fraction:.0%} of the labels)" if config.data.label_fraction < 1 else "")
        + (f", validated on {len(val_videos)}" if val_videos else "")
        + (f", {left_out} unreadable videos left out (bad.csv)" if left_out else "")
        + f", {accelerator.num_processes} process(es) on {accelerator.device.type}"
    ]
    if initial:
        opening.append(f"weights from {config.model.init}: {initial}")
    loop.run(loop.loader(clips, collate), stepper, opening=opening, close_epoch=close_epoch)
    return folder.path


def reopen(
    folder: RunFolder, store: FrameStore, accelerator: Accelerator, *, workers: int
) -> tuple[Manifest, Manifest | None]:
    """The videos of a run that goes on."""
    if accelerator.is_main_process:
        sweep(folder.path)
    train_videos, val_videos = folder.read_videos()
    if accelerator.is_main_process and store.folder is not None:  # it may have made room meanwhile
        for part in (train_videos, val_videos):
            if part is not None:
                open_all(part, store, workers=workers)
    return train_videos, val_videos


def check_net(config: RunConfig) -> None:
    """Refuse a net, its options, stages to freeze and a clip that cannot be, before any video is read.

    Raises:
        ConfigError: There is no such net or stage, an option cannot work, or the clip has too few frames or
            pixels.
    """
    chosen = config.model
    frames, side = _least_clip(chosen.name, json.dumps(chosen.options), chosen.freeze)
    if config.clip.num_frames < frames or config.clip.size < side:
        raise ConfigError(
            f"clip.num_frames is {config.clip.num_frames} and clip.size {config.clip.size}; "
            f"{chosen.name} with its options needs at least {frames} frames of {side} × {side} pixels"
        )


@cache
def _least_clip(name: str, options: str, freeze: str) -> tuple[int, int]:
    """Frames and side; the options are JSON."""
    with torch.device("meta"):  # neither memory nor random numbers
        model = create_model(name, num_classes=1, options=json.loads(options))
    model.freeze(freeze)
    return model.min_input_size()


def _videos(
    config: TrainConfig, store: FrameStore, accelerator: Accelerator
) -> tuple[Manifest, Manifest | None, list[Failed]]:
    """The training and validation videos that can be read, and those that cannot."""
    data = config.data
    full = open_manifest(data.train, root=data.root, source_pattern=data.source_pattern)
    _refuse_unlabelled(full, data.train)
    if full.targets == "multi" and data.balance:
        raise ConfigError(
            f"data.balance takes each class equally often, and a video of {data.train} may be of several; "
            "leave it out"
        )
    empty = [name for name, count in full.class_counts().items() if count == 0]
    least = 2 if full.targets == "single" else 1  # whether one tag applies is a question, too
    if len(full.classes) < least or empty:
        raise ManifestError(
            f"{data.train}: training needs at least {least} classes and a video of each; there are "
            f"{len(full.classes)} ({', '.join(full.classes[:20])})"
            + (f", without a video: {', '.join(empty)}" if empty else "")
        )
    val: Manifest | None = None
    if data.val is not None:
        val = open_manifest(data.val, root=data.root, source_pattern=None)
        _refuse_unlabelled(val, data.val)
        refuse_other_targets(val, full.targets, name=data.val, other=data.train)
        val = val.with_classes(full.classes)
    elif data.val_fraction > 0:
        full, val = full.split_by_source(data.val_fraction, seed=config.seed)
    if val is not None and not any(val.class_counts().values()):
        raise ManifestError(
            f"{data.val or data.train}: no class applies to any validation video, so that no validation can "
            "tell how good the net is; give data.val with labels, or data.val_fraction = 0"
        )
    full = full.label_subset(data.label_fraction, seed=data.label_seed)
    checked: list[tuple[Manifest, list[Failed]] | None] = [None, None]
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


def _labels_each(manifest: Manifest) -> float:
    return sum(manifest.class_counts().values()) / len(manifest)


def _refuse_unlabelled(manifest: Manifest, name: str) -> None:
    unlabelled = int((~manifest.labelled).sum())
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
) -> Metrics | MultiMetrics | None:
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
        targets=videos.targets,
    )
    if np.isnan(scores.clip_probs).any():
        raise DivergedError(
            f"the net's scores of {int(np.isnan(scores.clip_probs).any(1).sum())} validation clips are not "
            "numbers; start again with a lower optim.lr, a longer optim.warmup_epochs or optim.clip_grad = 1"
        )
    for video in scores.bad:
        accelerator.print(f"left out of the validation: {video.path}: {video.reason}")
    return measure(scores)
