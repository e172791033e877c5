"""Supervised run: data, model, epochs, validation and weights, in this order."""

from __future__ import annotations

from pathlib import Path

from accelerate.utils import broadcast, broadcast_object_list, gather_object
from torch import nn

from t3d.card import ModelCard
from t3d.data.catalog import open_index
from t3d.data.clips.dataset import TrainClips, collate
from t3d.data.inspect.nearby import Listed
from t3d.data.inspect.shared import SharedRows
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import DivergedError
from t3d.evaluation.figures import FEW_RESAMPLES
from t3d.evaluation.leaks import compared_lists, measure_without, sharing_sentence, uncompared_sentence
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import Scores
from t3d.evaluation.scores_table import write_scores
from t3d.evaluation.scoring import Processes, score_videos
from t3d.evaluation.task import measure
from t3d.training.checkpoint import Progress
from t3d.training.config import TrainConfig
from t3d.training.errors import steadier
from t3d.training.start import Run, RunVideos, check_model, open_run
from t3d.training.step import label_step
from t3d.training.trainer import Trainer
from t3d.training.videos import choose_videos


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Train a model on labeled videos.

    Args:
        config: Options of the run.
        resume: Resume the run in `config.out` from its checkpoint, at the exact step. With more
            `optim.epochs` than before, a finished run trains longer, too.

    Returns:
        The run folder, with these files:

        - `last.safetensors`: the weights after the last epoch. Written at the end.
        - `best.safetensors`: the weights with the best validation. Written at the end.
        - `checkpoint.safetensors`: the whole state during the run, with the best weights so far.
        - `log.jsonl`: the log.
        - `train.csv` and `val.csv`: the videos.
        - `val_scores.csv`: the scores of the validation videos at the best validation.
        - `soft.csv`: the soft labels of the training videos without a label, with `data.soft`.
        - `bad.csv`: the videos that could not be read.

    Raises:
        ConfigError: An option is invalid, or the run folder exists.
        CheckpointError: The checkpoint or the weights of `model.init` are corrupt or of another model.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
        DivergedError: The loss, a weight or a validation score is infinite or NaN.
        InterruptedRunError: A signal stopped the run, after saving or during start-up.
        ResumableError: The disk is full, or a process that reads videos was killed.
    """
    check_model(config)
    data = config.data
    index = open_index(data.index, data.train, data.val, root=data.root)
    with open_run(config, index, resume=resume) as run:
        with run.starting():
            videos = run.reopen_videos() if run.resume else choose_videos(run)
            shared = _shared(run, videos)
            model, initial = run.new_model(videos.train.classes, videos.train.targets)
            trainer = Trainer(
                run,
                model,
                label_step(videos.train.targets, config, run.device),
                videos=videos.train,
                describe=lambda progress: _card(config, videos.train, progress),
                classes=videos.train.labels if data.balance else None,
            )
            run.start(videos)
            clips = TrainClips(
                videos.train,
                config.clip,
                store=run.store,
                augment=config.augment,
                seed=config.seed,
                targets=videos.soft,
            )
            loader = trainer.loader(clips, collate)
        with trainer.running(_opening(run, videos) + _sharing(shared), videos.note, initial):
            for epoch in trainer.epochs(loader, early_stopping=config.early_stopping):
                note = ""
                if videos.val is not None and trainer.validates_after(epoch):
                    trainer.save()  # after a signal, the grace period may be shorter than the validation
                    scores = _validate(run, trainer.learner.averaged, videos.val)
                    trainer.left_out(scores.bad, of="the validation")
                    metrics = measure(scores, resamples=FEW_RESAMPLES)
                    without = measure_without(scores, shared, resamples=FEW_RESAMPLES) if shared else None
                    trainer.validated(epoch, metrics.loss, metrics.log_line() | _unshared(without))
                    best = trainer.keep_if_best(epoch, metrics.best_by, metrics.summary())
                    if best and run.accelerator.is_main_process:
                        write_scores(scores, run.folder.val_scores_csv)
                    note = f"  val {metrics}"
                    if without is not None:
                        note += f"; without shared videos {without.summary()}"
                trainer.say(epoch, note)
                trainer.save(finished=epoch)
            trainer.finish()
    return run.folder.path


def _card(config: TrainConfig, videos: Manifest, progress: Progress) -> ModelCard:
    return ModelCard(
        architecture=config.model.name,
        options=dict(config.model.options),
        classes=videos.classes,
        clip=config.clip,
        provenance={
            "trained_on": config.data.train,
            "videos": len(videos),
            "seed": config.seed,
            "epochs": progress.epoch,
        },
        targets=videos.targets,
    )


def _opening(run: Run[TrainConfig], videos: RunVideos) -> str:
    train, fraction = videos.train, run.config.data.label_fraction
    soft = 0 if videos.soft is None else int((~train.labeled).sum())
    labels = sum(train.class_counts().values()) / len(train)
    groups = f"{len(train.classes)} classes, {len(train.sources())} groups"
    return (
        f"Training {run.config.model.name} on {len(train)} videos ({groups})"
        + (f", {labels:.1f} labels per video" if train.targets == "multi" else "")
        + (f", with {fraction:.0%} of the labels" if fraction < 1 else "")
        + (f", {soft} of them with soft labels" if soft else "")
        + (f", validating on {len(videos.val)}" if videos.val else "")
        + run.surroundings()
    )


def _shared(run: Run[TrainConfig], videos: RunVideos) -> SharedRows | None:
    """Find the validation videos that are also in the training list; the main process looks."""
    if videos.val is None:
        return None
    shared: list[SharedRows | None] = [None]
    if run.accelerator.is_main_process:
        data = run.config.data
        index = run.store.index if len(run.store.index) else None
        train = Listed(videos.train, data.train)
        val = Listed(videos.val, data.val or data.train)
        shared = [compared_lists(val, {"training": train}, index)["training"]]
    return broadcast_object_list(shared)[0]


def _sharing(shared: SharedRows | None) -> str:
    """Return what the validation shares with the training, in sentences on a new line."""
    if shared is None:
        return ""
    sentences = (
        sharing_sentence(shared, tested="validation", other="training"),
        uncompared_sentence(shared, tested="validation", other="training"),
    )
    return "\n" + " ".join(filter(None, sentences))


def _unshared(without: Metrics | MultiMetrics | None) -> dict[str, float | int]:
    """Return the accuracy or mAP without shared videos, and their count, for the log."""
    figures = {} if without is None else without.log_line()
    return {f"{name}_without_shared": figures[name] for name in ("top1", "map", "videos") if name in figures}


def _validate(run: Run[TrainConfig], model: nn.Module, videos: Manifest) -> Scores:
    config, accelerator = run.config, run.accelerator
    if accelerator.num_processes > 1:  # each process has BatchNorm buffers from its own clips
        for tensor in model.buffers():
            tensor.copy_(broadcast(tensor))
    try:
        scores = score_videos(
            model,
            videos,
            Protocol(config.clip, videos.targets),
            store=run.store,
            compute=Compute(precision=config.precision, workers=config.data.workers),
            processes=Processes(accelerator.process_index, accelerator.num_processes, gather_object),
            shown="Validating",
        )
    except DivergedError as error:
        raise DivergedError(f"validation: {error}. {steadier(config)}") from error
    return scores
