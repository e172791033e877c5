"""Compare models on the same labeled videos: accuracy, paired differences, size and speed.

Legend: V videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import CheckpointError, ManifestError
from t3d.evaluation.config import CompareConfig, TestConfig
from t3d.evaluation.difference import Difference, difference, right_answers
from t3d.evaluation.figures import Interval, accuracy_interval
from t3d.evaluation.run_test import TestResult, run_test
from t3d.evaluation.scoring import clip_scores
from t3d.models.flops import model_size
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import files_of
from t3d.runtime.load import ScoringModel, by_file, load, read_model_card
from t3d.timing import Call, Rounds, alternate, waiting

_ROUNDS = Rounds(fewest=7, most=7)


@dataclass(frozen=True)
class Cost:
    """Cost of a model.

    Args:
        megabytes: Size of its parameters as 32-bit numbers, or of its files if it is exported.
        gmac: Billions of multiply-accumulates per clip.
        ms_per_clip: Milliseconds of the network for one clip, batch size 1: median of alternating passes.
        clips_per_video: Mean number of clips of a tested video.
    """

    megabytes: float
    gmac: float
    ms_per_clip: float
    clips_per_video: float

    @property
    def ms_per_video(self) -> float:
        """Milliseconds of the network for one video, without reading it."""
        return self.ms_per_clip * self.clips_per_video


@dataclass(frozen=True)
class Compared:
    """One model of a comparison.

    Args:
        model: Its name, as given.
        correct: Number of videos that it gets right.
        accuracy: Share of the videos that it gets right.
        interval: 95 % interval of the accuracy.
        cost: Its size and speed.
        difference: Its difference from the first model. None for the first.
    """

    model: str
    correct: int
    accuracy: float
    interval: Interval
    cost: Cost
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """Models on the same labeled videos.

    Args:
        rows: The models, in the order given.
        videos: Number of videos that every model could read.
        bad: Number of videos left out because a model could not read them.
        threads: Threads that the network used for the timing, on a CPU.
        device: Device of the timing.
        notes: Remarks about videos that could not be read, or that a model was trained on.
    """

    rows: tuple[Compared, ...]
    videos: int
    bad: int
    threads: int
    device: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as a JSON value."""
        values = asdict(self)
        for row, value in zip(self.rows, values["rows"], strict=True):
            value["cost"]["ms_per_video"] = row.cost.ms_per_video
        return values

    def sentences(self) -> list[str]:
        """Say which model is the most accurate, and whether another one costs less at about its accuracy."""
        best = max(self.rows, key=lambda row: row.accuracy)
        cheapest = min(self.rows, key=lambda row: row.cost.ms_per_video)
        spoken = [f"Most accurate: {best.model}, {best.accuracy:.1%} of {self.videos:,} videos."]
        if cheapest is not best:
            times = f"{best.cost.ms_per_video / cheapest.cost.ms_per_video:.1f}"
            points = f"{100 * (best.accuracy - cheapest.accuracy):.1f}"
            speed = "about as fast per video" if times == "1.0" else f"{times} times as fast per video"
            accuracy = "as accurate" if points == "0.0" else f"{points} points less accurate"
            spoken.append(f"Fastest: {cheapest.model}, {speed}, {accuracy}.")
        unclear = [row.model for row in self.rows if row.difference is not None and not row.difference.clear]
        if unclear:
            spoken.append(
                f"Not clearly different from {self.rows[0].model} on these videos: {', '.join(unclear)}."
            )
        return spoken


def compare(config: CompareConfig) -> Comparison:
    """Test models on the same videos, and measure their size and speed.

    Args:
        config: The models, and the labeled videos.

    Raises:
        CheckpointError: A file is not a model with a classifier, or a model has several labels per video.
        ManifestError: The videos cannot be used with every model, or no video is readable for all.
    """
    _refuse_several_labels(config)
    results = [
        run_test(
            TestConfig(
                model,
                config.videos,
                allow_unfinished=config.allow_unfinished,
                reading=config.reading,
                compute=config.compute,
            )
        )
        for model in config.models
    ]
    broken = {failed.row for result in results for failed in result.scores.bad}
    kept = np.array([row for row in range(len(results[0].scores.paths)) if row not in broken], dtype=np.int64)
    if not len(kept):
        raise ManifestError(f"{config.videos}: no video could be read for every model")
    right = [right_answers(result.scores)[kept] for result in results]
    named = results[0].scores.groups
    groups = [named[row] for row in kept] if named else None
    costs = _costs(config, results)
    rows = tuple(
        Compared(
            model,
            int(each.sum()),
            float(each.mean()),
            accuracy_interval(each, groups),
            cost,
            difference(each, right[0], groups) if number else None,
        )
        for number, (model, each, cost) in enumerate(zip(config.models, right, costs, strict=True))
    )
    device = config.compute.pick_device()
    return Comparison(
        rows, len(kept), len(broken), torch.get_num_threads(), str(device), _notes(config, results)
    )


def _refuse_several_labels(config: CompareConfig) -> None:
    """Raise an error if a model cannot be compared, before the first one is tested."""
    for model in config.models:
        card = read_model_card(model, allow_unfinished=config.allow_unfinished)
        if card is not None and card.targets != "single":
            raise CheckpointError(
                f"{model}: this model gives several labels per video; only models with one label per video "
                "can be compared"
            )


def _notes(config: CompareConfig, results: Sequence[TestResult]) -> tuple[str, ...]:
    """Return remarks about videos that could not be read, or that a model was trained on."""
    bad = dict.fromkeys(str(failed) for result in results for failed in result.scores.bad)
    seen = [
        f"{model}: {' '.join(overlap.sentences())}"
        for model, result in zip(config.models, results, strict=True)
        for overlap in result.overlaps
        if overlap.shared
    ]
    return *(f"{failed} (left out)" for failed in bad), *seen


def _costs(config: CompareConfig, results: Sequence[TestResult]) -> list[Cost]:
    """Measure size and speed. The models take turns, so that a busy machine slows all of them alike."""
    device = config.compute.pick_device()
    loaded = [
        load(
            model,
            runtime=by_file(model, "auto"),
            compute=config.compute,
            allow_unfinished=config.allow_unfinished,
        )
        for model in config.models
    ]
    calls: dict[str, Call] = {}
    with ExitStack() as stack:
        for number, (model, card) in enumerate(loaded):
            scores = stack.enter_context(clip_scores(model, card.clip, config.compute))
            calls[str(number)] = partial(scores, _one_clip(card.clip, device))
        times = alternate(calls, _ROUNDS, wait=waiting(device)).times.values()
    return [
        Cost(
            *_size(model, card),
            1000 * time.median,
            len(result.scores.clip_video) / max(1, len(np.unique(result.scores.clip_video))),
        )
        for time, (model, card), result in zip(times, loaded, results, strict=True)
    ]


def _size(model: ScoringModel, card: ModelCard) -> tuple[float, float]:
    """Return megabytes, and billions of multiply-accumulates per clip."""
    spec = card.clip
    size = model_size(
        card.architecture,
        num_classes=len(card.classes),
        options=card.options,
        num_frames=spec.num_frames,
        size=spec.size,
    )
    bytes_ = 4 * size.parameters
    if isinstance(model, ExportedModel):
        bytes_ = sum(path.stat().st_size for path in files_of(model.path, model.runtime))
    return bytes_ / 1e6, spec.segments * size.macs / 1e9


def _one_clip(spec: ClipSpec, device: torch.device) -> torch.Tensor:
    """Return a black clip, uint8 [1, S·T, 3, size, size]."""
    frames = spec.segments * spec.num_frames
    return torch.zeros(1, frames, 3, spec.size, spec.size, dtype=torch.uint8, device=device)
