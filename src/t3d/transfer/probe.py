"""Linear classifier on frozen features: the baseline for transfer, and a model that can be tested.

Legend: N clips, D features.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from t3d.card import ModelCard
from t3d.data.catalog import (
    open_index,
    open_videos,
    refuse_other_targets,
    refuse_unlabeled,
    roots_of,
)
from t3d.data.clips.check import open_all, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.inspect.nearby import Listed
from t3d.data.manifest.manifest import Manifest
from t3d.data.moved import refuse_moved
from t3d.data.soft_labels import Probs, joined_with, read_soft_labels
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.evaluation.collect import collect
from t3d.evaluation.leaks import compared_lists, overlaps, shared_with_run
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import ClipRow
from t3d.evaluation.scoring import each_clip
from t3d.evaluation.task import measure
from t3d.io.files import writable_folder
from t3d.models.net import VideoNet
from t3d.models.weights import save_model
from t3d.training.run_folder import RunFolder
from t3d.transfer.frame_model import set_classifier
from t3d.transfer.frozen import Frozen, open_frozen
from t3d.transfer.linear import class_probabilities, fit_linear, fit_soft
from t3d.transfer.probe_config import ProbeConfig

COMMAND = "t3d probe"


@dataclass(frozen=True)
class Probe:
    """Result of a probe.

    Args:
        train: Training videos: those of the used labels, then those with soft labels.
        bad: Training videos that could not be read.
        model: Frozen network with the fitted classifier. None for an ONNX teacher.
        card: Its card. None for an ONNX teacher.
        test: Result on the test videos. None if there are none.
    """

    train: Manifest
    bad: list[Failed]
    model: VideoNet | None
    card: ModelCard | None
    test: TestResult | None


def run_probe(config: ProbeConfig) -> Probe:
    """Train a linear classifier on frozen features, test it, and write it as a model.

    The features of a 3D model are pooled over each clip. The features of a teacher are computed per frame and
    pooled over the frames of each clip. Training and testing use the clips of the test protocol. The
    classifier is a logistic regression on standardized features. Cross-validation over the training sources
    chooses the strength of its penalty.

    Args:
        config: Options of the probe.

    Returns:
        The model, and the metrics and scores of the test videos, with their overlaps with the training videos
        of the probe and, if the features are of a run, with the lists of that run.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: An option is invalid for this model or this machine.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    reading = config.reading
    folder = None if config.out is None else RunFolder(config.out)
    if folder is not None:
        folder.refuse_existing(overwrite=config.overwrite)
        writable_folder(folder.path, name="out")  # before the features are computed
    known, asked = _videos(config)
    learned, targets = _with_soft(known, config)
    frozen = open_frozen(config)
    if folder is not None and frozen.net is None:
        raise ConfigError(
            f"out is {config.out}, but an ONNX teacher cannot be saved as a model; remove `out`, or use a "
            "timm or torchvision teacher"
        )
    index = open_index(reading.index, config.train, config.test, root=reading.root)
    store = FrameStore(
        frozen.spec, cache=reading.cache, index=index, limits=reading.limits, image_fps=reading.image_fps
    )

    def computed(part: Manifest, name: str) -> tuple[list[ClipRow], list[Failed]]:
        return clip_features(frozen, part, store, config, shown=f"Computing {name} features")

    rows, bad = computed(learned, "train")
    test_rows, test_bad = ([], []) if asked is None else computed(asked, "test")
    classifier = _fit(known, targets, rows)
    result = None
    if asked is not None and config.test is not None:
        result = result_of(classifier, asked, test_rows, test_bad)
        trained = Listed(learned, config.train)
        shared = compared_lists(Listed(asked, config.test), {"training": trained}, index)
        if config.model is not None:  # features, too, are better on videos that they were learned from
            run = shared_with_run(config.model, asked, index, name=config.test)
            shared |= {f"model {name}": shared_videos for name, shared_videos in run.items()}
        result = replace(result, overlaps=overlaps(result.scores, shared))
    probe = Probe(learned, bad, *with_classifier(frozen, classifier, known.classes), result)
    if folder is not None:
        _write(probe, folder, config)
    return probe


def clip_features(
    frozen: Frozen, videos: Manifest, store: FrameStore, config: ProbeConfig, *, shown: str
) -> tuple[list[ClipRow], list[Failed]]:
    """Compute the features of all clips of videos.

    Args:
        frozen: The frozen network.
        videos: The videos.
        store: Source of their frames.
        config: How they are read and computed.
        shown: Title of the progress.

    Returns:
        Row of the video, number of the clip, and feature vector, float64 [D], of each clip; and the videos
        that could not be read, which have no clip.

    Raises:
        ManifestError: Too many videos cannot be read.
    """
    reading, compute = config.reading, config.compute
    if reading.cache:
        open_all(videos, store, workers=compute.workers)  # unreadable videos are reported below
    rows, bad = each_clip(
        frozen.vectors, videos, Protocol(frozen.spec), store=store, compute=compute, shown=shown
    )
    refuse_many(bad, among=len(videos), max_bad=reading.max_bad, option="max_bad")
    broken = {failed.row for failed in bad}
    return [row for row in rows if row[0] not in broken], bad


def _with_soft(known: Manifest, config: ProbeConfig) -> tuple[Manifest, Probs | None]:
    """Add the videos with soft labels after the labeled ones, and return the targets of all."""
    if config.soft is None:
        return known, None
    root = config.reading.root
    soft = read_soft_labels(config.soft, root=root)
    soft = soft.with_classes(known.classes, name=config.soft, owner="the training videos")
    refuse_moved(soft.videos, config.soft, root=root)
    return joined_with(known, soft)


def _fit(known: Manifest, targets: Probs | None, rows: list[ClipRow]) -> Any:
    """Fit the classifier, on the labels alone or on the targets of all videos."""
    if targets is None:
        return fit_linear(known, rows).classifier
    videos = np.array([row[0] for row in rows])
    return fit_soft(np.stack([row[2] for row in rows]), targets[videos], videos=videos).classifier


def with_classifier(
    frozen: Frozen, classifier: Any, classes: tuple[str, ...]
) -> tuple[VideoNet | None, ModelCard | None]:
    """Put a fitted classifier on the frozen network, in place of the one it has.

    Args:
        frozen: The frozen network.
        classifier: Fitted scikit-learn pipeline.
        classes: Names of the classes.

    Returns:
        The network and its card. None for an ONNX teacher.
    """
    if frozen.net is None or frozen.card is None:
        return None, None
    net, card = frozen.net, frozen.card
    options = net.options
    set_classifier(net, classifier, len(classes))
    if net.options != options:  # a fused model has another kind of classifier
        card = replace(card, options=asdict(net.options))
    return net, replace(card, classes=classes, targets="single")


def _write(probe: Probe, folder: RunFolder, config: ProbeConfig) -> None:
    """Write the model as a run folder."""
    assert probe.model is not None
    assert probe.card is not None
    with folder.finished(COMMAND, asdict(config), probe.train, probe.bad, replace=config.overwrite) as part:
        save_model(probe.model, part.last, card=probe.card)


def _videos(config: ProbeConfig) -> tuple[Manifest, Manifest | None]:
    """Open the training videos, reduced to the used labels, and the test videos."""
    train_root, *test_root = roots_of(config.reading.root, *filter(None, (config.train, config.test)))
    classes = config.reading.classes
    known = open_videos(config.train, root=train_root, source_pattern=config.source_pattern, classes=classes)
    if not known.label_column.fits("single"):
        raise ManifestError(
            f"{config.train}: a probe needs one label per video, and these have several (column `labels`); "
            "train a model on them instead"
        )
    if (known.labels < 0).any() or len(known.classes) < 2:
        raise ManifestError(f"{config.train}: a probe needs a label for every video, and at least 2 classes")
    known = known.label_subset(config.label_fraction, seed=config.label_seed)
    if config.test is None:
        return known, None
    asked = open_videos(config.test, root=test_root[0], classes=classes)
    refuse_unlabeled(asked, name=config.test)
    refuse_other_targets(asked, "single", name=config.test, other=config.train)
    return known, asked.with_classes(known.classes, name=config.test, owner="the training videos")


def result_of(classifier: Any, manifest: Manifest, rows: list[ClipRow], bad: list[Failed]) -> TestResult:
    """Test a fitted classifier.

    Args:
        classifier: Fitted scikit-learn pipeline.
        manifest: Test videos, with the class numbers of training.
        rows: Row of the video, number of the clip, and feature vector, float64 [D], of each clip.
        bad: Videos that could not be read.
    """
    full = class_probabilities(classifier, np.stack([row[2] for row in rows]), len(manifest.classes))
    scored = [(video, clip, probs) for (video, clip, _), probs in zip(rows, full, strict=True)]
    scores = collect(manifest, scored, bad)
    return TestResult(measure(scores), scores)
