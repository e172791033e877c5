"""Clip specification and kind of targets, which are stored with the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from t3d.errors import ConfigError, one_of

Targets = Literal["single", "multi"]
"""Labels per video: one class (`single`), or any number of classes (`multi`)."""
ResizeMode = Literal["short_side", "square"]
PixelAspect = Literal["ignore", "square"]
TimePooling = Literal["mean", "mean_std"]
ShortPolicy = Literal["wrap", "repeat_last", "error"]
TailPolicy = Literal["drop", "pad", "shift"]
Modality = Literal["rgb", "diff", "gray"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXCLUSIVE = (("clip.stride", "clip.fps"),)
"""Pairs of options that replace each other: a later source of options that sets one unsets the other."""
_STRIDE = 2  # the paper's
_MAX_FPS = 1000

_LARGEST = {"num_frames": 10_000, "stride": 10_000, "size": 8192, "resize": 8192, "segments": 1000}
_PIXELS = 1 << 30  # of a clip: 13 GB as 32-bit numbers


@dataclass(frozen=True)
class ClipSpec:
    """Clip specification: number of frames, their distance in time, size and scaling of pixels.

    Training, testing and prediction use the same specification, which is stored with the weights.
    Defaults are the paper's (Training and testing T3D; temporal stride: Table 6).

    Args:
        num_frames: Frames per clip, T.
        stride: Distance between neighboring frames of a clip, in frames of the video. Default: 2. Cannot be
            combined with `fps`.
        fps: Frames per second at which clips are sampled, by the times of the frames. A clip that starts at
            time t has the frames shown at t, t + 1 / fps, t + 2 / fps, … Use it instead of `stride` for
            videos with different or variable frame rates. Default: count frames (`stride`).
        size: Height and width of the square crop, in pixels.
        resize: Size of a frame before cropping, in pixels.
        resize_mode: `short_side` makes the shorter side `resize` pixels long and keeps the aspect ratio;
            `square` makes frames `resize` × `resize`.
        pixel_aspect: Handling of videos whose pixels are not square, such as DV and DVD. `ignore` takes the
            pixels as they are stored, as FFmpeg, PyAV and torchcodec do; `square` resizes frames to the
            shape that a player shows. Has no effect if `resize_mode` is `square`.
        tonemap: Convert videos with a high dynamic range (HDR: PQ and HLG, as phones record) to a standard
            range (BT.709). By default their values are taken unchanged, as FFmpeg and PyAV do.
        mean: Mean of the red, green and blue channel in [0, 1].
        std: Standard deviation of the red, green and blue channel in [0, 1].
        short: Policy for a video that is shorter than a clip: `wrap` starts again at its first frame,
            `repeat_last` repeats its last frame, `error` raises an error.
        tail: Policy, in testing, for the frames after the last whole clip: `drop` leaves them out, `pad` adds
            a clip completed by the `short` policy, `shift` adds a clip that ends at the last frame and
            overlaps the clip before it. A video shorter than a clip always gives one clip.
        modality: Input of the model: `rgb` for unchanged frames; `diff` for the difference of each frame from
            the one before it in the clip (zero for the first), which is zero where nothing moves; `gray` for
            brightness, in all three channels.
        segments: Number of equal parts that a video is divided into, S (Temporal Segment Networks). One clip
            is sampled from each part, and the model's scores of the S clips are averaged. In testing, each
            video is scored once, from the middle of its parts, and `tail` has no effect.

    Raises:
        ConfigError: A value is invalid.

    Example:
        >>> ClipSpec(num_frames=16, stride=2).span
        31
    """

    num_frames: int = 32
    stride: int | None = None
    fps: float | None = field(default=None, kw_only=True)
    size: int = 224
    resize: int = 256
    resize_mode: ResizeMode = "short_side"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    short: ShortPolicy = "wrap"
    tail: TailPolicy = "drop"
    modality: Modality = "rgb"
    segments: int = 1
    pixel_aspect: PixelAspect = "ignore"
    tonemap: bool = False

    def __post_init__(self) -> None:
        if self.fps is None and self.stride is None:
            object.__setattr__(self, "stride", _STRIDE)
        self._check_distance()
        for name, most in _LARGEST.items():
            if getattr(self, name) is None:  # `stride`, if `fps` is set
                continue
            if getattr(self, name) < 1:
                raise ConfigError(f"clip.{name} is {getattr(self, name)}; it must be at least 1")
            if getattr(self, name) > most:
                raise ConfigError(f"clip.{name} is {getattr(self, name):,}; it must be at most {most:,}")
        if self.resize < self.size:
            raise ConfigError(
                f"clip.resize is {self.resize}, smaller than the crop clip.size = {self.size}; "
                f"set clip.resize to {self.size} or more"
            )
        pixels = self.segments * self.num_frames * self.size**2
        if pixels > _PIXELS:
            raise ConfigError(
                f"clip has {pixels:,} pixels ({self.segments} segments × {self.num_frames} frames × "
                f"{self.size} × {self.size}); at most {_PIXELS:,} are allowed"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise ConfigError(
                    f"clip.{name} is {getattr(self, name)}; it must have three values: red, green and blue"
                )
        if not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"clip.std is {self.std}; every channel must be above 0")
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"clip.mean is {self.mean}; every channel must be a finite number")
        for name, kind in (
            ("resize_mode", ResizeMode),
            ("pixel_aspect", PixelAspect),
            ("short", ShortPolicy),
            ("tail", TailPolicy),
            ("modality", Modality),
        ):
            one_of(f"clip.{name}", getattr(self, name), get_args(kind))
        if self.tail == "pad" and self.short == "error":
            raise ConfigError(
                "clip.tail = pad completes the last clip by clip.short, which is error: nearly every video "
                "would fail; choose clip.short = wrap or repeat_last, or clip.tail = drop or shift"
            )
        if self.segments > 1 and self.modality == "diff":
            raise ConfigError(
                f"clip.modality is diff with clip.segments = {self.segments}; differences across the gap "
                "between two segments are meaningless: choose rgb or gray, or clip.segments = 1"
            )
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    def step(self) -> int:
        """Distance between neighboring frames of a clip, in frames of the video.

        Raises:
            ConfigError: Clips are sampled by time (`fps`), so that the number differs between videos.
        """
        if self.stride is None:
            raise ConfigError(f"clip.fps is {self.fps}, so clips have no stride in frames; use their times")
        return self.stride

    @property
    def variant(self) -> tuple[str, ...]:
        """Settings of reading pixels that differ from the defaults. Caches keep their frames apart."""
        aspect = () if self.pixel_aspect == "ignore" else (self.pixel_aspect,)
        return (*aspect, "tonemap") if self.tonemap else aspect

    @property
    def span(self) -> int:
        """Number of frames of the video from the first frame of a clip to its last, both included.

        Raises:
            ConfigError: Clips are sampled by time (`fps`).
        """
        return (self.num_frames - 1) * self.step + 1

    def _check_distance(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise ConfigError(f"clip.stride is {self.stride}; it must be at least 1")
        if self.fps is None:
            return
        if not 0 < self.fps <= _MAX_FPS:
            raise ConfigError(
                f"clip.fps is {self.fps}; it must be above 0 and at most {_MAX_FPS}, such as 12.5"
            )
        if self.stride is not None:
            raise ConfigError(
                f"clip.stride is {self.stride} and clip.fps is {self.fps:g}; clips are sampled either every "
                "few frames (clip.stride) or at a rate (clip.fps): remove one of the two"
            )
