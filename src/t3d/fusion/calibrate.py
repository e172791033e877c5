"""Calibrate the probabilities of a model (`t3d calibrate`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from t3d.data.catalog import open_index
from t3d.errors import CheckpointError, ConfigError, ManifestError
from t3d.evaluation.calibration import calibration
from t3d.evaluation.leaks import shared_with_run, sharing_sentence
from t3d.fusion.config import CalibrateConfig
from t3d.fusion.fit import clip_scores, cross_validated, fit, mean_loss
from t3d.fusion.network import load_members
from t3d.fusion.scores import scores_of, validation_videos
from t3d.models.fusion import FUSED
from t3d.models.net import VideoNet
from t3d.models.weights import save_model
from t3d.models.weights_header import read_card
from t3d.runtime.formats import exported_format


@dataclass(frozen=True)
class CalibrationResult:
    """Result of a calibration.

    Args:
        temperature: Number that the scores are divided by before the softmax. Above 1, the model was too
            confident.
        videos: Number of videos.
        loss_before: Mean negative log-likelihood per video, in nats, of the model.
        loss: The same with a temperature that was chosen on videos of other groups.
        error_before: Expected calibration error of the model.
        error: The same with a temperature that was chosen on videos of other groups.
        out: The weights file written.
        notes: Remarks about the videos.
        bad: Number of videos that could not be read.
    """

    temperature: float
    videos: int
    loss_before: float
    loss: float
    error_before: float
    error: float
    out: str
    notes: tuple[str, ...] = ()
    bad: int = 0

    def sentences(self) -> list[str]:
        """Return the result in plain sentences."""
        kind = "too confident" if self.temperature > 1 else "too cautious"
        first = (
            f"Temperature {self.temperature:.2f}: the model was {kind}. On {self.videos:,} videos, "
            f"cross-validated over groups, the expected calibration error is {100 * self.error:.1f} points "
            f"(before: {100 * self.error_before:.1f}), and the NLL {self.loss:.3f} "
            f"(before: {self.loss_before:.3f})."
        )
        pays = [] if self.loss < self.loss_before else ["Calibration does not pay on these videos."]
        return [first, *pays, f"model: {self.out}", *self.notes]

    def to_json(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self)


def run_calibrate(config: CalibrateConfig) -> CalibrationResult:
    """Choose a temperature, and write the model with its classifier divided by it.

    The most probable class of a clip does not change. That of a video can change, because the probabilities
    of its clips are averaged.

    Args:
        config: Options.

    Returns:
        The temperature and figures.

    Raises:
        CheckpointError: The weights cannot be used, or give several labels per video.
        ConfigError: `out` exists, or the model is a fused one, which is calibrated already.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
        WriteError: The file cannot be written.
    """
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise ConfigError(f"{out} already exists; choose another `out`, or set `overwrite`")
    _refuse_kind(config)
    (member,) = load_members(
        [config.model], device=config.compute.pick_device(), allow_unfinished=config.allow_unfinished
    )
    manifest = validation_videos(config, member.card.classes, model=config.model)
    index = open_index(config.reading.index, config.videos, root=config.reading.root)
    seen = shared_with_run(config.model, manifest, index, name=config.videos).get("training")
    scores = scores_of(member, manifest, config, index)
    rows = np.setdiff1d(np.arange(len(manifest)), [failed.row for failed in scores.bad])
    if not len(rows):
        raise ManifestError(f"{config.videos}: none of the videos can be read")
    clips = clip_scores(scores, rows)
    (temperature,) = fit([clips]).temperatures
    groups = manifest.select(rows).table["source"].to_pylist()
    probs, raw = cross_validated([clips], groups)[0], clips.averaged(1)
    card = replace(
        member.card,
        provenance={**member.card.provenance, "temperature": temperature, "calibrated_on": config.videos},
    )
    save_model(divided(member.net, temperature), out, card=card)
    notes = [f"{failed} (left out)" for failed in scores.bad]
    if seen:
        notes.append(
            sharing_sentence(seen, tested="validation", other="training")
            + " The model is more confident of them. Use videos that it has not seen."
        )
    return CalibrationResult(
        temperature,
        len(rows),
        mean_loss(raw, clips.labels),
        mean_loss(probs, clips.labels),
        calibration(raw, clips.labels).error,
        calibration(probs, clips.labels).error,
        config.out,
        tuple(notes),
        len(scores.bad),
    )


def _refuse_kind(config: CalibrateConfig) -> None:
    """Raise an error for a model that this does not calibrate.

    Raises:
        CheckpointError: It has several labels per video, or is an exported file.
        ConfigError: It is a fused model.
    """
    if exported_format(config.model) is not None:
        raise CheckpointError(
            f"{config.model} is an exported file, which cannot be changed; calibrate the run, then export it"
        )
    card = read_card(config.model, allow_unfinished=config.allow_unfinished)
    if card is not None and card.architecture == FUSED:
        raise ConfigError(f"{config.model} is a fused model, which is calibrated already")
    if card is not None and card.targets != "single":
        raise CheckpointError(
            f"{config.model}: this model gives several labels per video; only models with one label per "
            "video can be calibrated"
        )


def divided(net: VideoNet, temperature: float) -> VideoNet:
    """Divide the scores of a network by a temperature, in place: its linear classifier is divided."""
    classifier = net.get_classifier()
    assert isinstance(classifier, nn.Linear)  # `load_members` has checked it
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.div_(temperature)
    return net
