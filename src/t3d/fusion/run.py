"""Make one model of several trained ones (`t3d fuse`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from t3d.data.catalog import open_index
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import video_keys
from t3d.errors import ManifestError
from t3d.evaluation.leaks import shared_with_run, sharing_sentence
from t3d.fusion.config import FuseConfig
from t3d.fusion.fit import ClipScores, Fusion, clip_scores, cross_validated, fit
from t3d.fusion.network import fused_model, load_members
from t3d.fusion.result import FusionResult, line
from t3d.fusion.scores import scores_of, validation_videos
from t3d.io.files import writable_folder
from t3d.models.weights import save_model
from t3d.training.run_folder import RunFolder

COMMAND = "t3d fuse"


def run_fuse(config: FuseConfig) -> FusionResult:
    """Choose temperatures and weights of models, and write their average as one model.

    Each model scores every video with the paper's protocol. Its temperature minimizes the negative
    log-likelihood of the labels, and so do the weights after that. Figures are cross-validated: those of a
    video are from temperatures and weights that were chosen on videos of other groups.

    Args:
        config: Options.

    Returns:
        Figures of the models and of their average.

    Raises:
        CheckpointError: Weights cannot be used, or the models have different classes.
        ConfigError: An option is invalid, or the models' clips do not fit together.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    reading, compute = config.reading, config.compute
    folder = RunFolder(config.out)
    folder.refuse_existing(overwrite=config.overwrite)
    writable_folder(folder.path, name="out")
    members = load_members(
        config.models, device=compute.pick_device(), allow_unfinished=config.allow_unfinished
    )
    classes = members[0].card.classes
    manifest = validation_videos(config, classes, model=config.models[0])
    index = open_index(reading.index, config.videos, root=reading.root)
    seen = _seen_in_training(config, manifest, index)
    trained = _trained_on(config.models, classes)
    scores = [scores_of(member, manifest, config, index) for member in members]
    bad = list({failed.row: failed for each in scores for failed in each.bad}.values())
    rows = np.setdiff1d(np.arange(len(manifest)), [failed.row for failed in bad])
    if not len(rows):
        raise ManifestError(f"{config.videos}: none of the videos can be read")
    clips = [clip_scores(each, rows) for each in scores]
    fusion = fit(clips)
    result = _measured(config, manifest.select(rows), clips, fusion)
    result = replace(result, notes=(*(f"{failed} (left out)" for failed in bad), *seen), bad=len(bad))
    net, card = fused_model(members, weights=fusion.weights, temperatures=fusion.temperatures)
    card = replace(card, provenance={**card.provenance, "videos": config.videos})
    with folder.finished(
        COMMAND,
        asdict(config),
        manifest if trained is None else trained,
        bad,
        val=None if trained is None else manifest,
        replace=config.overwrite,
    ) as part:
        save_model(net, part.last, card=card)
    return result


def _measured(
    config: FuseConfig, manifest: Manifest, clips: Sequence[ClipScores], fusion: Fusion
) -> FusionResult:
    labels: npt.NDArray[np.int64] = manifest.labels
    groups = manifest.table["source"].to_pylist()
    averaged, single = cross_validated(clips, groups)
    members = tuple(
        line(name, probs, model.averaged(1), labels, groups, weight=weight, temperature=temperature)
        for name, probs, model, weight, temperature in zip(
            config.models, single, clips, fusion.weights, fusion.temperatures, strict=True
        )
    )
    fused = line(config.out, averaged, averaged, labels, groups, weight=1.0, temperature=1.0)
    result = FusionResult(members, fused, len(labels), 0, 0)
    best = single[members.index(result.best)].argmax(1) == labels
    right = averaged.argmax(1) == labels
    return replace(result, gained=int((right & ~best).sum()), lost=int((best & ~right).sum()))


def _seen_in_training(config: FuseConfig, manifest: Manifest, index: VideoIndex | None) -> list[str]:
    """Return remarks about videos that models were trained on."""
    notes = []
    for name in config.models:
        shared = shared_with_run(name, manifest, index, name=config.videos).get("training")
        if shared:
            sentence = sharing_sentence(shared, tested="validation", other="training")
            notes.append(f"{name}: {sentence} Its weight may be too large. Use videos that it has not seen.")
    return notes


def _trained_on(models: Sequence[str], classes: Sequence[str]) -> Manifest | None:
    """Return the training videos of the models that are in run folders; None if there are none."""
    joined: Manifest | None = None
    for name in models:
        path = Path(name)
        folder = RunFolder(path if path.is_dir() else path.parent)
        if not (folder.config.is_file() and folder.train_csv.is_file()):
            continue
        videos = Manifest.from_csv(folder.train_csv).with_classes(classes)
        if joined is None:
            joined = videos
            continue
        known = set(video_keys(joined))
        new = np.array([key not in known for key in video_keys(videos)], dtype=np.bool_)
        joined = joined.followed_by(videos.select(new))
    return joined
