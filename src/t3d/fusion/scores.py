"""Scores of models on the videos that temperatures and weights are chosen on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from t3d.data.catalog import open_videos, refuse_other_targets, refuse_unlabeled
from t3d.data.clips.check import open_all, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import Scores
from t3d.evaluation.scoring import score_videos
from t3d.fusion.config import CalibrateConfig, FuseConfig
from t3d.fusion.fit import refuse_one_group
from t3d.fusion.network import Trained


def validation_videos(
    config: FuseConfig | CalibrateConfig, classes: Sequence[str], *, model: str
) -> Manifest:
    """Open the labeled videos of a command.

    Args:
        config: Options of the command.
        classes: Class names of the models.
        model: Name of a model, for messages.

    Raises:
        ManifestError: The videos or their labels cannot be used, or are of one group.
    """
    manifest = open_videos(config.videos, root=config.reading.root, classes=config.reading.classes)
    refuse_other_targets(manifest, "single", name=config.videos, other=model)
    refuse_unlabeled(manifest, name=config.videos)
    manifest = manifest.with_classes(classes, name=config.videos, owner="the model")
    manifest = manifest.select(manifest.labeled)
    refuse_one_group(manifest.table["source"].to_pylist())  # before the models score the videos
    return manifest


def scores_of(
    member: Trained, manifest: Manifest, config: FuseConfig | CalibrateConfig, index: VideoIndex | None
) -> Scores:
    """Return a model's scores, with the classes in the order of the manifest.

    Args:
        member: The model.
        manifest: The videos.
        config: Options of the command.
        index: Index of the files.

    Raises:
        ManifestError: Too many videos cannot be read.
    """
    spec, reading = member.card.clip, config.reading
    store = FrameStore(
        spec, cache=reading.cache, index=index, limits=reading.limits, image_fps=reading.image_fps
    )
    if reading.cache:
        open_all(manifest, store, workers=config.compute.workers)  # scoring reports what cannot be read
    scores = score_videos(
        member.net,
        manifest,
        Protocol(spec),
        store=store,
        compute=config.compute,
        shown=f"Scoring with {member.name}",
    )
    refuse_many(scores.bad, among=len(manifest), max_bad=config.reading.max_bad, option="max_bad")
    order = [member.card.classes.index(name) for name in manifest.classes]
    return replace(scores, clip_probs=scores.clip_probs[:, order], video_probs=scores.video_probs[:, order])
