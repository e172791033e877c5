"""The steps of a prediction, one after another, each with its time.

Legend: B clips of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from t3d.bench.opening import threads
from t3d.data.clips.dataset import Batch, VideoClips, collate
from t3d.data.clips.frames import Frames, FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed
from t3d.evaluation.exported import clips_of, probabilities
from t3d.evaluation.lanes import Function, computed
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.scoring import clip_scores
from t3d.runtime.exported import ExportedModel
from t3d.timing import Call
from t3d.video.video import Images

STEPS = ("open", "decode", "resize", "network")
_TOGETHER = 8  # batches that are computed together: several are computed at the same time


class PredictionSteps:
    """A prediction, step by step.

    Each step runs the code of `t3d predict`, with its batches. One core reads and resizes, and several cores
    compute parts of a batch at the same time.

    Args:
        predictor: Model, and how it computes.
        manifest: The videos.
    """

    def __init__(self, predictor: Predictor, manifest: Manifest) -> None:
        self._clock = _Clock()
        self._model = predictor.model
        self._spec = predictor.card.clip
        self._compute = predictor.compute
        self._manifest = manifest.with_classes(predictor.card.classes)
        self._store = _ClockedStore(predictor.store, self._clock)
        self._clips = VideoClips(self._manifest, self._spec, store=self._store)
        self._batch: list[Any] = []
        self._waiting: list[list[Any]] = []  # batches that were read
        self._warm = False

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each step."""
        return self._clock.steps

    def read(self, row: int) -> tuple[int, Failed | None]:
        """Read a video, and compute batches that are complete.

        Args:
            row: Row of the video.

        Returns:
            Number of its clips, and why it cannot be read, if it cannot.
        """
        exported = isinstance(self._model, ExportedModel)
        items: Iterator[Any]
        items = clips_of(row, self._manifest, self._store) if exported else self._clips.of(row)
        number = 0
        while True:
            with threads(1), self._clock("decode"):
                item = next(items, None)
            if item is None or isinstance(item, Failed):
                break
            number += 1
            self._batch.append(item)
            if len(self._batch) == self._compute.batch_size:
                self._close_batch()
        # A network's batch never has clips of videos in two parts, see `ClipBatches`.
        if not exported and (row + 1) % self._compute.batch_size == 0:
            self._close_batch()
        return number, item

    def finish(self) -> None:
        """Compute the batches that are left."""
        self._close_batch()
        self._score()

    def _close_batch(self) -> None:
        if self._batch:
            self._waiting.append(self._batch)
            self._batch = []
        if len(self._waiting) == _TOGETHER:
            self._score()

    def _score(self) -> None:
        """Compute the batches that were read."""
        batches, self._waiting = self._waiting, []
        if not batches:
            return
        if isinstance(self._model, ExportedModel):
            self._time(partial(_score_images, self._model, batches))
            return
        joined = [collate(batch) for batch in batches]
        with clip_scores(self._model, self._spec, self._compute) as scores:
            self._time(partial(_score_batches, scores, joined))

    def _time(self, call: Call) -> None:
        """Time the network. The first call also prepares it, so it runs once more."""
        if not self._warm:
            call()
            self._warm = True
        with self._clock("network"):
            call()


def _score_images(model: ExportedModel, batches: list[list[Any]]) -> None:
    for batch in batches:
        probabilities(model, batch)


def _score_batches(scores: Function, batches: list[Batch]) -> None:
    for _, vectors in computed(scores, batches):
        assert vectors is not None  # every batch has clips
        vectors.cpu()  # waits for a GPU


class _Clock:
    """Seconds of each step, without those of the steps within it."""

    def __init__(self) -> None:
        self.steps = dict.fromkeys(STEPS, 0.0)
        self._inner = [0.0]  # seconds of inner steps, by depth

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self.steps[step] += seconds - self._inner.pop()
            self._inner[-1] += seconds


class _ClockedStore(FrameStore):
    """Opens videos as another store does, and times opening and resizing."""

    def __init__(self, store: FrameStore, clock: _Clock) -> None:
        def resize(images: Images, height: int, width: int) -> Images:
            with clock("resize"):
                return store.resize(images, height, width)

        super().__init__(store.spec, resize=resize)
        self._clock = clock

    def open(self, path: Path) -> Frames:
        """Open a video."""
        with self._clock("open"):
            return super().open(path)
