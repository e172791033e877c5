"""Scores of whole videos, by the paper's protocol or by more views, and what they are worth.

A video is cut into non-overlapping clips; each clip's centre crop goes through the net; the video's
prediction is the mean of its clips' class probabilities (Training and testing T3D). Where a video may have
several labels, each class has a probability of its own. Validation, `t3d test` and `t3d predict` all score
through `score_videos`, so that their numbers agree. `t3d.data.clips.views` has the other protocols: several
crops of a clip are averaged first, then the clips, each with the same weight.

Legend: V videos, N clips in all, K classes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from t3d.clip import ClipSpec, Targets
from t3d.data.clips.dataset import ClipBatches, FrameOrder, VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.transforms import normalise
from t3d.data.clips.views import PAPER_VIEWS, Views
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, T3DError
from t3d.evaluation.scores import ClipRow, Scores, collect
from t3d.models.segments import with_consensus


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
        batch_size: Clips, or crops of them, that go through the net together; changes nothing but speed and
            memory.
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
        # Probabilities and means in double precision: the order of clips and processes cannot show in them.
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
) -> tuple[list[ClipRow], list[Failed]]:
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
    bad: list[Failed] = []
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
