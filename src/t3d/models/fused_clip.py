"""Clip that several models share, and the part of it that each model sees.

Legend: T frames of a clip, W windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from t3d.clip import ClipSpec
from t3d.errors import ConfigError

MOST_FRAMES = 512
"""Maximum number of frames of a shared clip."""
MOST_WINDOWS = 8
"""Maximum number of clips of one model within a shared clip."""


@dataclass(frozen=True)
class View:
    """Part of a shared clip that one model sees.

    Args:
        windows: Frame numbers of each of the model's clips within the shared clip, W ranges of length T.
        side: Side of the square that the shared frames are resized to, in pixels.
        size: Side of the center crop of the resized frames, in pixels.
    """

    windows: tuple[range, ...]
    side: int
    size: int


def shared_clip(clips: Sequence[ClipSpec]) -> ClipSpec:
    """Return the clip that contains the frames of every model.

    It lasts as long as the longest of the clips. Its frames are so close together that every model finds its
    own frames in it, and its square contains the part of the picture that each model sees. Pixels are not
    normalized (values in [0, 1]). `short` and `tail` are those of the longest clip.

    Args:
        clips: Clip of each model.

    Returns:
        The shared clip.

    Raises:
        ConfigError: Some clips count frames and others sample by time; their rates need too many frames; they
            resize differently; or a model uses temporal segments.

    Example:
        >>> a, b = ClipSpec(num_frames=8, stride=16, size=96, resize=128), ClipSpec(num_frames=32, stride=4)
        >>> clip = shared_clip([a, b])
        >>> clip.num_frames, clip.stride, clip.size, clip.resize
        (32, 4, 224, 256)
    """
    _refuse_differences(clips)
    longest = max(clips, key=_duration)
    rate = _shared_rate(clips)
    frames = _duration(longest) * rate
    if frames > MOST_FRAMES:
        steps = ", ".join(f"{_steps(clip):g}" for clip in clips)
        name = "clip.fps" if longest.fps is not None else "clip.stride"
        raise ConfigError(
            f"{name} of the models is {steps}; a clip with the frames of all of them has {int(frames):,} "
            f"frames, and at most {MOST_FRAMES} are allowed. Use models whose {name} are multiples of each "
            "other"
        )
    resize = max(clip.resize for clip in clips)
    size = min(resize, max(math.ceil(Fraction(clip.size * resize, clip.resize)) for clip in clips))
    return ClipSpec(
        num_frames=int(frames),
        stride=None if longest.fps is not None else int(1 / rate),
        fps=None if longest.fps is None else float(rate),
        size=size,
        resize=resize,
        resize_mode=longest.resize_mode,
        pixel_aspect=longest.pixel_aspect,
        tonemap=longest.tonemap,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        short=longest.short,
        tail=longest.tail,
    )


def view_of(clip: ClipSpec, shared: ClipSpec) -> View:
    """Return the part of a shared clip that a model sees.

    A model whose clip is shorter sees several of its clips, spread evenly over the shared clip. They do not
    overlap. If the length is not a multiple of the model's, frames between them are left out.

    Args:
        clip: Clip of the model.
        shared: A `shared_clip` of this clip and others.

    Example:
        >>> short, long = ClipSpec(num_frames=2, stride=4), ClipSpec(num_frames=8, stride=2)
        >>> view_of(short, shared_clip([short, long])).windows
        (range(0, 4, 2), range(4, 8, 2))
    """
    step = int(_shared_rate([shared]) / _shared_rate([clip]))
    reach = clip.num_frames * step
    count = min(shared.num_frames // reach, MOST_WINDOWS)
    spare = shared.num_frames - reach
    starts = [spare // 2] if count == 1 else [number * spare // (count - 1) for number in range(count)]
    windows = tuple(range(start, start + reach, step) for start in starts)
    side = shared.size if clip.resize == shared.resize else round(shared.size * clip.resize / shared.resize)
    return View(windows, max(side, clip.size), clip.size)


def _steps(clip: ClipSpec) -> float:
    return clip.step if clip.fps is None else clip.fps


def _rate(clip: ClipSpec) -> Fraction:
    """Return the frames of a clip per frame of the video, or per second."""
    if clip.fps is None:
        return Fraction(1, clip.step)
    return max(Fraction(clip.fps).limit_denominator(1000), Fraction(1, 1000))


def _duration(clip: ClipSpec) -> Fraction:
    """Return the distance from one clip to the next, in frames of the video or in seconds."""
    return clip.num_frames / _rate(clip)


def _shared_rate(clips: Sequence[ClipSpec]) -> Fraction:
    """Return the least common multiple of the clips' rates."""
    rates = [_rate(clip) for clip in clips]
    return Fraction(
        math.lcm(*(rate.numerator for rate in rates)), math.gcd(*(rate.denominator for rate in rates))
    )


def _refuse_differences(clips: Sequence[ClipSpec]) -> None:
    if len({clip.fps is None for clip in clips}) > 1:
        raise ConfigError(
            "some models sample clips by time (clip.fps), and others count frames (clip.stride); the frames "
            "of both do not fit into one clip. Use models of one kind"
        )
    for name in ("resize_mode", "pixel_aspect", "tonemap"):
        values = list(dict.fromkeys(getattr(clip, name) for clip in clips))
        if len(values) > 1:
            raise ConfigError(
                f"clip.{name} of the models differs ({' and '.join(map(str, values))}); one clip cannot have "
                "the pixels of both. Use models that agree"
            )
    if segments := [clip.segments for clip in clips if clip.segments > 1]:
        raise ConfigError(
            f"clip.segments of a model is {segments[0]}; models with temporal segments see one clip per "
            "video and cannot be averaged clip by clip. Use models with clip.segments = 1"
        )
