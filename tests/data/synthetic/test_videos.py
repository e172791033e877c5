"""The synthetic set: what is drawn, what is on disk, and that one frame does not give the motion away."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import itertools
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy import stats

import t3d.data.synthetic.videos as synthetic
from t3d.data.manifest.manifest import Manifest
from t3d.data.synthetic.scene import (
    ACTIONS,
    APPEARANCES,
    MOTIONS,
    SyntheticSpec,
    appearance_of,
    draw_video,
    motion_track,
)
from t3d.data.synthetic.videos import videos_of, write_synthetic
from t3d.errors import ConfigError
from t3d.video.video import Video

SMALL = SyntheticSpec(train=2, val=0, test=1, frames=10, size=48)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished set; tests copy it before they change it."""
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "a set", SMALL, workers=1)


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished set."""
    return shutil.copytree(finished, tmp_path / "set")


def wrapped(steps: np.ndarray, size: int) -> np.ndarray:
    """The shorter way round the torus."""
    return (steps + size / 2) % size - size / 2


def color_center(frames: np.ndarray) -> np.ndarray:
    """Center of the saturated pixels of each frame on the torus, found without the track: [T, 2]."""
    f = frames.astype(np.int64)
    saturated = (f.max(1) - f.min(1)) > 70  # T H W
    size = frames.shape[-1]
    turns = np.exp(2j * np.pi * np.arange(size) / size)
    centers = []
    for mask in saturated:
        x, y = np.angle((mask.sum(0) * turns).sum()), np.angle((mask.sum(1) * turns).sum())
        centers.append((x % (2 * np.pi) * size / (2 * np.pi), y % (2 * np.pi) * size / (2 * np.pi)))
    return np.array(centers)


# --- what is drawn ------------------------------------------------------------------------------------------


def test_a_video_is_drawn_from_its_own_number_alone() -> None:
    first = draw_video(SyntheticSpec(), "train", "left", 3)
    assert first.dtype == np.uint8
    assert first.shape == (40, 3, 80, 80)
    assert np.array_equal(first, draw_video(SyntheticSpec(train=500, test=1), "train", "left", 3))
    others = [("train", "left", 4), ("train", "right", 3), ("test", "left", 3)]
    assert all(not np.array_equal(first, draw_video(SyntheticSpec(), *other)) for other in others)
    assert not np.array_equal(first, draw_video(SyntheticSpec(seed=1), "train", "left", 3))


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_patterned_object_follows_the_track(motion: str) -> None:
    spec = SyntheticSpec(distractors=1, clutter=2)
    for index in range(3):
        track = motion_track(spec, "test", motion, index)
        off = wrapped(color_center(draw_video(spec, "test", motion, index)) - track, spec.size)
        assert np.abs(off).max() < 1


def same_after(shift: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]], index: int) -> float:
    """Share of the object's places that are as bright or dark as those `shift` takes them to."""
    spec = SyntheticSpec(distractors=0, clutter=0)
    bright = draw_video(spec, "val", "left", index)[0].max(0)
    center = motion_track(spec, "val", "left", index)[0]
    x, y = (place.ravel() for place in np.meshgrid(np.arange(-9, 10), np.arange(-9, 10)))
    x, y = (place[(np.hypot(x, y) > 4) & (np.hypot(x, y) < 9)] for place in (x, y))

    def crest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        column, row = (np.rint(at + way).astype(int) % 80 for at, way in zip(center, (x, y), strict=True))
        return bright[row, column]

    before, after = crest(x, y), crest(*shift(x, y))
    middle = (float(before.min()) + float(before.max())) / 2
    return float(((before > middle) == (after > middle)).mean())


def test_the_object_has_the_pattern_of_its_label() -> None:
    shifts = {
        "level": [lambda x, y: (x + 3, y)],
        "upright": [lambda x, y: (x, y + 3)],
        "slanted": [lambda x, y: (x + 3, y + 3), lambda x, y: (x + 3, y - 3)],
        "rings": [lambda x, y: (-y, x)],
        "rays": [lambda x, y: (1.6 * x, 1.6 * y)],
    }
    for index in range(24):
        kept = {name for name, ways in shifts.items() if max(same_after(way, index) for way in ways) > 0.8}
        assert kept == {appearance_of(SyntheticSpec(), "val", "left", index)} & set(shifts)


@pytest.mark.long
def test_colors_do_not_reveal_the_pattern() -> None:
    spec = SyntheticSpec(distractors=0, clutter=0)
    hues: dict[str, list[float]] = {name: [] for name in APPEARANCES}
    for index in range(160):
        frame = draw_video(spec, "val", "left", index)[0].astype(np.float64)
        red, green, blue = frame[:, frame.max(0) - frame.min(0) > 70].mean(1)
        hue = np.arctan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)
        hues[appearance_of(spec, "val", "left", index)].append(hue)
    assert stats.kruskal(*hues.values()).pvalue > 1e-3


def test_the_scene_moves_with_the_camera_and_stands_still_without() -> None:
    still = SyntheticSpec(camera_shake=0, distractors=0)
    frames = draw_video(still, "train", "clockwise", 0)
    away = wrapped(np.arange(80) - motion_track(still, "train", "clockwise", 0)[..., None], 80)  # T 2 80
    gray = (np.hypot(away[:, 0, None, :], away[:, 1, :, None]) > 20).all(0)  # the object never comes near
    assert 0.5 < gray.mean() < 1
    assert (frames[:, :, gray] == frames[:1, :, gray]).all()
    assert (frames[:, :, ~gray] != frames[:1, :, ~gray]).any()
    shaken = draw_video(dataclasses.replace(still, camera_shake=2), "train", "clockwise", 0)
    assert (shaken[1:] != shaken[:-1]).mean() > 0.3


def test_every_motion_matches_its_name() -> None:
    spec = SyntheticSpec(camera_shake=0)
    for index in range(20):
        steps = {
            m: wrapped(np.diff(motion_track(spec, "train", m, index), axis=0), spec.size) for m in MOTIONS
        }
        across = {m: s[:, 0] for m, s in steps.items()}
        assert (across["left"] < 0).all()
        assert (across["right"] > 0).all()
        for name, sign in (("left_then_right", -1), ("right_then_left", 1)):
            turns = np.flatnonzero(np.diff(np.sign(across[name])))
            assert len(turns) == 1
            assert 13 <= turns[0] <= 25
            assert np.sign(across[name][0]) == sign
        for name, sign in (("clockwise", 1), ("anticlockwise", -1)):
            before, after = steps[name][:-1], steps[name][1:]
            cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
            assert (np.sign(cross) == sign).all()  # y points down: positive is clockwise
        for name, (low, high) in {"shake_fast": (7, 10), "shake_slow": (3, 4)}.items():
            back = np.sum(steps[name][:-1] * steps[name][1:], axis=1) < 0
            assert low <= back.sum() <= high


def test_speed_does_not_reveal_the_class() -> None:
    spec = SyntheticSpec(camera_shake=0)
    speeds = []
    for motion in MOTIONS:
        paths = np.stack([motion_track(spec, "train", motion, i)[:2] for i in range(300)])
        speeds.append(np.linalg.norm(wrapped(np.diff(paths, axis=1)[:, 0], spec.size), axis=1))
    assert stats.kruskal(*speeds).pvalue > 1e-3
    assert max(map(max, speeds)) < 0.04 * spec.size


def test_positions_are_uniform_in_every_class_at_every_time() -> None:
    proof = load_proof()
    places, labels = proof.tracks(SyntheticSpec(seed=5), "train", 200)
    even, independent = proof.place_p_values(places, labels, 80)
    assert min(even, independent) > 0.01
    # The check itself finds a class that stays in one half of the frame.
    places[labels == 2] %= (40, 80)
    assert max(proof.place_p_values(places, labels, 80)) < 1e-6


@pytest.mark.long
def test_one_position_reveals_nothing_and_a_whole_track_nearly_everything() -> None:
    proof = load_proof()
    one, two, all_ = (proof.window_accuracy(SyntheticSpec(), k, per_class=100) for k in (1, 2, 31))
    assert stats.binomtest(round(one * 800), 800, 1 / 8).pvalue > 1e-3
    assert 0.2 < two < 0.4
    assert all_ > 0.85


# --- labels -------------------------------------------------------------------------------------------------


def test_appearance_is_balanced_and_independent_of_motion() -> None:
    for per_class in (1, 5, 16):
        videos = list(videos_of(SyntheticSpec(test=per_class), "test"))
        assert set(Counter(v.motion for v in videos).values()) == {per_class}
        assert set(Counter(v.appearance for v in videos).values()) == {per_class}
        pairs = Counter((v.motion, v.appearance) for v in videos)
        assert max(pairs.values()) <= -(-per_class // 8)
    assert all(pairs[pair] == 2 for pair in itertools.product(MOTIONS, APPEARANCES))  # 16 = 2 × 8


def test_the_order_of_appearances_differs_from_split_to_split() -> None:
    orders = {s: [appearance_of(SyntheticSpec(), s, "left", i) for i in range(8)] for s in ("train", "test")}
    assert orders["train"] != orders["test"]
    assert set(orders["train"]) == set(APPEARANCES)


# --- files --------------------------------------------------------------------------------------------------


def test_writes_real_videos_with_their_lists(finished: Path) -> None:
    folder = finished
    assert sorted(p.name for p in folder.iterdir()) == [
        "action_test.csv",
        "action_train.csv",
        "appearance_test.csv",
        "appearance_train.csv",
        "synthetic.json",
        "test",
        "test.csv",
        "train",
        "train.csv",
    ]
    assert len(list(folder.glob("train/*/*.mp4"))) == 16
    for video in videos_of(SMALL, "test"):
        with Video(folder / video.path) as file:
            assert len(file) == SMALL.frames
            assert file.metadata.average_fps == pytest.approx(25)
            seen = file.frames_at(range(SMALL.frames)).numpy().astype(np.float64)
        drawn = draw_video(SMALL, "test", video.motion, video.index)
        # Compare brightness only: H.264 halves the color resolution, and the patterns are fine.
        assert np.abs(np.tensordot(seen - drawn, (0.299, 0.587, 0.114), (1, 0))).mean() < 4
        # The object must survive compression: its place in the decoded file is that of the drawing.
        off = wrapped(color_center(seen) - motion_track(SMALL, "test", video.motion, video.index), SMALL.size)
        assert np.abs(off).max() < 2


def test_manifests_read_the_lists(folder: Path) -> None:
    motion = Manifest.from_csv(folder / "train.csv")
    appearance = Manifest.from_csv(folder / "appearance_train.csv")
    assert sorted(motion.classes) == sorted(MOTIONS)
    assert sorted(appearance.classes) == sorted(APPEARANCES)
    videos = list(videos_of(SMALL, "train"))
    for i, video in enumerate(videos):
        assert motion[i].path == folder / video.path
        assert motion[i].source == appearance[i].source == video.source
        assert motion.classes[motion[i].label] == video.motion
        assert appearance.classes[appearance[i].label] == video.appearance
    assert len({v.source for v in videos}) == len(videos) == len(motion) == len(appearance)


def test_actions_are_a_pattern_and_a_direction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "write_video", lambda path, *_, **__: path.touch())  # lists are enough
    folder = write_synthetic(tmp_path / "set", dataclasses.replace(SMALL, train=8, test=1), workers=1)
    actions, patterns = (Manifest.from_csv(folder / f"{name}_train.csv") for name in ("action", "appearance"))
    assert set(actions.classes) == set(ACTIONS)
    assert set(actions.class_counts().values()) == {1}  # balanced
    pattern_of = {entry.path: patterns.classes[entry.label] for entry in patterns}
    for entry in actions:
        assert actions.classes[entry.label] == f"{pattern_of[entry.path]}_{entry.path.parent.name}"


def test_processes_write_the_same_files_as_one(finished: Path, tmp_path: Path) -> None:
    one = finished
    two = write_synthetic(tmp_path / "two", SMALL, workers=2)
    names = sorted(p.relative_to(one) for p in one.rglob("*.*"))
    assert names == sorted(p.relative_to(two) for p in two.rglob("*.*"))
    for name in names:
        if name.suffix != ".mp4":
            assert (one / name).read_bytes() == (two / name).read_bytes()
            continue
        # The drawn frames are the same; the encoder does not guarantee the same bytes.
        with Video(one / name) as first, Video(two / name) as second:
            every = range(SMALL.frames)
            difference = first.frames_at(every).float() - second.frames_at(every).float()
        # Compare brightness: H.264 halves the color. Two videos of the set differ by 10 or more.
        brightness = torch.tensordot(difference, torch.tensor([0.299, 0.587, 0.114]), ([1], [0]))
        assert brightness.abs().mean() < 3


def test_a_finished_set_is_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.*")}
    monkeypatch.setattr(synthetic, "write_video", lambda *_, **__: pytest.fail("drew again"))
    write_synthetic(folder, SMALL, workers=1)
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*.*")}


def test_an_interrupted_set_is_completed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finished
    written, real = [], synthetic.write_video

    def stop_after_five(path: Path, *rest: object, **options: object) -> Path:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(path)
        return real(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(synthetic, "write_video", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "half", SMALL, workers=1)
    assert not (tmp_path / "half" / "train.csv").exists()
    assert json.loads((tmp_path / "half" / "synthetic.json").read_text())["complete"] is False
    (tmp_path / "half/train/left/.01230123012301230123012301230123.part").write_bytes(
        b"what a killed process leaves"
    )
    first = {p: p.stat().st_mtime_ns for p in written}

    monkeypatch.setattr(synthetic, "write_video", real)
    half = write_synthetic(tmp_path / "half", SMALL, workers=1)
    assert first == {p: p.stat().st_mtime_ns for p in written}  # what was whole is kept
    assert {p.relative_to(half) for p in half.rglob("*")} == {p.relative_to(whole) for p in whole.rglob("*")}
    for name in ("synthetic.json", "train.csv", "appearance_test.csv"):
        assert (half / name).read_bytes() == (whole / name).read_bytes()


def test_a_lost_file_is_drawn_again(folder: Path) -> None:
    lost = folder / "train/clockwise/clockwise_0001.mp4"
    lost.unlink()
    (folder / "test.csv").unlink()
    write_synthetic(folder, SMALL, workers=1)
    with Video(lost) as file:
        assert len(file) == SMALL.frames
    with (folder / "test.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == list(MOTIONS)


# --- refusals -----------------------------------------------------------------------------------------------


def test_another_spec_in_the_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="seed: 0 there, 7 asked for"):
        write_synthetic(folder, dataclasses.replace(SMALL, seed=7))
    (folder / "synthetic.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        write_synthetic(folder, SMALL)


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_synthetic(tmp_path, SMALL)
    with pytest.raises(ConfigError, match="not an empty folder"):
        write_synthetic(tmp_path / "thesis.txt", SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"train": -1}, "train is -1"),
        ({"frames": 4}, "frames is 4"),
        ({"size": 81}, "even, use 82"),
        ({"size": 10}, "size is 10"),
        ({"fps": 0}, "fps is 0"),
        ({"seed": 0.5}, "whole number"),
        ({"train": 0, "val": 0, "test": 0}, "nothing to draw"),
    ],
)
def test_a_spec_that_cannot_work_is_refused(wrong: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SyntheticSpec(**wrong)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'clockwise'"):
        motion_track(SMALL, "train", "clokwise", 0)
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        draw_video(SMALL, "trian", "left", 0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="workers is 0"):
        write_synthetic("unused", SMALL, workers=0)


# --- the proof, shortened -----------------------------------------------------------------------------------


def load_proof() -> ModuleType:
    """`benchmarks/synthetic_proof.py`, whose full run gives the figures in the documents."""
    file = Path(__file__).parents[3] / "benchmarks" / "synthetic_proof.py"
    spec = importlib.util.spec_from_file_location("synthetic_proof", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synthetic_proof"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.long
@pytest.mark.parametrize(
    ("spec", "steps", "batch", "least"),
    [
        (SyntheticSpec(train=16, val=0, test=8, frames=8, size=64, seed=11), 50, 24, 0.4),
        pytest.param(SyntheticSpec(train=24, val=0, test=16, seed=11), 120, 32, 0.75, marks=pytest.mark.slow),
    ],
    ids=["small", "whole"],
)
def test_a_2d_net_reads_the_appearance_but_not_the_motion_off_single_frames(
    tmp_path: Path, spec: SyntheticSpec, steps: int, batch: int, least: float
) -> None:
    proof = load_proof()
    write_synthetic(tmp_path, spec, workers=1)
    train, test = (proof.decoded(tmp_path, spec, split) for split in ("train", "test"))
    videos = len(test.motion)
    motion, _ = proof.frame_accuracy(train, test, "motion", steps=steps, seed=0, batch=batch)
    appearance, _ = proof.frame_accuracy(train, test, "appearance", steps=steps, seed=0, batch=batch)
    assert stats.binomtest(round(motion * videos), videos, 1 / 8).pvalue > 1e-3
    assert appearance >= least  # guesses: 0.125
