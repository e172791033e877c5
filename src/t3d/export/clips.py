"""Clips that an exported model is checked and calibrated with.

Legend: N clips, S segments, T frames.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch

from t3d.clip import ClipSpec
from t3d.data.clips.dataset import VideoClips
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.views import PAPER_VIEWS, Views
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError
from t3d.progress import track


def random_clips(spec: ClipSpec, count: int) -> torch.Tensor:
    """Return clips of random pixels, uint8 [N, S·T, 3, size, size]."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, spec.segments * spec.num_frames, 3, spec.size, spec.size)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def real_clips(
    videos: Manifest, store: FrameStore, spec: ClipSpec, *, most: int, title: str
) -> tuple[torch.Tensor, list[Failed]]:
    """Read the middle clip of videos, spread evenly over a list.

    Args:
        videos: The videos.
        store: Where frames come from.
        spec: What a clip is.
        most: Maximum number of videos.
        title: Title of the progress.

    Returns:
        Clips, uint8 [N, S·T, 3, size, size], of the videos that can be read, and the videos that cannot.
    """
    rows = np.unique(np.linspace(0, len(videos) - 1, min(most, len(videos))).round().astype(int)).tolist()
    views = PAPER_VIEWS if spec.segments > 1 else Views(clips=1)
    clips = VideoClips(videos.select(rows), spec, store=store, views=views)
    read: list[torch.Tensor] = []
    bad: list[Failed] = []
    for row in track(range(len(rows)), title, len(rows)):
        for item in islice(clips.of(row), 1):
            if isinstance(item, Failed):
                bad.append(item)
            else:
                read.append(item.frames)
    empty = torch.empty((0, spec.segments * spec.num_frames, 3, spec.size, spec.size), dtype=torch.uint8)
    return torch.stack(read) if read else empty, bad


def clips_of_run(weights: Path, store: FrameStore, spec: ClipSpec, *, most: int) -> torch.Tensor | None:
    """Read clips of the videos that a run was trained on.

    Args:
        weights: Weights file in the folder of the run.
        store: Where frames come from.
        spec: What a clip is.
        most: Maximum number of videos.

    Returns:
        Clips, uint8 [N, S·T, 3, size, size]. None if the file is not of a run, or its videos are not there.
    """
    table = weights.with_name("train.csv")
    if not (table.is_file() and weights.with_name("config.yaml").is_file()):
        return None
    try:
        videos = Manifest.from_csv(table)
    except ManifestError:
        return None
    clips, _ = real_clips(videos, store, spec, most=most, title="Reading training clips")
    return clips if len(clips) else None
