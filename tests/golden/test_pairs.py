"""Transfer pairs: which clip and frames belong together, and which pairs are negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.sampler import SampleKey
from t3d.data.config import AugmentConfig
from t3d.transfer.dataset import TeacherView, TransferClips
from t3d.transfer.objectives import draw_one
from t3d.transfer.pairs import allowed_pairs, frames_of, joined, other_time, source_groups

Make = Callable[..., Any]
SPEC = ClipSpec(num_frames=4, stride=2, size=24, resize=40)
KEYS = [(0, 0), (0, 1), (3, 0), (3, 2)]


def pairs(manifest: Make, fake_store: Make, seed: int, total: int = 24, **options: Any) -> TransferClips:
    table = manifest([(str(n), None, f"s{n}") for n in range(3)], "")
    teacher = fake_store(ClipSpec(num_frames=2, stride=1, size=20, resize=40), total)
    view = TeacherView(teacher, 2, None, options.pop("teacher_augment", None))
    options = {"augment": None, "other_time": True} | options
    return TransferClips(table, SPEC, store=fake_store(SPEC, total), seed=seed, teacher=view, **options)


def asked(clips: TransferClips) -> list[tuple[list[int], list[list[int]]]]:
    """Return the frames of clip and teacher per key: the clip's own, and those of another time if any."""
    requests = []
    for key in KEYS:
        clips.store.asked.clear()
        clips.teacher.store.asked.clear()
        item = clips[SampleKey(*key)]
        assert item.video == key[1]
        (clip,) = clips.store.asked
        requests.append((clip, list(clips.teacher.store.asked)))
    return requests


def test_frames_of_a_clip() -> None:
    assert frames_of(np.array([10, 14, 18, 22]), 2).tolist() == [13, 19]
    assert frames_of(np.array([0, 2, 4, 6, 8, 10]), 3).tolist() == [1, 5, 9]
    assert frames_of(np.array([4, 5]), 4).tolist() == [4, 4, 5, 5]


def test_clip_and_frames_of_a_key(manifest: Make, fake_store: Make) -> None:
    for clip, teacher in asked(pairs(manifest, fake_store, 0, total=300)):
        assert teacher[0] == frames_of(np.array(clip), 2).tolist()
        assert all(not clip[0] <= frame <= clip[-1] for frame in teacher[1])
    assert asked(pairs(manifest, fake_store, 0, total=300)) == [
        ([250, 252, 254, 256], [[251, 255], [179, 183]]),
        ([261, 263, 265, 267], [[262, 266], [127, 131]]),
        ([148, 150, 152, 154], [[149, 153], [265, 269]]),
        ([157, 159, 161, 163], [[158, 162], [275, 279]]),
    ]
    assert asked(pairs(manifest, fake_store, 5, total=300)) == [
        ([197, 199, 201, 203], [[198, 202], [240, 244]]),
        ([261, 263, 265, 267], [[262, 266], [209, 213]]),
        ([285, 287, 289, 291], [[286, 290], [201, 205]]),
        ([104, 106, 108, 110], [[105, 109], [211, 215]]),
    ]
    assert asked(pairs(manifest, fake_store, 0, total=300, other_time=False)) == [
        ([250, 252, 254, 256], [[251, 255]]),
        ([261, 263, 265, 267], [[262, 266]]),
        ([148, 150, 152, 154], [[149, 153]]),
        ([157, 159, 161, 163], [[158, 162]]),
    ]


def test_frames_of_another_time() -> None:
    clip = 20 + 2 * np.arange(4)
    others = [other_time(clip, 60, SPEC, np.random.default_rng(seed)) for seed in range(12)]
    begins = [int(other[0]) for other in others if other is not None]
    assert all(begin + 6 < 20 or begin > 26 for begin in begins)
    assert begins == [47, 32, 47, 46, 42, 40, 31, 51, 42, 30, 44, 5]
    assert other_time(np.arange(4) * 2, 13, SPEC, np.random.default_rng(0)) is None


def test_views_of_a_pair_are_drawn_apart(manifest: Make, fake_store: Make, digest: Make) -> None:
    augment = AugmentConfig()
    clips = pairs(manifest, fake_store, 2, augment=augment, teacher_augment=AugmentConfig())
    items = [clips[SampleKey(*key)] for key in KEYS]
    assert all(item.other is not None for item in items)
    assert [[digest(item.frames), digest(item.teacher), digest(item.other)] for item in items] == [
        ["3b6859011899388e", "1373d4ed967c86a4", "517dcfb37e7a30d3"],
        ["8c7e4f21a3b18c1d", "928d26ce4cda8440", "57b19ce36170da7d"],
        ["04d5e17f8f04cd74", "bccba3d2f2f7afd5", "a1921347855ee0b7"],
        ["be717a6097c26daf", "ce379b8b88e85377", "35b0d484c79cfa59"],
    ]


def rows() -> list[tuple[str, None, str]]:
    """Row 0 to 15; rows 3 and 9 are one file, 5 and 6 one source, 9 and 12 one source."""
    names = {9: "v03", 6: "v06"}
    sources = {6: "s05", 12: "s09"}
    return [(names.get(n, f"v{n:02d}"), None, sources.get(n, f"s{n:02d}")) for n in range(16)]


def test_source_groups(manifest: Make) -> None:
    groups = source_groups(manifest(rows(), "")).tolist()
    assert groups[3] == groups[9] == groups[12]
    assert groups[5] == groups[6]
    assert groups == [0, 1, 2, 3, 4, 5, 5, 6, 7, 3, 8, 9, 3, 10, 11, 12]


def test_held_out_groups(manifest: Make) -> None:
    table = joined(manifest(rows(), ""))
    draws = []
    for seed in range(3):
        rest, held = table.split_by_source(0.3, seed=seed)
        assert not set(rest.sources()) & set(held.sources())
        draws.append(held.table["path"].to_pylist())
    assert draws == [
        ["v02", "v04", "v08", "v13"],
        ["v01", "v08", "v11", "v13", "v15"],
        ["v00", "v02", "v07", "v08", "v13"],
    ]


def test_one_negative_of_each_clip() -> None:
    groups = torch.tensor([0, 1, 1, 2, 3, 0])
    other = torch.tensor([True, False, True, True, False, True])
    _, negative = allowed_pairs(groups, None)
    drawn = [draw_one(negative, np.random.default_rng(seed)) for seed in range(3)]
    assert all((one <= negative).all() and (one.sum(1) == 1).all() for one in drawn)
    assert [one.int().argmax(1).tolist() for one in drawn] == [
        [4, 4, 4, 1, 1, 1],
        [2, 4, 5, 5, 0, 1],
        [4, 3, 0, 1, 2, 4],
    ]
    _, negative = allowed_pairs(groups, other)
    drawn = [draw_one(negative, np.random.default_rng(seed)) for seed in range(4)]
    assert all((one <= negative).all() and (one.sum(1) == 1).all() for one in drawn)
    assert [one.int().argmax(1).tolist() for one in drawn] == [
        [3, 3, 8, 9, 0, 4],
        [4, 5, 8, 1, 1, 11],
        [6, 0, 3, 9, 1, 3],
        [6, 0, 0, 0, 0, 11],
    ]
