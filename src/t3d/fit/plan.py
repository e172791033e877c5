"""Plan of a fit: which models, which clips, how many epochs, and how long each step takes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from t3d.errors import ConfigError
from t3d.fit.config import Candidate, FitConfig
from t3d.fit.look import Looked
from t3d.fit.speeds import Speeds
from t3d.io.files import atomic_path
from t3d.progress import in_words

FRAMES = 8
"""Frames per clip of the 2D network."""
FRAMES_SECONDS = 5.12
"""Longest clip of the 2D network. Eight frames of it are as accurate as more (docs/project/results.md)."""
CLIP_FRAMES, CLIP_SECONDS = 16, 2.56
"""Frames and longest clip of the 3D network, as in the recipe `transfer-few-labels`."""
BATCH = 16
_WANTED_STEPS, _MOST_EPOCHS = 3000, 200
_LEAST_STEPS, _LEAST_EPOCHS = 100, 5  # below either, a 3D network learns too little to be worth the time
_FINE = 16  # parts of a frame per second; a power of 2, so that multiples are exact
_FEATURE_STEP = 8  # every eighth frame has a stored feature of the teacher
_LEAST_GROUPS = 3  # recordings of a class, one each for training, validation and test
_LEAST_CLASSES = 2  # classes with this many recordings
_START = 8.0  # seconds to start a step: imports, opening files
_EXPORT = 25.0  # seconds to convert, check and time a small network
_SPARE = 0.85  # share of the minutes that is planned; the rest is for what was estimated too low


@dataclass(frozen=True)
class Plan:
    """Steps of a fit. Everything that was chosen is here, so that the same plan gives the same models.

    Args:
        candidates: Models to train.
        epochs: Epochs of the 3D network; 0 without one.
        taught: Whether the 2D network teaches it.
        batch_size: Its clips per step.
        clip_fps: Its frames per second.
        frames_fps: Frames per second of the 2D network.
        val_fraction: Share of the videos that the choice is made on. 0 if there is nothing to choose.
        seconds: Estimated seconds of each step that is left, by its name, in order.
        remarks: Reasons for what was left out.
    """

    candidates: tuple[Candidate, ...]
    epochs: int
    taught: bool
    batch_size: int
    clip_fps: float
    frames_fps: float
    val_fraction: float
    seconds: dict[str, float]
    remarks: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the plan as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan that `write` wrote.

        Raises:
            ConfigError: The file is damaged.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            tuples = {name: tuple(values[name]) for name in ("candidates", "remarks")}
            return cls(**{**values, **tuples})
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} is damaged ({error}); start again in another `out`, or set `overwrite`"
            ) from error


def make_plan(config: FitConfig, looked: Looked, speeds: Speeds, *, spent: float) -> Plan:
    """Choose models, clips and epochs for the time that is left.

    Args:
        config: Options of the fit.
        looked: What is known about the videos.
        speeds: What this machine takes.
        spent: Seconds spent so far.

    Raises:
        ConfigError: The time is too short for the smallest model.
    """
    lengths = looked.seconds(looked.videos)
    middle = float(np.median(lengths)) or CLIP_SECONDS
    clip_seconds = config.clip_seconds or min(CLIP_SECONDS, middle)
    clip_fps, frames_fps = frame_rates(clip_seconds, min(FRAMES_SECONDS, middle))
    remarks: list[str] = []
    candidates = _possible(config, looked, speeds, remarks)
    taught = speeds.teacher is not None and looked.videos.targets == "single"
    held = 0.0 if config.test else config.shares.test_fraction
    trained = max(2, round(len(looked.videos.sources()) * (1 - held - config.shares.val_fraction)))
    batch = min(BATCH, trained)
    work = _Work.of(
        looked,
        lengths,
        clip_seconds,
        held=held,
        val=config.shares.val_fraction,
        taught=taught and "network" in candidates,
    )
    seconds = _fixed(config, work, speeds, candidates)
    left = 60 * config.minutes * _SPARE - spent - sum(seconds.values())
    epochs = 0
    if "network" in candidates:
        # Decoding for the cache of frames, and once more for the features of the teacher.
        reading = (1 + taught) * (work.seconds + work.more) * speeds.reading
        start = _START + reading + work.taught_frames * speeds.feature
        epoch = work.epoch(speeds, batch)
        epochs = config.epochs or _epochs(left - start, epoch, steps=work.steps(batch))
        if not epochs and "frames" in candidates:
            needed = (start + epoch * _least(work.steps(batch)) - left) / 60 + config.minutes
            candidates = tuple(name for name in candidates if name != "network")
            remarks.append(
                f"There is no time for a 3D network: it needs about {math.ceil(needed)} minutes in all"
            )
            seconds = _fixed(config, work, speeds, candidates)
        elif not epochs:
            epochs = _least(work.steps(batch))
        if epochs:
            seconds = {**seconds, "network": start + epochs * epoch}
    if looked.unlabeled is not None and not (taught and "network" in candidates):
        remarks.append("The videos without labels are not used, because no 3D network learns from them")
    several = len(candidates) > 1
    plan = Plan(
        candidates,
        epochs,
        taught,
        batch,
        clip_fps,
        frames_fps,
        config.shares.val_fraction if several else 0.0,
        {name: seconds[name] for name in STEPS if name in seconds},
        tuple(remarks),
    )
    _refuse_too_long(config, plan, spent)
    return plan


def frame_rates(clip_seconds: float, frames_seconds: float) -> tuple[float, float]:
    """Return the frames per second of the 3D and the 2D network.

    The first is a multiple of the second, so that the average of both finds the frames of both in one clip.

    Args:
        clip_seconds: Length of a clip of the 3D network.
        frames_seconds: Length of a clip of the 2D network, about.

    Example:
        >>> frame_rates(2.56, 5.12), frame_rates(1.64, 1.64)
        ((6.25, 1.5625), (9.75, 4.875))
    """
    wanted = CLIP_FRAMES / clip_seconds
    times = max(1, round(wanted * frames_seconds / FRAMES))
    slow = max(1, round(_FINE * wanted / times)) / _FINE
    return times * slow, slow


STEPS = ("frames", "network", "choice", "test", "orders", "export")
"""Steps after the plan, in order."""


def _possible(config: FitConfig, looked: Looked, speeds: Speeds, remarks: list[str]) -> tuple[Candidate, ...]:
    """Return the candidates that these videos and this machine allow.

    Raises:
        ConfigError: The only candidate that was asked for is not possible.
    """
    candidates = config.candidates
    reason = speeds.no_teacher if speeds.teacher is None else ""
    if looked.videos.targets == "multi":
        reason = "Videos have several labels each, so only a 3D network is trained, without a teacher"
    if reason and candidates == ("frames",):
        raise ConfigError(f"candidates is frames, which is not possible here. {reason}")
    if reason:
        remarks.append(reason)
        return ("network",)
    if len(candidates) > 1 and (few := _few_groups(config, looked)):
        remarks.append(few)
        return ("frames",)
    return candidates


def _few_groups(config: FitConfig, looked: Looked) -> str:
    """Return why there is nothing to choose on; empty if there is."""
    videos = looked.videos
    needed = _LEAST_GROUPS - (config.test is not None)
    sources = np.array(videos.table["source"].to_pylist(), dtype=object)
    counts = [len(set(sources[videos.labels == label])) for label in range(len(videos.classes))]
    if sum(count >= needed for count in counts) >= _LEAST_CLASSES:
        return ""
    return (
        f"To compare two models, at least {_LEAST_CLASSES} classes need videos of {needed} recordings each, "
        "so only the 2D network is trained"
    )


@dataclass(frozen=True)
class _Work:
    """Amounts of work, from the lengths of the videos.

    Args:
        rows: Videos that are learned from, those without labels included.
        seconds: Length of the labeled ones.
        more: Length of those without labels.
        val: Length of the validation videos.
        test: Length of the test videos.
        frames: Frames of the 2D network in training and validation videos.
        taught_frames: Frames whose features teach the 3D network.
        clip_seconds: Length of a clip of the 3D network.
    """

    rows: int
    seconds: float
    more: float
    val: float
    test: float
    frames: float
    taught_frames: float
    clip_seconds: float

    @classmethod
    def of(
        cls,
        looked: Looked,
        lengths: np.ndarray,
        clip_seconds: float,
        *,
        held: float,
        val: float,
        taught: bool,
    ) -> _Work:
        more = looked.seconds(looked.unlabeled if taught else None)
        total = float(lengths.sum())
        test = float(looked.seconds(looked.test).sum()) if looked.test is not None else held * total
        trained = (1 - held - val) * total
        rows = math.ceil(len(lengths) * (1 - held - val)) + len(more)
        rate = float(next(iter(looked.summary.rates), 25))
        clips = lengths.clip(max=FRAMES_SECONDS).sum() / len(lengths)
        frames = FRAMES * (trained + val * total) / max(clips, 0.1)
        extra = float(more.sum())
        taught_frames = (trained + extra) * rate / _FEATURE_STEP if taught else 0.0
        return cls(rows, trained, extra, val * total, test, frames, taught_frames, clip_seconds)

    def steps(self, batch: int) -> int:
        """Return the optimizer steps of an epoch."""
        return max(1, self.rows // batch)

    def epoch(self, speeds: Speeds, batch: int) -> float:
        """Return the seconds of an epoch."""
        return self.steps(batch) * batch * speeds.trained_clip

    def scored(self, seconds: float, speeds: Speeds, candidates: Sequence[str]) -> float:
        """Return the seconds of scoring videos of this length with these models."""
        reading = seconds * speeds.reading * len(candidates)
        frames = FRAMES * seconds / FRAMES_SECONDS * speeds.feature * ("frames" in candidates)
        clips = seconds / self.clip_seconds * speeds.scored_clip * ("network" in candidates)
        return reading + frames + clips


def _fixed(
    config: FitConfig, work: _Work, speeds: Speeds, candidates: Sequence[Candidate]
) -> dict[str, float]:
    """Return the seconds of the steps whose length cannot be chosen."""
    seconds = {}
    if "frames" in candidates:
        reading = (work.seconds + work.val) * speeds.reading
        seconds["frames"] = _START + reading + work.frames * speeds.feature
    if len(candidates) > 1:
        seconds["choice"] = _START + work.scored(work.val, speeds, candidates)
    seconds["test"] = _START + work.scored(work.test, speeds, candidates)
    seconds["orders"] = 2 * seconds["test"]  # shuffled and static
    if config.export:
        seconds["export"] = _EXPORT * len(candidates)
    return seconds


def _least(steps: int) -> int:
    """Return the smallest number of epochs that is worth the time."""
    return max(_LEAST_EPOCHS, math.ceil(_LEAST_STEPS / steps))


def _epochs(left: float, epoch: float, *, steps: int) -> int:
    """Return the epochs that fit into the time; 0 if they are too few to learn anything."""
    wanted = min(_MOST_EPOCHS, max(_least(steps), math.ceil(_WANTED_STEPS / steps)))
    epochs = min(wanted, int(left / epoch)) if left > 0 else 0
    return epochs if epochs >= _least(steps) else 0


def _refuse_too_long(config: FitConfig, plan: Plan, spent: float) -> None:
    """Refuse a plan that takes much longer than it may.

    Raises:
        ConfigError: See above.
    """
    total = spent + sum(plan.seconds.values())
    if total > 60 * config.minutes * 1.5 and config.epochs is None:
        raise ConfigError(
            f"minutes is {config.minutes:g}, but this takes about {in_words(total)} "
            f"({in_words(spent)} so far). Set `minutes` to at least {math.ceil(total / 60)}, or give fewer "
            "videos"
        )


def plan_sentences(config: FitConfig, plan: Plan) -> list[str]:
    """Return the plan in plain sentences."""
    lines = []
    if "frames" in plan.candidates:
        lines.append(
            f"frames: {config.teacher} on {FRAMES} frames per clip, with a linear classifier; about "
            f"{in_words(plan.seconds['frames'])}"
        )
    if "network" in plan.candidates:
        taught = f", taught by {config.teacher}" if plan.taught else ""
        lines.append(
            f"network: {config.student} on {CLIP_FRAMES} frames of {config.size} × {config.size} in "
            f"{CLIP_FRAMES / plan.clip_fps:.2g} s, {plan.epochs} epochs{taught}; about "
            f"{in_words(plan.seconds['network'])}"
        )
    if len(plan.candidates) > 1:
        lines.append("both: the average of the two")
    return [*lines, *plan.remarks]
