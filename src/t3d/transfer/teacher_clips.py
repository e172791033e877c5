"""Options of a frozen 2D teacher, and of its clips. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from t3d.clip import PixelAspect, TailPolicy, TimePooling
from t3d.errors import ConfigError, one_of
from t3d.transfer.teachers.normalization import Normalization, NormalizationName, chosen


@dataclass(frozen=True, kw_only=True)
class TeacherClips:
    """Options of a frozen 2D teacher: its images, and the clips whose features it computes.

    Args:
        teacher: 2D model: `lite0`, a timm or torchvision name, or an .onnx or .safetensors file.
        teacher_weights: Weights of the teacher, a .safetensors file. Default: its published weights.
        teacher_size: Side of the teacher's square input images, in pixels. Default: the teacher's own.
        teacher_normalize: Normalization of the teacher's images, by name: `imagenet`; `half` (values from -1
            to 1); `clip`; `unit` (0 to 1); `byte` (0 to 255). Default: the model's own. Needed for an ONNX
            file without metadata about it, unless `teacher_mean` and `teacher_std` are set.
        teacher_mean: Mean of the red, green and blue channel in [0, 1], instead of `teacher_normalize`.
        teacher_std: Standard deviation of each channel in [0, 1], instead of `teacher_normalize`.
        num_frames: Number of frames per clip for a teacher. A 3D model has its own.
        stride: Distance between neighboring frames of a teacher's clip, in frames of the video. Default: 16.
        fps: Frames per second of a teacher's clip, instead of `stride`, for videos with different frame
            rates.
        tail: Policy for the frames after a teacher's last whole clip: `drop` leaves them out, `pad` completes
            one more clip, `shift` adds a clip that ends at the last frame.
        pixel_aspect: Handling of videos whose pixels are not square, for a teacher: `ignore` takes the pixels
            as they are stored, `square` resizes frames to the shape that a player shows.
        tonemap: Convert videos with a high dynamic range (HDR) to a standard range, for a teacher. By default
            their values are taken unchanged.
        pooling: Feature of a teacher's clip: `mean` averages the features of its frames, `mean_std` appends
            their standard deviation over time.

    Raises:
        ConfigError: A value is invalid.
    """

    teacher: str | None = None
    teacher_weights: str | None = None
    teacher_size: int | None = None
    teacher_normalize: NormalizationName | None = None
    teacher_mean: tuple[float, float, float] | None = None
    teacher_std: tuple[float, float, float] | None = None
    num_frames: int = 8
    stride: int | None = None
    fps: float | None = None
    tail: TailPolicy = "shift"
    pixel_aspect: PixelAspect = "ignore"
    tonemap: bool = False
    pooling: TimePooling = "mean"

    def __post_init__(self) -> None:
        if self.stride is not None and self.fps is not None:
            raise ConfigError(f"`stride` is {self.stride} and `fps` is {self.fps:g}; set only one of them")
        one_of("tail", self.tail, get_args(TailPolicy))
        one_of("pixel_aspect", self.pixel_aspect, get_args(PixelAspect))
        one_of("pooling", self.pooling, get_args(TimePooling))
        _ = self.normalization  # raises an error for values that cannot work

    @property
    def normalization(self) -> Normalization | None:
        """Chosen normalization of a teacher's images, or None for the model's own."""
        return chosen(self.teacher_normalize, self.teacher_mean, self.teacher_std)
