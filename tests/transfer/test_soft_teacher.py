"""Soft labels of the teacher, against loops over videos; what is averaged, and what stays a label."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.frames import Frames, FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError
from t3d.transfer.config import LabelConfig
from t3d.transfer.features import FeatureStore
from t3d.transfer.linear import class_probabilities
from t3d.transfer.soft_teacher import TeacherClips, label_softly, refuse_unusable, teacher_clips
from t3d.video.encode import write_video

LABELS = [0, 0, 1, 1, 0, 1, None, None, None, None]
GROUPS = np.array([0, 1, 2, 3, 0, 2, 4, 4, 5, 0])
CLIPS = np.repeat(np.arange(10), [1, 2, 3, 1, 2, 1, 2, 3, 1, 2])


def videos(labels: list[int | None] = LABELS) -> Manifest:
    count = len(labels)
    columns: dict[str, Any] = {"path": [f"{row}.mp4" for row in range(count)], "label": labels}
    columns |= {"start": pa.nulls(count, pa.float64()), "end": pa.nulls(count, pa.float64())}
    return Manifest(("jump", "run"), pa.table(columns | {"source": [f"s{row}" for row in range(count)]}))


def clips_of(seed: int = 0) -> TeacherClips:
    """Features in which a class is seen dimly; those without a label are halfway or on one side."""
    rng = np.random.default_rng(seed)
    place = np.array([0, 0, 1, 1, 0, 1, 0.2, 0.6, 1, 0.5])[CLIPS, None]
    return TeacherClips((place + rng.normal(0, 0.4, (len(CLIPS), 3))).astype(np.float32), CLIPS)


def expected(soft: Any, clips: TeacherClips, temperature: float, groups: Any) -> np.ndarray:
    """The same from the classifier, video by video."""
    scores = class_probabilities(soft.fit.classifier, clips.features, 2) ** (1 / temperature)
    scores = [row / row.sum() for row in scores]
    means = [np.mean([scores[i] for i in np.flatnonzero(row == CLIPS)], axis=0) for row in range(10)]
    if groups is not None:
        means = [np.mean([means[i] for i in np.flatnonzero(groups == groups[row])], 0) for row in range(10)]
    rows = [means[row] if label is None else np.eye(2)[label] for row, label in enumerate(LABELS)]
    return np.stack(rows)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("groups", [None, GROUPS])
def test_a_video_gets_the_mean_of_its_clips_and_a_labeled_one_its_label(
    temperature: float, groups: Any
) -> None:
    clips = clips_of()
    soft = label_softly(videos(), clips, LabelConfig("x", temperature=temperature, rounds=0), groups)
    assert soft.targets.dtype == np.float32
    np.testing.assert_allclose(soft.targets, expected(soft, clips, temperature, groups), atol=1e-6)
    assert soft.targets[:6].tolist() == [[1, 0], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]
    if groups is not None:  # rows 6 and 7 are of one group; row 9 is of that of two labeled ones
        assert soft.targets[6].tolist() == soft.targets[7].tolist()


def test_only_labeled_videos_are_fitted_in_the_first_round_and_all_in_the_next() -> None:
    clips = clips_of()
    other = clips.features.copy()
    other[CLIPS == 8] += 5  # no label
    moved = TeacherClips(other, CLIPS)
    once, again = (LabelConfig("x", rounds=rounds) for rounds in (0, 1))
    seen = np.flatnonzero(CLIPS < 6)
    first = [label_softly(videos(), each, once).fit.classifier for each in (clips, moved)]
    np.testing.assert_array_equal(*(each.predict_proba(clips.features[seen]) for each in first))
    later = [label_softly(videos(), each, again).fit.classifier for each in (clips, moved)]
    assert np.abs(np.subtract(*(each.predict_proba(clips.features[seen]) for each in later))).max() > 1e-3


@pytest.mark.parametrize("workers", [0, 1])
def test_the_clips_are_those_of_the_student_and_the_features_the_nearest_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, torch.randint(0, 255, (50, 3, 32, 32)).byte(), crf=30)
    spec = ClipSpec(num_frames=4, stride=2, size=32, resize=32, tail="drop")  # no clip of the rest
    features = FeatureStore(str(tmp_path / "features"), digest="d", step=4)
    stored = torch.arange(13.0)[:, None] * torch.tensor([[1.0, 10.0]])  # of frames 0, 4, 8, ...
    features._write(stored.half(), path)
    main_process, opened = os.getpid(), FrameStore.open

    def counted(self: FrameStore, path: Path) -> Frames:
        assert (os.getpid() == main_process) == (workers == 0)
        return opened(self, path)

    monkeypatch.setattr(FrameStore, "open", counted)
    pooled = teacher_clips(
        Manifest.from_files([path]),
        spec,
        store=FrameStore(spec),
        features=features,
        count=2,
        pooling="mean_std",
        workers=workers,
    )
    assert pooled.video.tolist() == [0, 0, 0]  # at most three: the first, the middle and the last
    # Six clips of 7 frames, every 8 frames: the first, third and last. The teacher sees two frames of each,
    # the second and the sixth of the seven; each has the nearest stored feature.
    for row, start in zip(pooled.features, [0, 16, 40], strict=True):
        seen = [(start + at + 2) // 4 for at in (1, 5)]
        mean, spread = np.mean(seen), np.std(seen)
        np.testing.assert_allclose(row, [mean, 10 * mean, spread, 10 * spread], rtol=1e-3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, None], r"few\.csv: 1 of 2 videos have no label, first .*1\.mp4; label them"),
        ([None, None], r"no video has a label; .*column `label`"),
        ([0, 0], "all 2 videos have the label 'jump'; .*at least 2 classes"),
    ],
)
def test_labels_that_cannot_be_used(labels: list[int | None], message: str) -> None:
    manifest = videos(labels)
    if labels == [0, 0]:
        manifest = Manifest(("jump",), manifest.table)
    with pytest.raises(ManifestError, match=message):
        refuse_unusable(manifest, "few.csv")
