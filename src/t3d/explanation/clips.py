"""Clips of a video that are explained: the same frames as in prediction, with the time of each.

Legend: S segments, T frames of a segment, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from t3d.data.clips.frames import FrameStore
from t3d.data.clips.shapes import five_crops
from t3d.data.clips.spans import clip_times, usable_part
from t3d.data.clips.transforms import center_view
from t3d.data.clips.views import PAPER_VIEWS
from t3d.data.manifest.table import Entry


@dataclass(frozen=True)
class Box:
    """Part of the picture that the network sees, as fractions of the frame's height and width.

    Args:
        top: Upper edge.
        left: Left edge.
        height: Height.
        width: Width.
    """

    top: float
    left: float
    height: float
    width: float


@dataclass(frozen=True)
class SeenClip:
    """A clip as a network sees it in prediction.

    Args:
        number: Number of the clip in the video, from 0.
        frames: uint8 [S·T, C, H, W].
        times: Time of each frame in seconds, float64 [S·T].
        start: Time at which the first frame appears.
        end: Time at which the last frame ends.
        box: Part of the picture that the frames show.
    """

    number: int
    frames: torch.Tensor
    times: npt.NDArray[np.float64]
    start: float
    end: float
    box: Box


def seen_clips(entry: Entry, store: FrameStore, numbers: Collection[int]) -> Iterator[SeenClip]:
    """Yield some clips of a video, as `t3d.data.clips.dataset.VideoClips` does.

    Args:
        entry: The video.
        store: Where frames come from.
        numbers: Numbers of the clips.

    Raises:
        VideoError: The video cannot be read.
    """
    spec = store.spec
    frames = store.open(entry.path)
    low, part = usable_part(frames, entry, spec)
    for number, clip in enumerate(PAPER_VIEWS.clips_of(part, spec)):
        if number not in numbers:
            continue
        resized = frames.get(low + clip)
        height, width = resized.shape[-2:]
        top, left = five_crops(height, width, spec.size)[4]
        box = Box(top / height, left / width, spec.size / height, spec.size / width)
        start, end = clip_times(frames.times, low + clip)
        yield SeenClip(number, center_view(resized, spec), frames.times[low + clip], start, end, box)
