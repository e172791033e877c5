"""Scores of whole videos, by the paper's protocol or by more views, and what they are worth.

A video is cut into non-overlapping clips; each clip's centre crop goes through the net; the video's
prediction is the mean of its clips' class probabilities (Training and testing T3D). Where a video may have
several labels, each class has a probability of its own. Validation, `t3d test` and `t3d predict` all score
through `score_videos`, so that their numbers agree. `t3d.data.views` has the other protocols: several crops
of a clip are averaged first, then the clips, each with the same weight.

A video's scores are bit-equal whenever its clips go through the net in the same batches, on the same CPU with
the same number of threads. In other batches (another batch size, other videos beside it, another order) fp32
scores differ by rounding, by less than 1e-6: on some CPUs a matrix product rounds by the place in the batch.
Workers and processes do not change the batches.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from t3d.data.dataset import BadVideo, ClipBatches, FrameOrder, VideoClips
from t3d.data.frames import FrameStore
from t3d.data.labels import SEPARATOR, Targets
from t3d.data.loader import Loader
from t3d.data.manifest import Manifest
from t3d.data.sampling import ClipSpec
from t3d.data.transforms import normalise
from t3d.data.views import PAPER_VIEWS, Views
from t3d.errors import ManifestError, T3DError
from t3d.files import atomic_path
from t3d.models.segments import with_consensus
from t3d.multilabel import THRESHOLD, MultiMetrics, measure_multi

ClipRow = tuple[int, int, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Scores:
    """What a net says of some videos.

    Args:
        classes: Class names, K.
        clip_probs: Class probabilities of every clip, the mean over its crops where several are scored,
            float64 [N, K], in order of video and clip.
        clip_video: Row of each clip's video, int64 [N].
        video_probs: Mean over the clips of each video, float64 [V, K]; NaN for a video that cannot be read.
        labels: Row of each video's class, int64 [V]; -1 where there is none. Where a video may have several
            labels, int8 [V, K]: 1 where a class applies, else 0; -1 throughout a video that is unlabelled.
        paths: File of each video.
        bad: The videos that could not be read.
        targets: `single`: the probabilities of a clip sum to 1; `multi`: each class has one of its own.
    """

    classes: tuple[str, ...]
    clip_probs: npt.NDArray[np.float64]
    clip_video: npt.NDArray[np.int64]
    video_probs: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.int8]
    paths: tuple[str, ...]
    bad: tuple[BadVideo, ...]
    targets: Targets = "single"


@dataclass(frozen=True)
class Metrics:
    """What the scores are worth on labelled videos; accuracies in [0, 1].

    Args:
        videos: Videos scored.
        bad: Videos that could not be read, and count in no accuracy.
        clip_top1: Share of clips whose likeliest class is right; see `Scores.clip_probs`.
        clip_top5: Share of clips with the right class among the five likeliest (among all, below five).
        video_top1: The same for videos.
        video_top5: The same for videos.
        mean_class: Mean over classes of the video accuracy.
        loss: Mean over videos of -log of the probability given to the right class, in nats.
        per_class: Video accuracy of each class that has videos.
        confusion: Videos of class i that were called class j, [K][K].
    """

    videos: int
    bad: int
    clip_top1: float
    clip_top5: float
    video_top1: float
    video_top5: float
    mean_class: float
    loss: float
    per_class: dict[str, float]
    confusion: list[list[int]]

    @property
    def best_by(self) -> float:
        """What the best weights of a run are chosen by."""
        return self.video_top1

    def log_line(self) -> dict[str, float | int]:
        """The figures of a line in a run's log."""
        return {
            "loss": self.loss,
            "top1": self.video_top1,
            "top5": self.video_top5,
            "clip_top1": self.clip_top1,
            "bad": self.bad,
        }

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}  top-1 {self.video_top1:.1%}  top-5 {self.video_top5:.1%}"


def score_videos(
    model: nn.Module,
    manifest: Manifest,
    *,
    spec: ClipSpec,
    store: FrameStore | None = None,
    order: FrameOrder = "normal",
    seed: int = 0,
    batch_size: int = 8,
    workers: int = 0,
    bf16: bool = False,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[list[Any]], list[Any]] = list,
    progress: Callable[[int], None] | None = None,
    targets: Targets = "single",
    views: Views = PAPER_VIEWS,
) -> Scores:
    """Score every video of a manifest.

    Args:
        model: The net; it is put into eval mode and back. Its device is used.
        manifest: The videos, V.
        spec: What a clip is.
        store: Where frames come from; None decodes.
        order: Frame order within each clip, see `VideoClips`.
        seed: For `order = shuffled`.
        batch_size: Clips, or crops of them, that go through the net together; changes speed and memory, and
            scores by rounding only.
        workers: Processes that read videos. 0: this one.
        bf16: Compute in bfloat16 where that is safe.
        rank: This process, from 0, when several share the videos out.
        world_size: Number of processes.
        gather: Joins the lists of all processes, on every process.
        progress: Called with the number of clips, or crops of them, done since the last call.
        targets: What the net's scores are of, as its card says.
        views: Which clips and crops are scored.

    Returns:
        Scores of all videos, the same on every process.

    Raises:
        ConfigError: The views do not go with the spec.
        T3DError: The net gives scores that are no numbers.
    """
    device = next(model.parameters()).device
    scorer = with_consensus(model, spec.segments)

    @torch.inference_mode()
    def probabilities(clips: torch.Tensor) -> torch.Tensor:
        x = normalise(clips.to(device, non_blocking=True), spec)  # B C T H W
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits: torch.Tensor = scorer(x)  # B K
        # Probabilities and means in double precision: they add no rounding to that of the net.
        logits = logits.double()
        return logits.softmax(1) if targets == "single" else logits.sigmoid()

    training = model.training
    scorer.eval()
    try:
        rows, bad = each_clip(
            probabilities,
            manifest,
            spec=spec,
            store=store,
            order=order,
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            rank=rank,
            world_size=world_size,
            progress=progress,
            views=views,
        )
    finally:
        model.train(training)
    return collect(manifest, gather(rows), gather(bad), targets=targets)


def each_clip(
    function: Callable[[torch.Tensor], torch.Tensor],
    manifest: Manifest,
    *,
    spec: ClipSpec,
    store: FrameStore | None = None,
    order: FrameOrder = "normal",
    seed: int = 0,
    batch_size: int = 8,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], None] | None = None,
    views: Views = PAPER_VIEWS,
) -> tuple[list[ClipRow], list[BadVideo]]:
    """Give every clip of every video to a function.

    Args:
        function: Takes clips, uint8 [B, T, C, H, W], and gives a vector for each, [B, D].
        manifest: The videos.
        spec: What a clip is.
        store: See `score_videos`, as for all that follows.
        order: Frame order within each clip.
        seed: For `order = shuffled`.
        batch_size: Clips at a time.
        workers: Processes that read videos.
        rank: This process.
        world_size: Number of processes.
        progress: Called with the number of clips, or crops of them, done since the last call.
        views: Which clips and crops are asked for.

    Returns:
        Row of the video, number of the clip, and the vector, float64 [D], of each clip, the mean over its
        crops; and the videos that could not be read, of which some clips may nevertheless be there.

    Raises:
        ConfigError: The views do not go with the spec.
        T3DError: A vector holds what is no finite number.
    """
    clips = VideoClips(manifest, spec, store=store or FrameStore(spec), order=order, seed=seed, views=views)
    batches = ClipBatches(clips, batch_size=batch_size, rank=rank, world_size=world_size)
    loader = Loader(batches, batch_size=None, num_workers=workers)
    rows: list[ClipRow] = []
    bad: list[BadVideo] = []
    # Crops of a clip may lie in two batches, and other workers' batches between these.
    crops: defaultdict[tuple[int, int], list[npt.NDArray[np.float64]]] = defaultdict(list)
    for batch in loader:
        bad.extend(batch.bad)
        if batch.frames is None:
            continue
        vectors = function(batch.frames).double().cpu().numpy()
        if not np.isfinite(vectors).all():  # else they would pass for videos that cannot be read
            raise T3DError("the net gives scores that are no finite numbers: its weights have diverged")
        for video, clip, vector in zip(batch.videos.tolist(), batch.clips.tolist(), vectors, strict=True):
            crops[video, clip].append(vector)
            if len(crops[video, clip]) == views.crops:
                rows.append((video, clip, np.mean(crops.pop((video, clip)), 0)))
        if progress:
            progress(len(vectors))
    return rows, bad


def collect(
    manifest: Manifest, rows: list[ClipRow], bad: list[BadVideo], *, targets: Targets = "single"
) -> Scores:
    """Bring the probabilities of clips together into those of videos.

    Args:
        manifest: The videos.
        rows: What `each_clip` gave, in any order; the vectors are probabilities.
        bad: The videos whose clips do not count.
        targets: What the probabilities are of.
    """
    broken = {video.video for video in bad}
    rows = sorted((row for row in rows if row[0] not in broken), key=lambda row: row[:2])
    width = len(rows[0][2]) if rows else len(manifest.classes)
    clip_probs = np.array([probs for _, _, probs in rows]).reshape(-1, width)
    clip_video = np.array([video for video, _, _ in rows], dtype=np.int64)
    video_probs = np.full((len(manifest), width), np.nan)
    for video in np.unique(clip_video):
        video_probs[video] = clip_probs[clip_video == video].mean(0)
    return Scores(
        classes=manifest.classes,
        clip_probs=clip_probs,
        clip_video=clip_video,
        video_probs=video_probs,
        labels=manifest.labels if targets == "single" else manifest.multi_hot(),
        paths=tuple(str(manifest[i].path) for i in range(len(manifest))),
        bad=tuple(sorted(bad, key=lambda video: video.video)),
        targets=targets,
    )


def measure(scores: Scores) -> Metrics | MultiMetrics:
    """Compare scores with labels.

    Raises:
        ManifestError: No labelled video could be read.
    """
    return measure_multi(scores) if scores.targets == "multi" else measure_single(scores)


def measure_single(scores: Scores) -> Metrics:
    """Compare scores with labels, where each video has one class.

    Raises:
        ManifestError: No labelled video could be read.
    """
    known = (scores.labels >= 0) & np.isfinite(scores.video_probs).all(1)
    if not known.any():
        raise ManifestError(
            f"none of the {len(scores.labels)} videos is both labelled and readable; "
            f"{len(scores.bad)} could not be read"
        )
    classes = len(scores.classes)
    probs, labels = torch.from_numpy(scores.video_probs[known]), torch.from_numpy(scores.labels[known])
    clip_known = known[scores.clip_video]
    clip_probs = torch.from_numpy(scores.clip_probs[clip_known])
    clip_labels = torch.from_numpy(scores.labels[scores.clip_video[clip_known]])
    confusion = multiclass_confusion_matrix(probs, labels, num_classes=classes)
    count = confusion.sum(1)
    present = count > 0
    accuracy = confusion.diagonal()[present] / count[present]
    names = [name for name, there in zip(scores.classes, present.tolist(), strict=True) if there]

    def top(k: int, p: torch.Tensor, y: torch.Tensor) -> float:
        k = min(k, classes)
        return float(multiclass_accuracy(p, y, num_classes=classes, top_k=k, average="micro"))

    return Metrics(
        videos=int(known.sum()),
        bad=len(scores.bad),
        clip_top1=top(1, clip_probs, clip_labels),
        clip_top5=top(5, clip_probs, clip_labels),
        video_top1=top(1, probs, labels),
        video_top5=top(5, probs, labels),
        mean_class=float(accuracy.mean()),
        loss=float(-probs[torch.arange(len(labels)), labels].clamp_min(1e-12).log().mean()),
        per_class=dict(zip(names, accuracy.tolist(), strict=True)),
        confusion=confusion.tolist(),
    )


def write_scores(scores: Scores, path: Path) -> None:
    """Write one row a video: path, label, prediction, clips and the probability of each class.

    Several labels, and the classes with a probability of at least 0.5, stand as in a manifest's table.
    """
    clips = np.bincount(scores.clip_video, minlength=len(scores.labels))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        said = ["label", "prediction"] if scores.targets == "single" else ["labels", "predictions"]
        writer.writerow(["path", *said, "clips", *scores.classes])
        for row, path_ in enumerate(scores.paths):
            probs = scores.video_probs[row]
            readable = bool(np.isfinite(probs).all())
            writer.writerow(
                [
                    path_,
                    _labels_of(scores, row),
                    _predictions_of(scores, row) if readable else "",
                    int(clips[row]),
                    *([f"{p:.6f}" for p in probs] if readable else [""] * len(probs)),
                ]
            )


def _labels_of(scores: Scores, row: int) -> str:
    labels = scores.labels[row]
    if scores.targets == "single":
        return scores.classes[labels] if labels >= 0 else ""
    return _named(scores.classes, labels == 1) if (labels >= 0).all() else ""


def _predictions_of(scores: Scores, row: int) -> str:
    probs = scores.video_probs[row]
    if scores.targets == "single":
        return scores.classes[int(probs.argmax())]
    return _named(scores.classes, probs >= THRESHOLD)


def _named(classes: Sequence[str], applies: npt.NDArray[np.bool_]) -> str:
    names = [name for name, there in zip(classes, applies.tolist(), strict=True) if there]
    return SEPARATOR.join(names) or SEPARATOR
