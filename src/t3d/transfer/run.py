"""Transfer run: videos, teacher, student, epochs, validation and weights, in this order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.catalog import open_index
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.manifest.manifest import Manifest
from t3d.training.checkpoint import Progress
from t3d.training.start import Run, check_model, open_run
from t3d.training.trainer import Trainer
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import CollatePairs, TeacherView, TransferClips
from t3d.transfer.features import FeatureStore
from t3d.transfer.held_out import HeldOut
from t3d.transfer.metrics import held_out_text
from t3d.transfer.pairs import source_groups
from t3d.transfer.step import TransferStep
from t3d.transfer.student import TransferNet
from t3d.transfer.task import make_task, save_task, task_sentence
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.open import open_teacher
from t3d.transfer.videos import choose_videos, open_pool, refuse_few_sources, with_features

_AUGMENT_MARGIN = 0.875  # size of a random crop for the teacher, as a share of the short side of a frame


def transfer(config: TransferConfig, *, resume: bool = False) -> Path:
    """Train a 3D student with a frozen 2D teacher on unlabeled videos (PAPER: Supervision transfer).

    Args:
        config: All options.
        resume: Resume the run in `config.out` from its checkpoint, at the exact step. With more
            `optim.epochs` than before, a finished run trains longer, too.

    Returns:
        The run folder, with these files:

        - `last.safetensors`: the student without the heads, to start training from, or with `labels.videos`
          a classifier. Written at the end.
        - `teacher.safetensors`, `soft.csv`, `val_soft.csv`: with `labels.videos`, the teacher with its
          classifier, and the class probabilities of the videos without a label.
        - `checkpoint.safetensors`: the whole state during the run.
        - `log.jsonl`: the log, with the metrics of held-out pairs.
        - `train.csv` and `val.csv`: the videos.
        - `bad.csv`: the videos that could not be read.

    Raises:
        ConfigError: An option is invalid, or the run folder exists.
        CheckpointError: The teacher's weights are damaged, or belong to another model.
        ManifestError: The videos cannot be used, have too few sources, or too many cannot be read.
        DivergedError: The loss became infinite or NaN. The last checkpoint is from before.
        InterruptedRunError: A signal stopped the run, after saving or during start-up.
        ResumableError: The disk is full, or a process that reads videos was killed.
    """
    check_model(config)
    data = config.data
    index = open_index(data.index, data.videos, root=data.root)
    with open_run(config, index, resume=resume) as run:
        with run.starting():
            trainer, initial, loader, held_out, opening = _start(run)
        with trainer.running(opening, initial):
            for epoch in trainer.epochs(loader):
                note = ""
                if held_out is not None and trainer.validates_after(epoch):
                    trainer.save()  # after a signal, the grace period may be shorter than the validation
                    figures = held_out.measure(trainer.learner.averaged)
                    trainer.left_out(held_out.bad, of="the validation")
                    trainer.validated(epoch, figures["loss"], figures)
                    note = f"  held-out {held_out_text(figures)}"
                trainer.say(epoch, note)
                trainer.save(finished=epoch)
            trainer.finish()
    return run.folder.path


def _start(run: Run[TransferConfig]) -> tuple[Trainer, str, Loader, HeldOut | None, str]:
    """Prepare videos, teacher, student and the data of both.

    Returns:
        The trainer, a sentence about the student's initial weights, the loader, the held-out pairs or None,
        and a sentence about the run.
    """
    config, options = run.config, run.config.teacher
    # Opened before the teacher, which may be downloaded, so that a misspelled path fails first.
    pool = None if run.resume else open_pool(run)
    teacher = _open_teacher(config).to(run.device)
    view = _teacher_view(run, teacher)
    videos = run.reopen_videos() if pool is None else choose_videos(run, pool.videos)
    groups = _groups(run, videos.train)
    if view.features is not None:
        before = len(videos.train)
        videos = with_features(run, videos, teacher, view)
        if len(videos.train) < before:
            groups = _groups(run, videos.train)
    task = None
    if config.labels.videos:
        task = make_task(run, videos, view, teacher)
        videos = replace(videos, soft=task.train.numpy())
    student, initial = run.new_model(videos.train.classes)
    parts = {"mean": 1, "mean_std": 2, "concatenate": options.frames}[config.pooling]
    seen = teacher.num_features * parts
    step = TransferStep(
        config,
        run.device,
        teacher=teacher if view.features is None else None,
        groups=groups,
        targets=None if task is None else task.train,
    )
    trainer = Trainer(
        run,
        TransferNet(student, seen, config.pairs),
        step,
        videos=videos.train,
        describe=lambda progress: _card(config, teacher, videos.train, progress),
        part="student",
    )
    run.start(videos)
    if task is not None:
        save_task(run, videos, task, teacher)
    held_out = None
    if videos.val is not None:
        val_groups = torch.from_numpy(source_groups(videos.val, run.store.index))
        held = _clips(run, videos.val, view, training=False)
        held_out = HeldOut(held, step, val_groups, None if task is None else task.val)
    clips = _clips(run, videos.train, view, training=True)
    opening = (
        f"Training {config.model.name} on {len(videos.train)} videos ({int(groups.max()) + 1} groups"
        + (f", {int(videos.train.labeled.sum())} videos with labels" if task else "")
        + "), "
        f"with the teacher {teacher.name} and the objective {config.pairs.objective}"
        + (f", validating on {len(videos.val)}" if videos.val else "")
        + run.surroundings()
        + (task_sentence(task) if task else "")
        + (pool.excluded if pool else "")
    )
    return trainer, initial, trainer.loader(clips, CollatePairs(config.pairs.other_time)), held_out, opening


def _groups(run: Run[TransferConfig], videos: Manifest) -> Tensor:
    """Number the groups of the training videos, and refuse too few of them."""
    groups = torch.from_numpy(source_groups(videos, run.store.index))
    refuse_few_sources(videos, groups, run.config, run.accelerator.num_processes)
    return groups


def _open_teacher(config: TransferConfig) -> Teacher:
    asked = config.teacher
    return open_teacher(asked.name, weights=asked.weights, size=asked.size, normalization=asked.normalization)


def _teacher_view(run: Run[TransferConfig], teacher: Teacher) -> TeacherView:
    config, index = run.config, run.store.index
    asked, size = config.teacher, teacher.size
    resize = round(size / _AUGMENT_MARGIN) if asked.augment else size
    spec = ClipSpec(
        num_frames=asked.frames,
        stride=1,
        size=size,
        resize=resize,
        pixel_aspect=config.clip.pixel_aspect,
        tonemap=config.clip.tonemap,
    )
    features = None
    if asked.cache:
        features = FeatureStore(
            asked.cache,
            digest=teacher.digest,
            step=asked.frame_step,
            index=index,
            variant=spec.variant,
        )
    return TeacherView(
        FrameStore(
            spec,
            cache=config.data.cache,
            cache_gb=config.data.cache_gb,
            index=index,
            limits=config.data.limits,
            image_fps=config.data.image_fps,
        ),
        asked.frames,
        features,
        config.augment if asked.augment else None,
    )


def _clips(run: Run[TransferConfig], videos: Manifest, view: TeacherView, *, training: bool) -> TransferClips:
    config = run.config
    return TransferClips(
        videos,
        config.clip,
        store=run.store,
        augment=config.augment if training else None,
        seed=config.seed,
        teacher=view if training else view.plain(),
        other_time=config.pairs.other_time,
    )


def _card(config: TransferConfig, teacher: Teacher, videos: Manifest, progress: Progress) -> ModelCard:
    return ModelCard(
        architecture=config.model.name,
        options=dict(config.model.options),
        classes=videos.classes,
        clip=config.clip,
        provenance={
            "transfer": config.pairs.objective,
            "teacher": teacher.name,
            "teacher_digest": teacher.digest,
            "trained_on": config.data.videos,
            **({"labels": config.labels.videos} if config.labels.videos else {}),
            "videos": len(videos),
            "seed": config.seed,
            "epochs": progress.epoch,
            "held_out": progress.figures,
        },
    )
