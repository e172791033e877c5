"""Linear classifier on frozen features, the baseline for transfer and fine-tuning.

Legend: N clips, D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from t3d.clip import ClipSpec
from t3d.data.catalog import (
    open_index,
    open_videos,
    refuse_other_targets,
    refuse_unlabeled,
    roots_of,
)
from t3d.data.clips.check import open_all, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.inspect.shared import shared_rows
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError
from t3d.evaluation.leaks import overlaps, shared_with_run
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import ClipRow
from t3d.evaluation.scoring import collect, each_clip, pooled_features
from t3d.evaluation.task import measure
from t3d.models.weights import load_model
from t3d.progress import progress
from t3d.transfer.probe_config import ProbeConfig
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.open import open_teacher

# Inverse strengths of the weight penalty. The range covers few and many labels.
_STRENGTHS = np.logspace(-5, 1, 7)
_STRIDE = 4  # of a teacher's clip, in frames

Vectors = Callable[[torch.Tensor], torch.Tensor]


def run_probe(config: ProbeConfig) -> TestResult:
    """Train a linear classifier on frozen features, and test it.

    The features of a 3D model are pooled over each clip. The features of a teacher are computed per frame and
    averaged over each clip. Training and testing use the clips of the test protocol. The classifier is a
    logistic regression on standardized features. Cross-validation over the training sources chooses the
    strength of its penalty.

    Args:
        config: Options of the probe.

    Returns:
        Metrics, the scores of every test video, and the overlaps of the test videos with the training videos
        of the probe and, if the model is of a run, with the lists of that run.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: An option is invalid for this model or this machine.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    reading, compute = config.reading, config.compute
    known, asked = _videos(config)
    function, spec = _features(config)
    index = open_index(reading.index, config.train, config.test, root=reading.root)
    store = FrameStore(spec, cache=reading.cache, index=index, image_fps=reading.image_fps)
    vectors, bad = {}, {}
    for name, part in (("train", known), ("test", asked)):
        if reading.cache:
            open_all(part, store, workers=compute.workers)  # unreadable videos are reported below
        vectors[name], bad[name] = each_clip(
            function, part, Protocol(spec), store=store, compute=compute, shown=f"Computing {name} features"
        )
        refuse_many(bad[name], among=len(part), max_bad=reading.max_bad, option="max_bad")
    broken = {failed.row for failed in bad["train"]}
    classifier = fit_linear(known, [row for row in vectors["train"] if row[0] not in broken])
    result = result_of(classifier, asked, vectors["test"], bad["test"])
    shared = {"training": shared_rows(asked, known, index)}
    if config.model is not None:  # features, too, are better on videos that they were learned from
        run = shared_with_run(config.model, asked, index)
        shared |= {f"model {name}": rows for name, rows in run.items()}
    return replace(result, overlaps=overlaps(result.scores, shared))


def _videos(config: ProbeConfig) -> tuple[Manifest, Manifest]:
    """Open the training videos, reduced to the used labels, and the test videos."""
    train_root, test_root = roots_of(config.reading.root, config.train, config.test)
    known = open_videos(config.train, root=train_root, source_pattern=config.source_pattern)
    if not known.label_column.fits("single"):
        raise ManifestError(
            f"{config.train}: a probe needs one label per video, and these have several (column `labels`); "
            "train a model on them instead"
        )
    if (known.labels < 0).any() or len(known.classes) < 2:
        raise ManifestError(f"{config.train}: a probe needs a label for every video, and at least 2 classes")
    known = known.label_subset(config.label_fraction, seed=config.label_seed)
    asked = open_videos(config.test, root=test_root)
    refuse_unlabeled(asked, name=config.test)
    refuse_other_targets(asked, "single", name=config.test, other=config.train)
    return known, asked.with_classes(known.classes, name=config.test, owner="the training videos")


def _features(config: ProbeConfig) -> tuple[Vectors, ClipSpec]:
    """Load the frozen model. Return a function from clips to its features, and the clip spec."""
    device = config.compute.pick_device()
    if config.model is not None:
        net, card = load_model(config.model, device=device, allow_unfinished=config.allow_unfinished)
        spec = replace(
            card.clip, segments=1
        )  # features belong to clips; only scores are averaged over segments
        return pooled_features(net, spec, bf16=config.compute.use_bf16(device)), spec
    assert config.teacher is not None
    teacher = open_teacher(
        config.teacher,
        weights=config.teacher_weights,
        size=config.teacher_size,
        normalization=config.normalization,
    ).to(device)
    side, frames = teacher.size, config.num_frames
    stride = _STRIDE if config.stride is None and config.fps is None else config.stride
    spec = ClipSpec(
        num_frames=frames, stride=stride, fps=config.fps, size=side, resize=side, tail=config.tail
    )
    return teacher_vectors(teacher, device), spec


def result_of(classifier: Any, manifest: Manifest, rows: list[ClipRow], bad: list[Failed]) -> TestResult:
    """Test a fitted classifier.

    Args:
        classifier: Result of `fit_linear`.
        manifest: Test videos, with the class numbers of training.
        rows: Row of the video, number of the clip, and feature vector, float64 [D], of each clip.
        bad: Videos that could not be read.
    """
    probabilities = classifier.predict_proba(np.stack([row[2] for row in rows]))
    full = np.zeros((len(probabilities), len(manifest.classes)))
    full[:, classifier.classes_] = probabilities  # a class without training clips gets zero
    scored = [(video, clip, probs) for (video, clip, _), probs in zip(rows, full, strict=True)]
    scores = collect(manifest, scored, bad)
    return TestResult(measure(scores), scores)


def teacher_vectors(teacher: Teacher, device: torch.device) -> Vectors:
    """Return a function from uint8 clips [B, T, C, H, W] to the mean feature of their frames [B, D]."""

    def vectors(clips: torch.Tensor) -> torch.Tensor:
        frames = clips.to(device).flatten(0, 1)
        return teacher(frames).unflatten(0, clips.shape[:2]).mean(1)

    return vectors


def fit_linear(manifest: Manifest, rows: list[ClipRow]) -> Any:
    """Fit a logistic regression on the clips of labeled videos.

    Args:
        manifest: Videos.
        rows: Row of the video, number of the clip, and feature vector, float64 [D], of each clip.

    Returns:
        Fitted scikit-learn estimator.

    Raises:
        ManifestError: Fewer than two classes have a readable video.
    """
    # Imported here, because the import takes a second and opening the videos does not need it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features: npt.NDArray[np.float64] = np.stack([vector for _, _, vector in rows])  # N D
    videos = np.array([video for video, _, _ in rows])
    labels = manifest.labels[videos]
    sources = np.array(manifest.table["source"].to_pylist(), dtype=object)[videos]
    if len(np.unique(labels)) < 2:
        raise ManifestError("a probe needs readable videos of at least 2 classes")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    folds = min(4, min(len(np.unique(sources[labels == label])) for label in np.unique(labels)))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # with the weakest penalties; validation rejects bad fits
        if folds < 2:  # a class with one source cannot be held out: use a medium strength
            return model.set_params(logisticregression__C=1e-2).fit(features, labels)
        search = GridSearchCV(
            model,
            {"logisticregression__C": _STRENGTHS},
            cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
        )
        with progress("Fitting the classifier"):
            return search.fit(features, labels, groups=sources).best_estimator_
