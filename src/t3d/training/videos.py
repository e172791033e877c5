"""The videos of a supervised run: read, checked, and divided into training and validation."""

from __future__ import annotations

from t3d.data.catalog import open_videos, refuse_other_targets
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError
from t3d.training.config import TrainConfig
from t3d.training.start import Run, RunVideos


def choose_videos(run: Run[TrainConfig]) -> RunVideos:
    """Open the labeled videos of a new run, hold some out, and leave out those that cannot be read.

    Raises:
        ConfigError: `data.balance` is on, and videos have several labels.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    data = run.config.data
    full = open_videos(data.train, root=data.root, source_pattern=data.source_pattern)
    _check_training(full, run.config)
    val: Manifest | None = None
    if data.val is not None:
        val = open_videos(data.val, root=data.root, source_pattern=None)
        _refuse_unlabeled(val, data.val)
        refuse_other_targets(val, full.targets, name=data.val, other=data.train)
        val = val.with_classes(full.classes)
    elif data.val_fraction > 0:
        full, val = full.split_by_source(data.val_fraction, seed=run.config.seed)
    if val is not None and not any(val.class_counts().values()):
        raise ManifestError(
            f"{data.val or data.train}: no class applies to any validation video, so no validation can "
            "tell how good the model is; give data.val with labels, or data.val_fraction = 0"
        )
    return run.check_videos(full.label_subset(data.label_fraction, seed=data.label_seed), val)


def _check_training(videos: Manifest, config: TrainConfig) -> None:
    name = config.data.train
    _refuse_unlabeled(videos, name)
    if videos.targets == "multi" and config.data.balance:
        raise ConfigError(
            f"data.balance takes each class equally often, and a video of {name} may have several labels; "
            "leave it out"
        )
    empty = [label for label, count in videos.class_counts().items() if count == 0]
    least = videos.label_column.min_classes
    if len(videos.classes) < least or empty:
        raise ManifestError(
            f"{name}: training needs at least {least} classes and a video of each; there are "
            f"{len(videos.classes)} ({', '.join(videos.classes[:20])})"
            + (f", without a video: {', '.join(empty)}" if empty else "")
        )


def _refuse_unlabeled(manifest: Manifest, name: str) -> None:
    unlabeled = int((~manifest.labeled).sum())
    if unlabeled:
        raise ManifestError(
            f"{name}: {unlabeled} of {len(manifest)} videos have no label; training and validation need a "
            "label for every video"
        )
