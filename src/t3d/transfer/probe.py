"""A linear classifier on frozen features: what a transfer, and a fine-tuning, must be read beside.

Legend: N clips, D features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from t3d.clip import ClipSpec
from t3d.data.catalog import open_index, open_manifest, refuse_other_targets
from t3d.data.clips.check import open_all, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import normalise
from t3d.data.manifest.manifest import Manifest
from t3d.data.torchcodec_reader import Decoder
from t3d.device import pick_device, use_bf16
from t3d.errors import ConfigError, Failed, ManifestError, between
from t3d.evaluation.metrics import measure
from t3d.evaluation.run_test import Outcome
from t3d.evaluation.scores import ClipRow, collect
from t3d.evaluation.scoring import each_clip
from t3d.models.net import VideoNet
from t3d.models.weights import load_model
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.open import open_teacher

# Strength of the weights' penalty, as its inverse; the range covers few and many labels.
_STRENGTHS = np.logspace(-5, 1, 7)

Vectors = Callable[[torch.Tensor], torch.Tensor]


def run_probe(
    train: str,
    test: str,
    *,
    weights: str | None = None,
    teacher: str | None = None,
    teacher_weights: str | None = None,
    teacher_size: int | None = None,
    num_frames: int = 16,
    stride: int = 4,
    tail: Literal["drop", "pad", "shift"] = "shift",
    videos: str | None = None,
    source_pattern: str | None = None,
    label_fraction: float = 1.0,
    label_seed: int = 0,
    index: str | None = None,
    decoder: Decoder = "pyav",
    cache: str | None = None,
    max_bad: float = 0.01,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    batch_size: int = 8,
    workers: int = 0,
) -> Outcome:
    """Fit a linear classifier on frozen features, and test it.

    The features are a student's (`weights`), pooled over each clip, or a teacher's (`teacher`), of each frame
    alone, averaged over each clip. Clips are those of the test protocol, in training as in testing. The
    classifier is a logistic regression on standardised features; the strength of its penalty is chosen by
    cross-validation over the training sources.

    Args:
        train: Labelled videos, see `t3d.data.catalog.open_manifest`.
        test: The same, to test on; its classes are matched by name.
        weights: A weights file; its card says what a clip is.
        teacher: Instead of it, a 2D net, see `open_teacher`.
        teacher_weights: Of the teacher.
        teacher_size: Of the teacher, in pixels.
        num_frames: Frames of a clip that the teacher sees.
        stride: Distance between them, in frames of the video.
        tail: What happens, for a teacher, to the frames behind the last whole clip, see `ClipSpec`.
        videos: Folder that the files of lists or tables lie in.
        source_pattern: Names the sources of a folder's videos.
        label_fraction: Share of the training labels that is used, see `Manifest.label_subset`.
        label_seed: Of that draw.
        index: What `t3d prepare index` wrote about the files, where the lists are none themselves.
        decoder: `pyav`, or `torchcodec` for files that the index knows to be whole.
        cache: Folder for decoded frames.
        max_bad: Largest share of unreadable videos.
        device: `auto`, or a torch device.
        precision: Of the net.
        batch_size: Clips at a time; changes speed and memory only.
        workers: Processes that read videos.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: An option cannot work.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    between("max_bad", max_bad, 0, 1)
    if (weights is None) == (teacher is None):
        raise ConfigError("set either `model` (a weights file of a 3D model) or `teacher` (a 2D model)")
    known = open_manifest(train, root=videos, source_pattern=source_pattern)
    if known.targets == "multi":
        raise ManifestError(
            f"{train}: a probe learns one label a video, and these have several (column labels); "
            "t3d train learns them"
        )
    if (known.labels < 0).any() or len(known.classes) < 2:
        raise ManifestError(f"{train}: a probe needs a label for every video, and at least 2 classes")
    known = known.label_subset(label_fraction, seed=label_seed)
    asked = open_manifest(test, root=videos)
    refuse_other_targets(asked, "single", name=test, other=train)
    asked = asked.with_classes(known.classes)
    where = pick_device(device)
    if weights is not None:
        net, card = load_model(weights, device=where)
        spec = replace(card.clip, segments=1)  # features are of clips; only scores have a consensus
        function = student_vectors(net, spec, bf16=use_bf16(precision, where))
    else:
        assert teacher is not None
        frozen = open_teacher(teacher, weights=teacher_weights, size=teacher_size).to(where)
        side = frozen.size
        spec = ClipSpec(num_frames=num_frames, stride=stride, size=side, resize=side, tail=tail)
        function = teacher_vectors(frozen, where)
    known_files = open_index(index, train, test, root=videos)
    store = FrameStore(spec, cache=cache, index=known_files, decoder=decoder)
    found, bad = {}, {}
    for name, part in (("train", known), ("test", asked)):
        if cache:
            open_all(part, store, workers=workers)  # what cannot be read, the clips will say
        found[name], bad[name] = each_clip(
            function, part, spec=spec, store=store, batch_size=batch_size, workers=workers
        )
        refuse_many(bad[name], among=len(part), max_bad=max_bad, option="max_bad")
    broken = {failed.row for failed in bad["train"]}
    classifier = fit_linear(known, [row for row in found["train"] if row[0] not in broken])
    return outcome_of(classifier, asked, found["test"], bad["test"])


def outcome_of(classifier: Any, manifest: Manifest, rows: list[ClipRow], bad: list[Failed]) -> Outcome:
    """Test a fitted classifier.

    Args:
        classifier: What `fit_linear` gave.
        manifest: The test videos, their classes numbered as in training.
        rows: Row of the video, number of the clip, and feature vector, float64 [D], of each clip.
        bad: The videos that could not be read.
    """
    probabilities = classifier.predict_proba(np.stack([row[2] for row in rows]))
    full = np.zeros((len(probabilities), len(manifest.classes)))
    full[:, classifier.classes_] = probabilities  # a class without training clips gets none
    scored = [(video, clip, probs) for (video, clip, _), probs in zip(rows, full, strict=True)]
    scores = collect(manifest, scored, bad)
    return Outcome(measure(scores), scores)


def student_vectors(net: VideoNet, spec: ClipSpec, *, bf16: bool) -> Vectors:
    """A function from uint8 clips [B, T, C, H, W] to the net's pooled features [B, D]."""
    device = next(net.parameters()).device

    @torch.inference_mode()
    def vectors(clips: torch.Tensor) -> torch.Tensor:
        x = normalise(clips.to(device), spec)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            return net.forward_head(net.forward_features(x), pre_logits=True)

    return vectors


def teacher_vectors(teacher: Teacher, device: torch.device) -> Vectors:
    """A function from uint8 clips [B, T, C, H, W] to the mean feature of their frames [B, D]."""

    def vectors(clips: torch.Tensor) -> torch.Tensor:
        frames = clips.to(device).flatten(0, 1)
        return teacher(frames).unflatten(0, clips.shape[:2]).mean(1)

    return vectors


def fit_linear(manifest: Manifest, rows: list[ClipRow]) -> Any:
    """Fit a logistic regression on the clips of labelled videos.

    Args:
        manifest: The videos.
        rows: Row of the video, number of the clip, and feature vector, float64 [D], of each clip.

    Returns:
        scikit-learn's fitted estimator.

    Raises:
        ManifestError: Fewer than two classes have a readable video.
    """
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
        )  # at the weakest penalties; validation judges them
        if folds < 2:  # a class of one source cannot be held out and learned: a middling strength
            return model.set_params(logisticregression__C=1e-2).fit(features, labels)
        search = GridSearchCV(
            model,
            {"logisticregression__C": _STRENGTHS},
            cv=StratifiedGroupKFold(folds, shuffle=True, random_state=0),
        )
        return search.fit(features, labels, groups=sources).best_estimator_
