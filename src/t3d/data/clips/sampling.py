"""Frames of a clip: random for training, non-overlapping or spread for testing.

Clips are cut in frames (`clip.stride`), from a video's number of frames; or by time (`clip.fps`), from the
times of its frames, see `t3d.data.clips.by_time`.

Legend: T is the number of frames of a clip, N the number of frames of a video, S the number of segments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from t3d.clip import ClipSpec
from t3d.data.clips import by_time
from t3d.data.clips.timeline import Timeline
from t3d.errors import ConfigError

Indices = npt.NDArray[np.int64]
Extent = int | Timeline
"""Source of clips: the number of a video's frames, N, or their times, which `clip.fps` needs."""


def random_clip(video: Extent, spec: ClipSpec, rng: np.random.Generator) -> Indices:
    """Draw one clip from a video, every start equally likely; with segments, one from each.

    Args:
        video: Number of its frames, N, or their times.
        spec: What a clip is.
        rng: Where the draw comes from.

    Returns:
        Frame indices, int64 [S·T].

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`, or it has no frame.

    Example:
        >>> random_clip(5, ClipSpec(num_frames=3, stride=2), np.random.default_rng(0))
        array([0, 2, 4])
    """
    if spec.fps is not None:
        return by_time.random_clip(_timed(video, spec), spec, rng)
    total = _counted(video)
    if total < spec.span:
        return np.tile(_short_clip(total, spec), spec.segments)
    starts = [int(rng.integers(first, last + 1)) for first, last in _starts(total, spec)]
    return np.concatenate([_clip_at(start, spec) for start in starts])


def clips_of(video: Extent, spec: ClipSpec) -> list[Indices]:
    """Cut a whole video into non-overlapping clips (the paper's test protocol).

    Clips start every `num_frames * stride` frames, so that no frame is within the reach of two clips; with
    `clip.fps`, every `num_frames / fps` seconds. With segments there is one clip, put together from the
    middle of each.

    Args:
        video: Number of its frames, N, or their times.
        spec: What a clip is; `spec.tail` and `spec.short` say what happens at the ends.

    Returns:
        At least one clip, each int64 [S·T].

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`, or it has no frame.

    Example:
        >>> [c.tolist() for c in clips_of(9, ClipSpec(num_frames=2, stride=2))]
        [[0, 2], [4, 6]]
    """
    if spec.fps is not None:
        return by_time.clips_of(_timed(video, spec), spec)
    total = _counted(video)
    if total < spec.span:
        return [np.tile(_short_clip(total, spec), spec.segments)]
    if spec.segments > 1:
        middles = [(first + last) // 2 for first, last in _starts(total, spec)]
        return [np.concatenate([_clip_at(start, spec) for start in middles])]
    step = spec.num_frames * spec.step
    # The last clip needs only its span: the stride's gap after its last frame may be past the end.
    count = (total - spec.span) // step + 1
    clips = [_clip_at(i * step, spec) for i in range(count)]
    rest = total - count * step
    if rest > 0 and spec.tail == "shift":
        clips.append(_clip_at(total - spec.span, spec))
    elif rest > 0 and spec.tail == "pad":
        clips.append(count * step + _short_clip(rest, spec))
    return clips


def spread_clips(video: Extent, spec: ClipSpec, *, count: int) -> list[Indices]:
    """Take a number of clips evenly spaced over a video, overlapping where it is short.

    The first begins with the video and the last ends with it; a single one is in the middle. Their starts
    are equally far apart, rounded down to whole frames. Where the video has fewer starts than that, clips
    repeat, so that every video gives as many.

    Args:
        video: Number of its frames, N, or their times.
        spec: What a clip is; `spec.short` says what becomes of a video shorter than that. `spec.tail` and
            `spec.segments` play no part.
        count: Number of clips.

    Returns:
        `count` clips, each int64 [T].

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`, or it has no frame.

    Example:
        >>> [c.tolist() for c in spread_clips(9, ClipSpec(num_frames=2, stride=2), count=3)]
        [[0, 2], [3, 5], [6, 8]]
    """
    if spec.fps is not None:
        return by_time.spread_clips(_timed(video, spec), spec, count=count)
    total = _counted(video)
    if total < spec.span:
        return [_short_clip(total, spec) for _ in range(count)]
    last = total - spec.span
    if count == 1:
        return [_clip_at(last // 2, spec)]
    return [_clip_at(i * last // (count - 1), spec) for i in range(count)]


def check_length(video: Extent, spec: ClipSpec) -> None:
    """Refuse a video that no clip can be cut from.

    Args:
        video: Number of its frames, N, or their times.
        spec: What a clip is.

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`, or it has no frame.
    """
    total = _counted(video)
    if total < 1:
        raise ConfigError("a clip cannot be cut from a video of 0 frames")
    if spec.fps is not None:
        by_time.check_length(_timed(video, spec), spec)
        return
    if total < spec.span and spec.short == "error":
        raise ConfigError(
            f"the video has {total} frames, a clip of {spec.num_frames} frames at stride {spec.stride} needs "
            f"{spec.span}; use fewer frames or a smaller stride, or clip.short = wrap or repeat_last"
        )


def _starts(total: int, spec: ClipSpec) -> list[tuple[int, int]]:
    """First and last frame that a clip of each segment may start at; `total` is at least a clip's span."""
    starts = []
    for i in range(spec.segments):
        low, high = i * total // spec.segments, (i + 1) * total // spec.segments
        # A segment shorter than a clip gives the clip that starts with it, or the video's last one.
        first = min(low, total - spec.span)
        starts.append((first, max(first, high - spec.span)))
    return starts


def _clip_at(start: int, spec: ClipSpec) -> Indices:
    return start + np.arange(spec.num_frames, dtype=np.int64) * spec.step


def _short_clip(total: int, spec: ClipSpec) -> Indices:
    check_length(total, spec)
    wanted = _clip_at(0, spec)
    return wanted % total if spec.short == "wrap" else np.minimum(wanted, total - 1)


def _counted(video: Extent) -> int:
    return video if isinstance(video, int) else len(video)


def _timed(video: Extent, spec: ClipSpec) -> Timeline:
    if isinstance(video, int):
        raise ConfigError(
            f"clip.fps is {spec.fps:g}, so clips are cut by time, and the times of the {video} frames are "
            "unknown; give them as a Timeline"
        )
    return video
