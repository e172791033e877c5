"""Clip specification and kind of targets, which are stored with the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from t3d.errors import ConfigError, one_of

Targets = Literal["single", "multi"]
"""Labels per video: one class (`single`), or any number of classes (`multi`)."""
ResizeMode = Literal["short_side", "square"]
PixelAspect = Literal["ignore", "square"]
ShortPolicy = Literal["wrap", "repeat_last", "error"]
TailPolicy = Literal["drop", "pad", "shift"]
Modality = Literal["rgb", "diff", "gray"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ClipSpec:
    """Clip specification: number of frames, stride, size and scaling of pixels.

    Training, testing and prediction use the same specification, which is stored with the weights.
    Defaults are the paper's (Training and testing T3D; temporal stride: Table 6).

    Args:
        num_frames: Frames per clip, T.
        stride: Distance between neighboring frames of a clip, in frames of the video.
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
    stride: int = 2
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
        for name in ("num_frames", "stride", "size", "resize", "segments"):
            if getattr(self, name) < 1:
                raise ConfigError(f"clip.{name} is {getattr(self, name)}; it must be at least 1")
        if self.resize < self.size:
            raise ConfigError(
                f"clip.resize is {self.resize}, smaller than the crop clip.size = {self.size}; "
                f"set clip.resize to {self.size} or more"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise ConfigError(
                    f"clip.{name} is {getattr(self, name)}; it must have three values: red, green and blue"
                )
        if not all(value > 0 for value in self.std):
            raise ConfigError(f"clip.std is {self.std}; every channel must be above 0")
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
    def variant(self) -> tuple[str, ...]:
        """Settings of reading pixels that differ from the defaults. Caches keep their frames apart."""
        aspect = () if self.pixel_aspect == "ignore" else (self.pixel_aspect,)
        return (*aspect, "tonemap") if self.tonemap else aspect

    @property
    def span(self) -> int:
        """Number of frames of the video from the first frame of a clip to its last, both included."""
        return (self.num_frames - 1) * self.stride + 1
