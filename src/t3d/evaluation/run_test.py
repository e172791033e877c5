"""Test a trained model on labeled videos."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from t3d.data.catalog import open_index, open_videos, refuse_other_targets, refuse_unlabeled
from t3d.data.clips.check import open_all, refuse_many
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.views import PAPER_VIEWS, FrameOrder, Views
from t3d.errors import ManifestError
from t3d.evaluation.config import TestConfig
from t3d.evaluation.leaks import Overlap, overlap_sentences, overlaps, shared_with_run
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import Scores
from t3d.evaluation.scoring import ONE_PROCESS, Processes, score_videos
from t3d.evaluation.task import measure
from t3d.runtime.load import by_file, load


@dataclass(frozen=True)
class TestResult:
    """The result of a test.

    Args:
        metrics: Figures over all videos.
        scores: Scores of each video.
        views: The views of each video that were scored.
        overlaps: Videos shared with other lists of the model, such as its training list; empty if these
            are unknown.
        frame_order: What was done to the frames of each clip.
    """

    __test__ = False  # the name starts as those of pytest's classes do

    metrics: Metrics | MultiMetrics
    scores: Scores
    views: Views = PAPER_VIEWS
    overlaps: tuple[Overlap, ...] = ()
    frame_order: FrameOrder = "normal"

    @property
    def single(self) -> Metrics:
        """The metrics of videos with one label each.

        Raises:
            ManifestError: The videos have several labels each.
        """
        if isinstance(self.metrics, MultiMetrics):
            raise ManifestError(
                "these videos do not have one label each but several; `metrics` holds their figures"
            )
        return self.metrics

    def to_json(self) -> dict[str, Any]:
        """Return the metrics for `metrics.json`, with views and frame order unless they are the paper's.

        A figure that does not apply, such as a top-5 accuracy of two classes, is left out.
        """
        views: dict[str, Any] = {} if self.views == PAPER_VIEWS else {"views": asdict(self.views)}
        if self.frame_order != "normal":
            views["frame_order"] = self.frame_order
        shared = {overlap.other: overlap.to_json() for overlap in self.overlaps}
        figures = {name: value for name, value in asdict(self.metrics).items() if value is not None}
        return figures | views | ({"shared": shared} if shared else {})

    def sentences(self) -> list[str]:
        """Return the result in plain sentences: headline, limits, shared videos."""
        return [self.metrics.headline(), *self.metrics.remarks(), *self.shared_sentences()]

    def shared_sentences(self) -> list[str]:
        """Return the overlaps with other lists of the model, in plain sentences."""
        return overlap_sentences(self.overlaps)


def run_test(config: TestConfig, *, processes: Processes = ONE_PROCESS) -> TestResult:
    """Test a model on labeled videos.

    Args:
        config: What to test, on which videos, and how.
        processes: Processes that share the videos, each of which calls this function.

    Returns:
        Metrics, and the scores of every video, the same in every process.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: An option cannot work with these weights or on this machine.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.

    Example:
        >>> result = run_test(TestConfig("runs/mine", "videos/test.csv"))  # doctest: +SKIP
        >>> f"{result.single.video_top1:.1%}"  # doctest: +SKIP
        '83.4%'
    """
    reading, compute = config.reading, config.compute
    model, card = load(
        config.model,
        runtime=by_file(config.model, config.runtime),
        compute=compute,
        allow_unfinished=config.allow_unfinished,
    )
    spec = card.clip if config.tail is None else replace(card.clip, tail=config.tail)
    config.views.check(spec)  # before videos are decoded into a cache
    manifest = open_videos(config.videos, root=reading.root, classes=reading.classes)
    remedy = (
        "test it on videos with several labels, or use a model for one label"
        if card.targets == "multi"
        else "test it on videos with one label, or use a model for several labels"
    )
    refuse_other_targets(manifest, card.targets, name=config.videos, other=config.model, remedy=remedy)
    refuse_unlabeled(manifest, name=config.videos)
    manifest = manifest.with_classes(card.classes, name=config.videos)
    index = open_index(reading.index, config.videos, root=reading.root)
    shared = shared_with_run(config.model, manifest, index, name=config.videos)
    store = FrameStore(
        spec, cache=reading.cache, index=index, limits=reading.limits, image_fps=reading.image_fps
    )
    if reading.cache and processes.rank == 0:
        open_all(manifest, store, workers=compute.workers)  # scoring reports what cannot be read
    protocol = Protocol(spec, card.targets, config.views, config.frame_order, config.seed)
    scores = score_videos(
        model, manifest, protocol, store=store, compute=compute, processes=processes, shown="Testing"
    )
    refuse_many(scores.bad, among=len(manifest), max_bad=reading.max_bad, option="max_bad")
    return TestResult(measure(scores), scores, config.views, overlaps(scores, shared), config.frame_order)
