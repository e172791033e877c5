"""Open, check and split the videos of a supervised run."""

from __future__ import annotations

from t3d.data.catalog import open_manifest, refuse_other_targets, roots_of
from t3d.data.manifest.manifest import Manifest
from t3d.data.moved import refuse_moved
from t3d.errors import ConfigError, ManifestError, NoClassFolderError
from t3d.training.config import TrainConfig
from t3d.training.soft import with_soft_labels
from t3d.training.start import Run, RunVideos


def choose_videos(run: Run[TrainConfig]) -> RunVideos:
    """Open the labeled videos of a new run, split off the validation, and leave out unreadable videos.

    Raises:
        ConfigError: `data.balance` or `data.soft` is set, and videos may have several labels.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    data = run.config.data
    root, *val_roots = roots_of(data.root, data.train, *([data.val] if data.val is not None else []))
    try:
        full = open_manifest(data.train, root=root, source_pattern=data.source_pattern, classes=data.classes)
    except NoClassFolderError as error:
        raise ManifestError(f"{error}. To train on videos without labels, use t3d transfer") from error
    _check_training(full, run.config)
    refuse_moved(full, data.train, root=data.root)
    known = full
    val: Manifest | None = None
    if data.val is not None:
        val = open_manifest(data.val, root=val_roots[0], classes=data.classes)
        _refuse_unlabeled(val, data.val)
        refuse_other_targets(val, full.targets, name=data.val, other=data.train)
        val = val.with_classes(full.classes, name=data.val, owner="the training videos")
    elif data.val_fraction > 0:
        try:
            full, val = full.split_by_source(data.val_fraction, seed=run.config.seed)
        except ManifestError as error:
            raise ManifestError(f"{error}. Or set data.val, or data.val_fraction to 0") from error
    if val is not None and not any(val.class_counts().values()):
        raise ManifestError(
            f"{data.val or data.train}: no class applies to any validation video, so a validation cannot "
            "measure the model; set data.val to videos with labels, or data.val_fraction to 0"
        )
    if val is not None and data.val is not None:
        refuse_moved(val, data.val, root=data.root)
    labeled = full.label_subset(data.label_fraction, seed=data.label_seed)
    return run.check_videos(labeled, val) if data.soft is None else with_soft_labels(run, labeled, val, known)


def _check_training(videos: Manifest, config: TrainConfig) -> None:
    name = config.data.train
    _refuse_unlabeled(videos, name)
    if videos.targets == "multi" and config.data.balance:
        raise ConfigError(
            f"data.balance samples each class equally often and needs one label per video, but videos of "
            f"{name} may have several; remove it"
        )
    if videos.targets == "multi" and config.data.soft is not None:
        raise ConfigError(
            f"data.soft is {config.data.soft}, but videos of {name} may have several labels; soft labels are "
            "probabilities of which exactly one class applies. Remove data.soft, or use one label per video"
        )
    empty = [label for label, count in videos.class_counts().items() if count == 0]
    least = videos.label_column.min_classes
    if len(videos.classes) < least or empty:
        raise ManifestError(
            f"{name}: training needs at least {least} classes with a video each; it has "
            f"{len(videos.classes)} ({', '.join(videos.classes[:20])})"
            + (f". No video: {', '.join(empty)}" if empty else "")
        )


def _refuse_unlabeled(manifest: Manifest, name: str) -> None:
    unlabeled = int((~manifest.labeled).sum())
    if unlabeled:
        raise ManifestError(
            f"{name}: {unlabeled} of {len(manifest)} videos have no label; training and validation need a "
            "label for every video"
        )
