"""Scores of whole videos, with the paper's protocol or with more views.

The paper's protocol (Training and testing T3D) cuts a video into non-overlapping clips, scores the center
crop of each, and averages the class probabilities of the clips. Where a video may have several labels, each
class has its own probability. Validation, `t3d test` and `t3d predict` all score through `score_videos`,
so their numbers agree. `t3d.data.clips.views` has the other protocols: several crops of a clip are averaged
first, then the clips, each with the same weight.

A video's scores are bit-equal whenever its clips go through the model in the same batches, on the same CPU
with the same number of threads. In other batches (another batch size, other videos in them, another order)
fp32 scores differ by rounding, by less than 1e-6: on some CPUs a matrix product rounds by the place in the
batch. Workers and processes do not change the batches.

Legend: B clips of a batch, N clips in all, V videos, K classes, D length of a vector.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from t3d.clip import ClipSpec, Targets
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import normalize
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute, explained_memory
from t3d.errors import DivergedError, Failed
from t3d.evaluation.clip_stream import ScoredClips, scored_clips
from t3d.evaluation.collect import collect
from t3d.evaluation.lanes import Function, Independent
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import ClipRow, ClipTimes, ScoredPart, Scores
from t3d.evaluation.task import TASKS
from t3d.models.net import VideoNet
from t3d.models.segments import with_consensus
from t3d.progress import Bar
from t3d.runtime.exported import ExportedModel


@dataclass(frozen=True)
class Processes:
    """The processes that share the videos out.

    Args:
        rank: Number of this process, from 0.
        count: Number of processes.
        gather: Joins the lists of all processes, on every process.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[list[Any]], list[Any]] = list


ONE_PROCESS = Processes()
IN_PROCESS = Compute(precision="fp32", workers=0)
"""float32, and videos are read by the process that scores them."""


def score_videos(
    model: nn.Module | ExportedModel,
    manifest: Manifest,
    protocol: Protocol,
    *,
    store: FrameStore | None = None,
    compute: Compute = IN_PROCESS,
    processes: Processes = ONE_PROCESS,
    shown: str | Bar = "Scoring videos",
    times: ClipTimes | None = None,
) -> Scores:
    """Score every video of a manifest.

    Args:
        model: The network, which is put into eval mode and back, or an exported model.
        manifest: The videos, V.
        protocol: How a video is scored.
        store: Where frames come from; None decodes.
        compute: How the model computes. Its device is the model's own, whatever `compute.device` is. So is
            the precision of an exported model.
        processes: Which of the processes that share the videos out this one is.
        shown: Title of the progress, see `t3d.progress`, or a bar to advance by the videos scored.
        times: See `each_clip`.

    Returns:
        Scores of all videos, the same on every process.

    Raises:
        ConfigError: The views do not go with the spec.
        DivergedError: Some scores are infinite or NaN; raised on every process.
    """
    rows: list[ClipRow] = []
    bad: list[Failed] = []
    failures: list[str] = []
    with clip_probabilities(model, protocol, compute) as probabilities:
        try:
            rows, bad = each_clip(
                probabilities,
                manifest,
                protocol,
                store=store,
                compute=compute,
                processes=processes,
                shown=shown,
                times=times,
            )
        except DivergedError as error:  # the other processes wait for this one below
            failures.append(str(error))
    if failures := processes.gather(failures):
        raise DivergedError(failures[0])
    return collect(manifest, processes.gather(rows), processes.gather(bad), targets=protocol.targets)


@contextmanager
def clip_probabilities(
    model: nn.Module | ExportedModel, protocol: Protocol, compute: Compute
) -> Iterator[Function]:
    """Yield a function from uint8 clips [B, T, C, H, W] to probabilities, float64 [B, K].

    Args:
        model: See `score_videos`.
        protocol: What a clip is, and the meaning of scores.
        compute: Precision of a network.
    """
    task = TASKS[protocol.targets]
    with clip_scores(model, protocol.spec, compute) as scores:

        def probabilities(clips: torch.Tensor) -> torch.Tensor:
            # Probabilities and means in double precision: they add no rounding to the model's.
            return task.probabilities(scores(clips).double())

        yield Independent(probabilities) if isinstance(scores, Independent) else probabilities


@contextmanager
def clip_scores(model: nn.Module | ExportedModel, spec: ClipSpec, compute: Compute) -> Iterator[Function]:
    """Yield a function from uint8 clips [B, T, C, H, W] to the model's scores [B, K].

    Args:
        model: See `score_videos`.
        spec: What a clip is.
        compute: Precision of a network.
    """
    if isinstance(model, ExportedModel):  # its graph has the consensus of segments
        yield lambda clips: model(normalize(clips, spec))
        return
    device = next(model.parameters()).device
    bf16 = compute.use_bf16(device)
    scorer = with_consensus(model, spec.segments)

    @torch.inference_mode()
    def scores(clips: torch.Tensor) -> torch.Tensor:
        with _memory_of(clips):
            x = normalize(clips.to(device, non_blocking=True), spec)  # B C T H W
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                logits: torch.Tensor = scorer(x)  # B K
        return logits

    training = model.training
    scorer.eval()
    try:
        yield _on_lanes(scores, device)
    finally:
        model.train(training)


def pooled_features(model: VideoNet, spec: ClipSpec, *, bf16: bool) -> Function:
    """Return a function from uint8 clips [B, T, C, H, W] to the model's pooled features [B, D].

    The features of the segments of a clip are averaged.

    Args:
        model: The model.
        spec: Clip settings of the model.
        bf16: Compute in bfloat16.
    """
    device = next(model.parameters()).device

    @torch.inference_mode()
    def features(clips: torch.Tensor) -> torch.Tensor:
        with _memory_of(clips):
            x = normalize(clips.to(device), spec)
            parts = torch.cat(x.chunk(spec.segments, dim=2))  # S·B C T H W
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                pooled: torch.Tensor = model.forward_head(model.forward_features(parts), pre_logits=True)
        return torch.stack(pooled.double().chunk(spec.segments)).mean(0)

    return _on_lanes(features, device)


def _memory_of(clips: torch.Tensor) -> AbstractContextManager[None]:
    """Say what to change if memory runs out while clips [B, T, C, H, W] are computed."""
    count, frames, _, height, width = clips.shape
    doing = f"while {count} clips of {frames} × {height} × {width} were computed at a time"
    return explained_memory(doing, "Lower `batch_size`")


def _on_lanes(function: Function, device: torch.device) -> Function:
    """Let several threads call the function of a network, if it computes on the CPU."""
    return Independent(function) if device.type == "cpu" else function


def each_clip(
    function: Function,
    manifest: Manifest,
    protocol: Protocol,
    *,
    store: FrameStore | None = None,
    compute: Compute = IN_PROCESS,
    processes: Processes = ONE_PROCESS,
    shown: str | Bar = "Scoring videos",
    times: ClipTimes | None = None,
) -> tuple[list[ClipRow], list[Failed]]:
    """Call a function with every clip of every video.

    Args:
        function: Takes clips, uint8 [B, T, C, H, W], and returns a vector for each, [B, D].
        manifest: The videos.
        protocol: Which clips and crops are asked for.
        store: Where frames come from; None decodes.
        compute: Batch size, and processes that read videos. Device and precision are the function's affair.
        processes: Which of the processes that share the videos out this one is. Nothing is gathered.
        shown: Title of the progress, see `t3d.progress`, or a bar to advance by the videos scored.
        times: Dictionary that collects the times of the clips that this process scores.

    Returns:
        Two lists. The first has one entry per clip: row of the video, number of the clip, and the vector,
        float64 [D], averaged over the crops of the clip. The second has the videos that could not be read.
        The first list may still have some clips of these videos.

    Raises:
        ConfigError: The views do not go with the spec.
        DivergedError: A vector holds an infinite number or NaN.
    """
    rows: list[ClipRow] = []
    bad: list[Failed] = []
    stream = scored_clips(
        function,
        manifest,
        protocol,
        store=store,
        compute=compute,
        share=(processes.rank, processes.count),
        shown=shown,
    )
    with closing(stream):
        for part in stream:
            rows.extend(part.rows)
            bad.extend(part.bad)
            if times is not None:
                times.update(part.times)
    return rows, bad


def score_parts(
    model: nn.Module | ExportedModel,
    manifest: Manifest,
    protocol: Protocol,
    *,
    store: FrameStore | None = None,
    compute: Compute = IN_PROCESS,
    shown: str | Bar = "Scoring videos",
) -> Generator[ScoredPart, None, None]:
    """Score the videos of a manifest as `score_videos` does, and yield them as soon as they are scored.

    Only the videos that are being scored are in memory.

    Args:
        model: See `score_videos`.
        manifest: The videos.
        protocol: How a video is scored.
        store: Where frames come from; None decodes.
        compute: How the model computes, see `score_videos`.
        shown: See `score_videos`.

    Yields:
        The videos in their order, at most `compute.batch_size` at a time.

    Raises:
        ConfigError: The views do not go with the spec.
        DivergedError: Some scores are infinite or NaN.
    """
    size = compute.batch_size
    waiting: defaultdict[int, ScoredClips] = defaultdict(ScoredClips)  # by the number of the part
    yielded = 0
    with (
        clip_probabilities(model, protocol, compute) as probabilities,
        closing(
            scored_clips(probabilities, manifest, protocol, store=store, compute=compute, shown=shown)
        ) as batches,
    ):
        for batch in batches:
            waiting[batch.part].add(batch)
            while (first := yielded * size) < len(manifest):
                videos = range(first, min(first + size, len(manifest)))
                if waiting[yielded].finished < len(videos):
                    break
                yield _part_of(manifest, videos, waiting.pop(yielded), protocol.targets)
                yielded += 1


def _part_of(manifest: Manifest, videos: range, scored: ScoredClips, targets: Targets) -> ScoredPart:
    """Return the scores of some rows of a manifest, counted from the first of them."""
    first = videos.start
    scores = collect(
        manifest.select(videos),
        [(row - first, clip, vector) for row, clip, vector in scored.rows],
        [replace(failed, row=failed.row - first) for failed in scored.bad],
        targets=targets,
    )
    return ScoredPart(scores, {(row - first, clip): span for (row, clip), span in scored.times.items()})
