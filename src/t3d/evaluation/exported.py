"""Scores of whole videos by an exported model, without torch: OpenVINO or ONNX Runtime, and NumPy.

`t3d.evaluation.scoring` does the same with torch, for any model and protocol. The clips are the same, and the
tests compare the pixels and the probabilities. Here threads of this process read the videos, since decoding,
resizing and computing all run outside of Python's lock.

A batch has clips of neighboring videos. Which clips share a batch depends on the videos and the batch size
only, so the scores do not depend on the number of threads that read.

Legend: B clips of a batch, T frames, H height, W width, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from t3d.clip import Targets
from t3d.data.clips import numpy_pixels
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.spans import clip_times, usable_part
from t3d.data.clips.views import PAPER_VIEWS
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import DivergedError, Failed, VideoError
from t3d.evaluation.collect import collect
from t3d.evaluation.scores import ClipRow, ClipTimes, ScoredPart
from t3d.progress import Bar
from t3d.runtime.exported import ExportedModel
from t3d.video.video import Images
from t3d.workers.threads import in_order

_BATCHES_AHEAD = 2  # batches of clips that are read before they are asked for


class ClipImages(NamedTuple):
    """One clip of a video.

    Args:
        video: Row of the video in its manifest.
        number: Number of the clip, from 0.
        images: uint8 [S·T, size, size, 3].
        clips: Number of clips of the video.
        times: Seconds at which it starts and ends.
    """

    video: int
    number: int
    images: Images
    clips: int
    times: tuple[float, float]


def scored_videos(
    model: ExportedModel, manifest: Manifest, *, store: FrameStore, compute: Compute, bar: Bar
) -> Generator[ScoredPart, None, None]:
    """Score the videos of a manifest by the paper's protocol.

    Args:
        model: The model. Its card says what a clip is.
        manifest: The videos.
        store: Where frames come from.
        compute: `batch_size` clips are computed together, and `workers` threads read videos. 0: each video is
            read when its clips are needed.
        bar: Progress, advanced by the videos scored.

    Yields:
        Scores and times of the next videos, in the order of the manifest, as soon as they are known.

    Raises:
        DivergedError: Some scores are infinite or NaN.
    """
    pending = _Pending(manifest, model.card.targets, bar)
    batch: list[ClipImages] = []
    read_ahead = in_order(
        partial(clips_of, manifest=manifest, store=store),
        range(len(manifest)),
        threads=compute.workers,
        most=_BATCHES_AHEAD * compute.batch_size,
    )
    with closing(read_ahead) as items:
        for item in items:
            if isinstance(item, Failed):
                batch = [clip for clip in batch if clip.video != item.row]
                pending.fail(item)
            else:
                batch.append(item)
            if len(batch) == compute.batch_size:
                pending.add(batch, probabilities(model, batch))
                batch = []
            if not batch and pending.finished:
                yield pending.pop()
        if batch:
            pending.add(batch, probabilities(model, batch))
            yield pending.pop()


class _Pending:
    """Scores of videos that were not yielded yet.

    Args:
        manifest: All videos.
        targets: Meaning of the scores.
        bar: Progress, advanced by the share of each video that is added.

    Attributes:
        finished: Number of videos that are complete or broken.
    """

    def __init__(self, manifest: Manifest, targets: Targets, bar: Bar) -> None:
        self.finished = 0
        self._manifest = manifest
        self._targets = targets
        self._bar = bar
        self._first = 0  # row of the first video
        self._rows: list[ClipRow] = []  # videos are numbered from the first
        self._bad: list[Failed] = []
        self._times: ClipTimes = {}
        self._shares: defaultdict[int, float] = defaultdict(float)  # of each unfinished video

    def add(self, clips: Sequence[ClipImages], probs: npt.NDArray[np.float64]) -> None:
        """Add clips in order, with their probabilities [B, K]."""
        for clip, each in zip(clips, probs, strict=True):
            video = clip.video - self._first
            self._rows.append((video, clip.number, each))
            self._times[video, clip.number] = clip.times
            self._bar.advance(1 / clip.clips)
            self._shares[clip.video] += 1 / clip.clips
            if clip.number + 1 == clip.clips:
                self._finish(clip.video)

    def fail(self, failed: Failed) -> None:
        """Add a video that cannot be read, or whose last clips cannot."""
        video = failed.row - self._first
        self._bad.append(replace(failed, row=video))
        self._bar.advance(1 - self._shares[failed.row])
        self._finish(failed.row)

    def _finish(self, row: int) -> None:
        self.finished = max(self.finished, row + 1 - self._first)
        self._shares.pop(row)

    def pop(self) -> ScoredPart:
        """Remove and return the scores and times of the finished videos."""
        count, self.finished = self.finished, 0
        part = self._manifest.select(range(self._first, self._first + count))
        rows = [row for row in self._rows if row[0] < count]
        broken = {failed.row for failed in self._bad}
        times = {key: span for key, span in self._times.items() if key[0] < count and key[0] not in broken}
        scores = collect(part, rows, self._bad, targets=self._targets)
        self._first += count
        self._rows = [(row[0] - count, *row[1:]) for row in self._rows if row[0] >= count]
        self._times = {(key[0] - count, key[1]): s for key, s in self._times.items() if key[0] >= count}
        self._bad = []
        return ScoredPart(scores, times)


def clips_of(row: int, manifest: Manifest, store: FrameStore) -> Iterator[ClipImages | Failed]:
    """Yield the clips of a video, or why it cannot be read; as `VideoClips` does."""
    entry, spec = manifest[row], store.spec
    try:
        frames = store.open(entry.path)
        low, part = usable_part(frames, entry, spec)
        clips = PAPER_VIEWS.clips_of(part, spec)
        for number, clip in enumerate(clips):
            images = numpy_pixels.center_crop(frames.images(low + clip), spec)
            yield ClipImages(row, number, images, len(clips), clip_times(frames.times, low + clip))
    except VideoError as error:
        yield Failed(str(entry.path), error.reason, row)


def probabilities(model: ExportedModel, clips: Sequence[ClipImages]) -> npt.NDArray[np.float64]:
    """Return the probabilities of clips, float64 [B, K].

    Raises:
        DivergedError: Some scores are infinite or NaN: they would pass for videos that cannot be read.
    """
    x = numpy_pixels.normalize([clip.images for clip in clips], model.card.clip)
    scores = model.scores(x).astype(np.float64)
    if not np.isfinite(scores).all():
        raise DivergedError("the model's outputs are not finite numbers, so its weights have diverged")
    return sigmoid(scores) if model.card.targets == "multi" else softmax(scores)


def softmax(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return probabilities that sum to 1, float64 [B, K].

    Example:
        >>> softmax(np.array([[0.0, 0.0]])).tolist()
        [[0.5, 0.5]]
    """
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def sigmoid(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return one probability per class, float64 [B, K].

    Example:
        >>> sigmoid(np.array([[0.0, -1000.0]])).tolist()
        [[0.5, 0.0]]
    """
    small = np.exp(-np.abs(scores))  # never overflows
    return np.where(scores < 0, small, 1.0) / (1.0 + small)
