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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import Batch, ClipBatches, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.transforms import normalize
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import DivergedError, Failed
from t3d.evaluation.collect import collect
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scores import ClipRow, ClipTimes, Scores
from t3d.evaluation.task import TASKS
from t3d.models.net import VideoNet
from t3d.models.segments import with_consensus
from t3d.progress import Bar, progress
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
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
    """Yield a function from uint8 clips [B, T, C, H, W] to probabilities, float64 [B, K].

    Args:
        model: See `score_videos`.
        protocol: What a clip is, and the meaning of scores.
        compute: Precision of a network.
    """
    task = TASKS[protocol.targets]
    with clip_scores(model, protocol.spec, compute) as scores:
        # Probabilities and means in double precision: they add no rounding to the model's.
        yield lambda clips: task.probabilities(scores(clips).double())


@contextmanager
def clip_scores(
    model: nn.Module | ExportedModel, spec: ClipSpec, compute: Compute
) -> Iterator[Callable[[torch.Tensor], torch.Tensor]]:
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
        x = normalize(clips.to(device, non_blocking=True), spec)  # B C T H W
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits: torch.Tensor = scorer(x)  # B K
        return logits

    training = model.training
    scorer.eval()
    try:
        yield scores
    finally:
        model.train(training)


def pooled_features(model: VideoNet, spec: ClipSpec, *, bf16: bool) -> Callable[[torch.Tensor], torch.Tensor]:
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
        x = normalize(clips.to(device), spec)
        parts = torch.cat(x.chunk(spec.segments, dim=2))  # S·B C T H W
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            pooled: torch.Tensor = model.forward_head(model.forward_features(parts), pre_logits=True)
        return torch.stack(pooled.double().chunk(spec.segments)).mean(0)

    return features


def each_clip(
    function: Callable[[torch.Tensor], torch.Tensor],
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
    clips = VideoClips(
        manifest,
        protocol.spec,
        store=store or FrameStore(protocol.spec),
        order=protocol.order,
        seed=protocol.seed,
        views=protocol.views,
    )
    batches = ClipBatches(
        clips, batch_size=compute.batch_size, rank=processes.rank, world_size=processes.count
    )
    loader = Loader(batches, batch_size=None, num_workers=compute.workers)
    rows: list[ClipRow] = []
    bad: list[Failed] = []
    # Crops of a clip may be in two batches, and other workers' batches between these.
    crops: defaultdict[tuple[int, int], list[npt.NDArray[np.float64]]] = defaultdict(list)
    with progress(shown, batches.videos()) if isinstance(shown, str) else nullcontext(shown) as bar:
        for batch in _counted(loader, bar):
            bad.extend(batch.bad)
            if batch.frames is None:
                continue
            if times is not None:
                keys = zip(batch.videos.tolist(), batch.clips.tolist(), strict=True)
                times.update(zip(keys, map(tuple, batch.times.tolist()), strict=True))
            vectors = function(batch.frames).double().cpu().numpy()
            if not np.isfinite(vectors).all():  # else they would pass for videos that cannot be read
                raise DivergedError(
                    "the model's outputs are not finite numbers, so its weights have diverged"
                )
            for video, clip, vector in zip(batch.videos.tolist(), batch.clips.tolist(), vectors, strict=True):
                crops[video, clip].append(vector)
                if len(crops[video, clip]) == protocol.views.crops:
                    rows.append((video, clip, np.mean(crops.pop((video, clip)), 0)))
    return rows, bad


def _counted(loader: Loader, bar: Bar) -> Iterator[Batch]:
    """Yield batches, and advance the bar by the share of each video that they hold."""
    done: defaultdict[int, float] = defaultdict(float)  # videos of which a part is done
    for batch in loader:
        yield batch
        for video, share in zip(batch.videos.tolist(), batch.shares.tolist(), strict=True):
            done[video] += share
        bar.advance(float(batch.shares.sum()))
        for failed in batch.bad:  # the rest of a video that broke
            bar.advance(1 - done.pop(failed.row, 0.0))
