"""Soft labels: a linear classifier on the teacher's features, fitted on few labels, labels all other videos.

(Task-oriented transfer, arXiv:2311.18237. VideoSSL, WACV 2021, uses an image classifier's probabilities.)

Legend: N videos, M clips, X frames of the teacher, D features, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from t3d.clip import ClipSpec, TimePooling
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.sampling import Indices, clips_of
from t3d.data.clips.spans import usable_part
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ManifestError
from t3d.models.frames import pool_time
from t3d.progress import track
from t3d.transfer.config import LabelConfig
from t3d.transfer.features import FeatureStore
from t3d.transfer.linear import MEDIUM, LinearFit, class_probabilities, fit_linear, fit_soft
from t3d.transfer.pairs import frames_of

_MOST_CLIPS = 3  # of a video; of more, those spread evenly over it

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TeacherClips:
    """The teacher's features of a few clips of each video.

    Args:
        features: Features pooled over the frames of each clip, float32 [M, D].
        video: Row of each clip's video, ascending, int64 [M].
    """

    features: Floats
    video: Indices

    def mean_per_video(self, values: npt.NDArray[Any], count: int) -> npt.NDArray[np.float64]:
        """Average the rows of each video's clips, [M, K] → [N, K]."""
        sums = np.zeros((count, values.shape[1]))
        np.add.at(sums, self.video, values)
        return sums / np.bincount(self.video, minlength=count)[:, None]


@dataclass(frozen=True)
class SoftTeacher:
    """A teacher's classifier, and its class probabilities for all videos.

    Args:
        fit: The linear classifier.
        targets: Class probabilities of each video, float32 [N, K]: 0 and 1 for a labeled one.
    """

    fit: LinearFit
    targets: Floats


def teacher_clips(
    videos: Manifest,
    spec: ClipSpec,
    *,
    store: FrameStore,
    features: FeatureStore,
    count: int,
    pooling: TimePooling,
    workers: int = 0,
) -> TeacherClips:
    """Pool the teacher's stored features over the student's clips.

    Args:
        videos: Videos, N rows, whose features are stored.
        spec: Length of the student's clips, and distance of their frames.
        store: Source of the videos' frames, which are counted only.
        features: Stored features of the teacher.
        count: Number of frames per clip that the teacher sees, X.
        pooling: See `t3d.models.frames.pool_time`.
        workers: Processes that open videos, which takes milliseconds or, for long files, seconds per video.
            0: this one.

    Raises:
        VideoError: A video cannot be read.
        ConfigError: The features of a video are missing or damaged.
    """
    pooled = _PooledClips(videos, spec, store, features, count, pooling)
    loader = Loader(pooled, batch_size=None, num_workers=workers)
    vectors = [clips.numpy() for clips in track(loader, "Pooling features", len(videos), unit="videos")]
    rows = np.repeat(np.arange(len(videos)), [len(clips) for clips in vectors])
    return TeacherClips(np.concatenate(vectors), rows)


@dataclass(frozen=True)
class _PooledClips(Dataset[Tensor]):
    """Dataset of the teacher's features of a few clips per video, see `teacher_clips`."""

    videos: Manifest
    spec: ClipSpec
    store: FrameStore
    features: FeatureStore
    count: int
    pooling: TimePooling

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Tensor:
        """Return the pooled features of the clips of a video, float32 [clips, D]."""
        entry = self.videos[row]
        low, part = usable_part(self.store.open(entry.path), entry, self.spec)
        clips = clips_of(part, self.spec)
        spread = np.linspace(0, len(clips) - 1, min(len(clips), _MOST_CLIPS)).round().astype(int)
        seen = [low + frames_of(clips[number], self.count, part) for number in spread]
        return torch.stack(
            [pool_time(self.features.get(entry.path, frames), self.pooling, dim=0) for frames in seen]
        )


def label_softly(
    videos: Manifest, clips: TeacherClips, options: LabelConfig, groups: Indices | None = None
) -> SoftTeacher:
    """Fit a classifier on the labeled videos, and give class probabilities to all others.

    Args:
        videos: Labeled and unlabeled videos, N.
        clips: The teacher's features of their clips.
        options: Options of the labels.
        groups: Group of each video, from 0, int64 [N], to average the soft labels within. None: no average.

    Raises:
        ManifestError: Fewer than two classes have a labeled video.
    """
    labels = videos.labels  # -1: none
    labeled = np.flatnonzero(labels >= 0)
    known = np.flatnonzero(np.isin(clips.video, labeled))
    place = {row: number for number, row in enumerate(labeled.tolist())}
    fit = fit_linear(
        videos.select(labeled),
        [(place[int(clips.video[clip])], 0, clips.features[clip].astype(np.float64)) for clip in known],
    )
    targets = _targets(videos, clips, fit, options.temperature, groups)
    for _ in range(options.rounds):
        again = fit_soft(
            clips.features, targets[clips.video], videos=clips.video, strength=min(fit.strength, MEDIUM)
        )
        fit = replace(again, accuracy=fit.accuracy)
        targets = _targets(videos, clips, fit, options.temperature, groups)
    return SoftTeacher(fit, targets.astype(np.float32))


def _targets(
    videos: Manifest, clips: TeacherClips, fit: LinearFit, temperature: float, groups: Indices | None
) -> npt.NDArray[np.float64]:
    labels, classes = videos.labels, len(videos.classes)
    probabilities = class_probabilities(fit.classifier, clips.features, classes)  # M K
    if temperature != 1:
        warmed = probabilities ** (1 / temperature)
        probabilities = warmed / warmed.sum(1, keepdims=True)
    soft = clips.mean_per_video(probabilities, len(videos))  # N K
    if groups is not None:
        sums = np.zeros((int(groups.max()) + 1, classes))
        np.add.at(sums, groups, soft)
        soft = (sums / np.bincount(groups)[:, None])[groups]
    rows = np.flatnonzero(labels >= 0)
    soft[rows] = np.eye(classes)[labels[rows]]
    return soft


def refuse_unusable(labels: Manifest, name: str) -> None:
    """Refuse labels that no classifier can be fitted on.

    Args:
        labels: The labeled videos.
        name: Their name in the message.

    Raises:
        ManifestError: A video has no label or several, or there are fewer than two classes.
    """
    if not labels.label_column.fits("single"):
        raise ManifestError(
            f"{name}: a transfer with labels needs one label per video, and these have several (column "
            "`labels`)"
        )
    unlabeled = np.flatnonzero(labels.labels < 0)
    if len(unlabeled) == len(labels):
        raise ManifestError(
            f"{name}: no video has a label; a transfer with labels needs a class name for each video, as the "
            "name of its folder or in the column `label`"
        )
    if len(unlabeled):
        raise ManifestError(
            f"{name}: {len(unlabeled)} of {len(labels)} videos have no label, first "
            f"{labels[int(unlabeled[0])].path}; label them, or list them in data.videos instead"
        )
    if len(labels.classes) < 2:
        raise ManifestError(
            f"{name}: all {len(labels)} videos have the label {labels.classes[0]!r}; a transfer with labels "
            "needs at least 2 classes. Add videos of another class, such as `other`"
        )
