"""The transfer run, from top to bottom: videos, teacher, student, epochs, held-out pairs, weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from t3d.clip import ClipSpec
from t3d.data.catalog import open_index, open_manifest
from t3d.data.clips.check import readable, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.sampler import SampleKey
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.models.registry import create_model
from t3d.models.weights import ModelCard, load_backbone, save_model
from t3d.training.logging import RunLog
from t3d.training.run import check_net, reopen
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import EpochLoop, make_accelerator
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import CollatePairs, TransferClips
from t3d.transfer.features import FeatureStore
from t3d.transfer.objectives import transfer_loss
from t3d.transfer.pairs import joined, source_groups
from t3d.transfer.step import TransferStepper, first_of, pair_metrics
from t3d.transfer.student import TransferNet
from t3d.transfer.teachers.teacher import Teacher, open_teacher

_AUGMENT_MARGIN = 0.875  # of a frame's short side that a random crop of the teacher's takes


def transfer(config: TransferConfig, *, resume: bool = False) -> Path:
    """Teach a 3D net by a frozen 2D net, from unlabelled videos (PAPER: Supervision transfer).

    Args:
        config: Everything there is to choose.
        resume: Go on from the checkpoint in `config.out` at its exact step.

    Returns:
        The run folder. `model.safetensors` is the student without the heads, to start a training from
        (`t3d train --init`); `log.jsonl` the log, with how well pairs of held-out videos are told apart;
        `train.csv` and `val.csv` the videos, `bad.csv` those that could not be read.

    Raises:
        ConfigError: An option cannot work, or the run folder exists.
        CheckpointError: The teacher's weights are damaged or another net's.
        ManifestError: The videos cannot be used, or too few sources, or too many cannot be read.
        DivergedError: The loss became infinite or NaN; the last checkpoint is from before.
        InterruptedRunError: By a signal, after saving.
    """
    accelerator = make_accelerator()
    folder = RunFolder(config.out)
    check_net(config)
    data = config.data
    index = open_index(data.index, data.videos, root=data.root)
    store = FrameStore(
        config.clip, cache=data.cache, cache_gb=data.cache_gb, index=index, decoder=data.decoder
    )
    if not resume:
        folder.refuse_existing(overwrite=config.overwrite)
        pool = _pool(config)  # a misspelt path is told before a teacher is downloaded
    teacher = open_teacher(config.teacher.name, weights=config.teacher.weights, size=config.teacher.size)
    teacher = teacher.to(accelerator.device)
    spec = _teacher_spec(config, teacher.size)
    # By PyAV always: features on disk are named without a decoder.
    seen = FrameStore(spec, cache=data.cache, cache_gb=data.cache_gb, index=index)
    bad: list[Failed] = []
    if resume:
        videos, val_videos = reopen(folder, store, accelerator, workers=config.data.workers)
    else:
        videos, val_videos, bad = _videos(pool, config, store, accelerator)
    features = None
    if config.teacher.cache:
        features = FeatureStore(
            config.teacher.cache, digest=teacher.digest, step=config.teacher.frame_step, index=index
        )
        videos, unseen = _seen(features, videos, teacher, seen, accelerator, config)
        bad += unseen
        if val_videos is not None:
            val_videos, unseen = _seen(features, val_videos, teacher, seen, accelerator, config)
            bad += unseen
        if resume and bad:  # without them its epochs would be others
            raise ManifestError(
                f"{folder.path} cannot go on: features of the teacher are missing in {features.folder}, and "
                + "; ".join(f"{video.path} {video.reason}" for video in bad[:5])
                + f"; put the file(s) back, or start anew: {config.command} --overwrite true …"
            )
    groups = torch.from_numpy(source_groups(videos, index))
    _refuse_few_sources(videos, groups, config, accelerator.num_processes)

    torch.manual_seed(config.seed)
    student = create_model(config.model.name, num_classes=0, options=config.model.options)
    fresh = not (resume and folder.checkpoint.exists())
    initial = load_backbone(student, config.model.init) if config.model.init and fresh else None
    student.freeze(config.model.freeze)
    together = 1 if config.teacher.average else config.teacher.frames
    model = TransferNet(student, teacher.num_features * together, config.pairs)
    model = model.to(accelerator.device).to(memory_format=torch.channels_last_3d)
    student.set_grad_checkpointing(config.model.grad_checkpointing)
    loop = EpochLoop(
        config,
        accelerator,
        folder,
        model=model,
        videos=len(videos),
        resume=resume,
        shards=store.shards(videos),
    )
    if accelerator.is_main_process and not resume:
        folder.start(config, videos, val_videos, bad)
    accelerator.wait_for_everyone()

    def clips(manifest: Manifest, *, training: bool) -> TransferClips:
        return TransferClips(
            manifest,
            config.clip,
            store=store,
            augment=config.augment if training else None,
            seed=config.seed,
            teacher=seen,
            count=config.teacher.frames,
            features=features,
            teacher_augment=config.augment if training and config.teacher.augment else None,
            other_time=config.pairs.other_time,
        )

    stepper = TransferStepper(
        config,
        accelerator,
        model=accelerator.prepare_model(model),
        teacher=teacher if features is None else None,
        optimizer=loop.optimizer,
        schedule=loop.schedule,
        groups=groups,
    )
    collate = CollatePairs(config.pairs.other_time)
    held_out = None
    if val_videos is not None:
        held_out = _held_out(clips(val_videos, training=False), collate, config)
        val_groups = torch.from_numpy(source_groups(val_videos, index))
    card = ModelCard(
        architecture=config.model.name,
        options=dict(config.model.options),
        clip=config.clip,
        provenance={
            "transfer": config.pairs.objective,
            "teacher": teacher.name,
            "teacher_digest": teacher.digest,
            "trained_on": config.data.videos,
            "videos": len(videos),
            "seed": config.seed,
        },
    )

    def close_epoch(log: RunLog, epoch: int) -> str:
        if epoch != config.optim.epochs and epoch % config.eval_every:
            return ""
        learned = cast(TransferNet, loop.learned)
        figures: dict[str, float] = {}
        if held_out is not None:
            loop.save(stepper)
            figures = _validate(learned, held_out, val_groups, stepper)
            loop.schedule.validated(figures["loss"])
            log.write("val", epoch * loop.steps, epoch=epoch, **figures)
        if accelerator.is_main_process:
            made = replace(card, provenance=card.provenance | {"epochs": epoch, "held_out": figures})
            save_model(learned.student, folder.weights, card=made)
        shown = [name for name in ("loss", "accuracy", "auc", "top1") if name in figures]
        return "".join(f"  held-out {name} {figures[name]:.3f}" for name in shown)

    left_out = len(folder.read_bad())
    opening = [
        f"{teacher.name} teaches {config.model.name} by {config.pairs.objective} on {len(videos)} videos of "
        f"{int(groups.max()) + 1} sources"
        + (f", {len(val_videos)} held out" if val_videos else "")
        + (f", {left_out} unreadable videos left out (bad.csv)" if left_out else "")
        + f", {accelerator.num_processes} process(es) on {accelerator.device.type}"
    ]
    if initial:
        opening.append(f"weights from {config.model.init}: {initial}")
    loop.run(
        loop.loader(clips(videos, training=True), collate), stepper, opening=opening, close_epoch=close_epoch
    )
    return folder.path


def _teacher_spec(config: TransferConfig, size: int) -> ClipSpec:
    resize = round(size / _AUGMENT_MARGIN) if config.teacher.augment else size
    return ClipSpec(num_frames=config.teacher.frames, stride=1, size=size, resize=resize)


def _pool(config: TransferConfig) -> Manifest:
    """All videos to learn from, without labels."""
    data = config.data
    if Path(data.videos).is_dir():
        full = Manifest.from_files([data.videos], source_pattern=data.source_pattern)
    else:
        full = open_manifest(data.videos, root=data.root, source_pattern=data.source_pattern)
    return full.without_labels()


def _videos(
    pool: Manifest, config: TransferConfig, store: FrameStore, accelerator: Accelerator
) -> tuple[Manifest, Manifest | None, list[Failed]]:
    """The training and held-out videos that can be read, and those that cannot."""
    data = config.data
    checked: list[tuple[Manifest, list[Failed]] | None] = [None]
    if accelerator.is_main_process:
        checked[0] = readable(pool, store, workers=data.workers, max_bad=data.max_bad)
    checked = broadcast_object_list(checked)
    assert checked[0] is not None
    kept, bad = checked[0]
    if len(kept.sources()) < 2:
        raise ManifestError(
            f"{data.videos}: {len(kept)} video(s) of 1 source. A negative pair needs videos of another "
            "source: add some, or name sources more finely (data.source_pattern, or the column `source`)"
        )
    if data.val_fraction == 0:
        return kept, None, bad
    rest, held = joined(kept, store.index).split_by_source(data.val_fraction, seed=config.seed)
    return rest, held, bad


def _refuse_few_sources(videos: Manifest, groups: Tensor, config: TransferConfig, processes: int) -> None:
    sources, batch = int(groups.max()) + 1, config.optim.batch_size
    if batch < 2 * config.optim.accumulate * processes:
        raise ConfigError(
            f"optim.batch_size is {batch}, shared by {processes} processes in optim.accumulate = "
            f"{config.optim.accumulate} passes; each pass must have at least 2 clips, since negatives come "
            "from its other clips"
        )
    if sources < batch:
        raise ManifestError(
            f"{config.data.videos}: {len(videos)} videos to learn from come from only {sources} sources "
            "(videos with the same source, or of the same bytes, count as one), fewer than optim.batch_size "
            f"= {batch}; a batch would hold too few true negatives: choose optim.batch_size {sources} or "
            "less, add videos of other sources, or name sources more finely (data.source_pattern, or the "
            "column `source`)"
        )


def _seen(
    features: FeatureStore,
    videos: Manifest,
    teacher: Teacher,
    store: FrameStore,
    accelerator: Accelerator,
    config: TransferConfig,
) -> tuple[Manifest, list[Failed]]:
    """Compute the teacher's features where they are missing; the videos that have them, and the others."""
    mine = np.arange(accelerator.process_index, len(videos), accelerator.num_processes)
    found = features.make(videos.select(mine), teacher, store=store, workers=config.data.workers)
    # The row of a share of the videos as a row of all of them.
    bad = gather_object([replace(failed, row=int(mine[failed.row])) for failed in found])
    refuse_many(bad, among=len(videos), max_bad=config.data.max_bad, option="data.max_bad")
    accelerator.wait_for_everyone()
    broken = {failed.row for failed in bad}
    return videos.select([row for row in range(len(videos)) if row not in broken]), bad


def _held_out(clips: TransferClips, collate: CollatePairs, config: TransferConfig) -> Loader:
    """Held-out videos in batches that are the same at every validation."""
    order = np.random.default_rng(config.seed).permutation(len(clips))
    size = min(config.optim.batch_size, len(order))
    batches = [order[at : at + size] for at in range(0, len(order), size)]
    if len(batches) > 1 and len(batches[-1]) < 2:  # a single clip has no negatives
        batches.pop()
    return Loader(
        clips,
        batch_sampler=[[SampleKey(0, int(row)) for row in batch] for batch in batches],
        num_workers=config.data.workers,
        collate_fn=collate,
    )


@torch.no_grad()
def _validate(
    model: TransferNet, held_out: Loader, groups: Tensor, stepper: TransferStepper
) -> dict[str, float]:
    """Loss and figures over the pairs of held-out videos, all negatives of each batch counted."""
    model.eval()
    metrics, losses = pair_metrics(stepper.config), []
    for batch in held_out:
        if batch.frames is None:
            continue
        scores, positive, negative = stepper.score(model, batch, groups)
        losses.append(float(transfer_loss(scores, positive, negative, pairs=stepper.config.pairs)))
        metrics.add(scores[first_of(scores)], positive, negative)
    return {"loss": float(np.mean(losses)) if losses else 0.0} | metrics.figures()
