"""Frames of a clip by time, at a rate that does not depend on the video's own (`clip.fps`).

A clip of T frames at f frames per second that starts at time t has the frames that are shown at t + i / f,
for i from 0 to T - 1. It fits if the last of these times is before the end of the video.

At a constant frame rate r, with f = r / stride, these are the clips that `t3d.data.clips.sampling` cuts in
frames. All starts are in seconds from the begin of the `Timeline`.

Legend: T is the number of frames of a clip, N the number of frames of a video, S the number of segments.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from t3d.clip import ClipSpec
from t3d.data.clips.timeline import Timeline
from t3d.errors import ConfigError

Indices = npt.NDArray[np.int64]


def random_clip(line: Timeline, spec: ClipSpec, rng: np.random.Generator) -> Indices:
    """Draw one clip, every time of its start equally likely; with segments, one from each.

    Args:
        line: When the video's frames are shown.
        spec: What a clip is.
        rng: Where the draw comes from.

    Returns:
        Frame indices, int64 [S·T].

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`.
    """
    if not _fits(line, spec):
        return np.tile(_short_clip(line, 0.0, spec), spec.segments)
    clips = []
    for first, stop in _starts(line, spec, _reach(spec)):
        # A drawn time is exact: no frame that appears a little later is meant.
        start = max(float(rng.uniform(first, stop)) - line.tolerance, first)
        clips.append(_clip_at(line, start, spec))
    return np.concatenate(clips)


def clips_of(line: Timeline, spec: ClipSpec) -> list[Indices]:
    """Cut a whole video into clips, one every T / fps seconds; with segments, one clip from their middles.

    Args:
        line: When the video's frames are shown.
        spec: What a clip is; `spec.tail` and `spec.short` say what happens at the ends.

    Returns:
        At least one clip, each int64 [S·T].

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`.
    """
    if not _fits(line, spec):
        return [np.tile(_short_clip(line, 0.0, spec), spec.segments)]
    if spec.segments > 1:
        spans = _starts(line, spec, line.seconds - _latest(line, spec))
        return [np.concatenate([_clip_at(line, (first + stop) / 2, spec) for first, stop in spans])]
    step = spec.num_frames / _rate(spec)
    count = math.ceil((line.seconds - _reach(spec) - line.tolerance) / step)
    clips = [_clip_at(line, number * step, spec) for number in range(count)]
    rest = line.seconds - count * step
    if rest > line.tolerance and spec.tail == "shift":
        clips.append(_clip_at(line, _latest(line, spec), spec))
    elif rest > line.tolerance and spec.tail == "pad":
        clips.append(_short_clip(line, count * step, spec))
    return clips


def spread_clips(line: Timeline, spec: ClipSpec, *, count: int) -> list[Indices]:
    """Take a number of clips whose starts are equally far apart, the last of which ends with the video.

    Args:
        line: When the video's frames are shown.
        spec: What a clip is; `spec.tail` and `spec.segments` play no part.
        count: Number of clips. A single one is in the middle.

    Returns:
        `count` clips, each int64 [T].

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`.
    """
    if not _fits(line, spec):
        return [_short_clip(line, 0.0, spec)] * count
    last = _latest(line, spec)
    starts = [last / 2] if count == 1 else [i * last / (count - 1) for i in range(count)]
    return [_clip_at(line, start, spec) for start in starts]


def other_clip(line: Timeline, clip: Indices, spec: ClipSpec, rng: np.random.Generator) -> Indices | None:
    """Draw a clip that shows no frame from the first to the last of another, every start equally likely.

    Args:
        line: When the video's frames are shown.
        clip: Frame indices of the other clip, int64 [T].
        spec: What a clip is.
        rng: Where the draw comes from.

    Returns:
        Frame indices, int64 [T]. None if the video is too short.
    """
    reach = _reach(spec)
    begins, ends = float(line.times[clip.min()]) - line.begin, line.end_of(int(clip.max())) - line.begin
    before = max(begins - line.tolerance - reach, 0.0)
    after = max(line.seconds - line.tolerance - reach - ends, 0.0)
    if not _fits(line, spec) or before + after <= line.tolerance:
        return None
    at = float(rng.uniform(0, before + after))
    return _clip_at(line, at if at < before else ends + at - before, spec)


def check_length(line: Timeline, spec: ClipSpec) -> None:
    """Refuse a video that no clip can be cut from.

    Args:
        line: When the video's frames are shown.
        spec: What a clip is.

    Raises:
        ConfigError: The video is shorter than a clip and `spec.short` is `error`.
    """
    if spec.short == "error" and not _fits(line, spec):
        raise ConfigError(
            f"the video lasts {line.seconds:.3f} s, a clip of {spec.num_frames} frames at clip.fps = "
            f"{spec.fps:g} needs more than {_reach(spec):.3f} s; use fewer frames or a higher rate, or "
            "clip.short = wrap or repeat_last"
        )


def _rate(spec: ClipSpec) -> float:
    assert spec.fps is not None
    return spec.fps


def _reach(spec: ClipSpec) -> float:
    """Return the seconds from the first time of a clip to its last."""
    return (spec.num_frames - 1) / _rate(spec)


def _fits(line: Timeline, spec: ClipSpec) -> bool:
    return line.seconds - _reach(spec) > line.tolerance


def _latest(line: Timeline, spec: ClipSpec) -> float:
    """Return the start of the clip that ends with the video.

    The last time of this clip is when the last frame appears, or 1 / fps before the end if it is shown
    longer.
    """
    shown = line.end - max(float(line.times[-1]), line.begin)
    return max(line.seconds - _reach(spec) - min(shown, 1 / _rate(spec)), 0.0)


def _starts(line: Timeline, spec: ClipSpec, length: float) -> list[tuple[float, float]]:
    """Return the range of starts of the clip of each segment; `length` is what a clip needs, in seconds."""
    starts = []
    for i in range(spec.segments):
        low, high = i * line.seconds / spec.segments, (i + 1) * line.seconds / spec.segments
        # A segment shorter than a clip gives the clip that starts with it, or the video's last one.
        first = min(low, _latest(line, spec))
        starts.append((first, max(first, high - length)))
    return starts


def _clip_at(line: Timeline, start: float, spec: ClipSpec) -> Indices:
    return line.frames_at(start + np.arange(spec.num_frames) / _rate(spec))


def _short_clip(line: Timeline, start: float, spec: ClipSpec) -> Indices:
    """Return a clip that is longer than the rest of a video from `start` on."""
    check_length(line, spec)
    seconds = np.arange(spec.num_frames) / _rate(spec)
    rest = line.seconds - start
    if spec.short == "wrap":
        rounds = np.floor((seconds + line.tolerance) / rest)
        seconds = np.maximum(seconds - rounds * rest, 0)
    return line.frames_at(start + np.minimum(seconds, rest))
