"""The plan of a fit: it uses the time that is given, and says what it leaves out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from t3d.clip import ClipSpec
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError
from t3d.fit.config import FitConfig
from t3d.fit.plan import Plan, make_plan, plan_sentences
from t3d.fit.speeds import Speeds
from t3d.models.fused_clip import shared_clip

SPEEDS = Speeds(reading=0.01, feature=0.005, trained_clip=0.03, scored_clip=0.01, teacher=SimpleNamespace())  # type: ignore[arg-type]


def looked(per_class: int, *, seconds: float = 4.0, unlabeled: int = 0, classes: int = 2) -> Any:
    """Return what is known about videos of one length, each its own recording."""
    count = per_class * classes

    def manifest(size: int, labels: list[int | None]) -> Manifest:
        names = [f"/{size}/{number}.mp4" for number in range(size)]
        table = {"path": names, "label": labels, "start": [0.0] * size, "end": [seconds] * size}
        return Manifest(tuple("abcdefgh"[:classes]), pa.table(table | {"source": names}))

    return SimpleNamespace(
        videos=manifest(count, [number % classes for number in range(count)]),
        unlabeled=manifest(unlabeled, [None] * unlabeled) if unlabeled else None,
        test=None,
        summary=SimpleNamespace(rates={"25": count}),
        seconds=lambda videos: np.full(0 if videos is None else len(videos), seconds),
    )


def plan(seen: Any, *, minutes: float = 20.0, speeds: Speeds = SPEEDS, **options: Any) -> Plan:
    return make_plan(FitConfig("clips", minutes=minutes, **options), seen, speeds, spent=5.0)


@pytest.mark.parametrize("minutes", [15.0, 20.0, 40.0])
def test_the_3d_network_trains_for_the_time_that_is_left(minutes: float) -> None:
    made = plan(looked(500, seconds=5.0), minutes=minutes)
    assert made.candidates == ("frames", "network")
    total = 5 + sum(made.seconds.values())
    assert 0.7 * 60 * minutes < total <= 0.86 * 60 * minutes


def test_few_videos_do_not_need_all_the_time() -> None:
    made = plan(looked(25), minutes=600)
    assert made.epochs == 200
    assert sum(made.seconds.values()) < 60 * 60


def test_without_time_only_frames_are_used() -> None:
    made = plan(looked(2000, seconds=8.0), minutes=60)
    assert made.candidates == ("frames", "network")
    slow = Speeds(reading=0.01, feature=0.001, trained_clip=2.0, scored_clip=0.1, teacher=SPEEDS.teacher)
    made = plan(looked(2000, seconds=8.0), minutes=60, speeds=slow)
    assert made.candidates == ("frames",)
    assert made.epochs == 0
    assert made.val_fraction == 0  # nothing to choose, so these videos are trained on
    assert "network" not in made.seconds
    assert "There is no time for a 3D network" in made.remarks[0]


def test_more_than_the_time_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match=r"minutes is 2, but this takes about .* Set `minutes` to at least"):
        plan(looked(4000, seconds=60.0), minutes=2)


def test_two_recordings_per_class_are_too_few_to_choose_on() -> None:
    made = plan(looked(2))
    assert made.candidates == ("frames",)
    assert "at least 2 classes need videos of 3 recordings each" in made.remarks[0]
    made = plan(looked(3))
    assert made.candidates == ("frames", "network")
    assert made.batch_size == 4  # as many recordings as are trained on


def test_without_a_teacher_a_3d_network_learns_from_labels() -> None:
    alone = Speeds(0.05, 0.0, 0.03, 0.01, teacher=None, no_teacher="No weights")
    made = plan(looked(50), speeds=alone)
    assert made.candidates == ("network",)
    assert not made.taught
    assert made.remarks == ("No weights",)


@pytest.mark.parametrize(
    ("seconds", "clip_fps", "frames_fps"), [(10.0, 6.25, 1.5625), (1.6, 10.0, 5.0), (0.64, 25.0, 12.5)]
)
def test_clips_last_as_long_as_the_videos_allow(seconds: float, clip_fps: float, frames_fps: float) -> None:
    made = plan(looked(30, seconds=seconds))
    assert (made.clip_fps, made.frames_fps) == (clip_fps, frames_fps)


@pytest.mark.parametrize("seconds", [0.2, 0.64, 1.0, 1.64, 1.7, 2.2, 3.0, 3.3, 4.0, 7.1, 60.0])
def test_both_models_find_their_frames_in_one_clip(seconds: float) -> None:
    made = plan(looked(30, seconds=seconds))
    clips = [ClipSpec(16, fps=made.clip_fps), ClipSpec(8, fps=made.frames_fps)]
    assert shared_clip(clips).num_frames <= 64
    clip_seconds = 16 / made.clip_fps  # as the command of the report gives it
    again = plan(looked(30, seconds=seconds), clip_seconds=clip_seconds)
    assert (again.clip_fps, again.frames_fps) == (made.clip_fps, made.frames_fps)


def test_given_choices_are_kept() -> None:
    made = plan(looked(30), epochs=7, clip_seconds=1.0)
    assert made.epochs == 7
    assert made.clip_fps == 16
    assert plan(looked(30), candidates=("frames",)).candidates == ("frames",)


def test_one_class_with_enough_recordings_is_not_enough() -> None:
    seen = looked(3)
    seen.videos = seen.videos.select([0, 1, 2, 4])  # three of class a, one of class b
    assert plan(seen).candidates == ("frames",)


def test_what_is_not_possible_is_refused() -> None:
    alone = Speeds(0.05, 0.0, 0.03, 0.01, teacher=None, no_teacher="No weights")
    with pytest.raises(ConfigError, match=r"candidates is frames, which is not possible here\. No weights"):
        plan(looked(50), speeds=alone, candidates=("frames",))


def test_videos_that_nothing_learns_from_cost_nothing() -> None:
    made = plan(looked(30, unlabeled=100_000), candidates=("frames",))
    assert made.seconds == plan(looked(30), candidates=("frames",)).seconds
    assert "videos without labels are not used" in made.remarks[-1]


def test_unlabeled_videos_make_epochs_longer() -> None:
    few, many = plan(looked(30)), plan(looked(30, unlabeled=1000))
    assert many.epochs < few.epochs


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = plan(looked(30))
    made.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == made
    (tmp_path / "plan.json").write_text('{"epochs": 3}')
    with pytest.raises(ConfigError, match="is damaged"):
        Plan.read(tmp_path / "plan.json")


def test_sentences_describe_the_plan() -> None:
    lines = plan_sentences(FitConfig("clips"), plan(looked(30)))
    assert lines[0].startswith("frames: lite0 on 8 frames per clip, with a linear classifier; about")
    assert lines[1].startswith("network: t3d_tiny on 16 frames of 64 × 64 in 2.6 s, ")
    assert "taught by lite0" in lines[1]
    assert len(lines) == 3
