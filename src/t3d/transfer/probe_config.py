"""Options of a probe. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from t3d.clip import PixelAspect, TailPolicy
from t3d.device import Compute
from t3d.errors import ConfigError, at_least, one_of
from t3d.evaluation.config import Reading
from t3d.transfer.teachers.normalization import Normalization, NormalizationName, chosen


@dataclass(frozen=True)
class ProbeConfig:
    """Options of a linear classifier on the frozen features of a 3D model or of a 2D teacher.

    Args:
        train: Labeled videos to train on: a folder with one folder per class, a table (.csv, .tsv,
            .txt, .jsonl), an index (.parquet), or an official list.
        test: Labeled videos to test on, in any of the same forms. Classes are matched by name. Default: no
            test.
        soft: Table of class probabilities of more training videos, such as `soft.csv` of a transfer, or what
            `t3d predict` wrote. The classifier is fitted on labels and probabilities. Default: labels only.
        out: Run folder for the model, which `t3d test` and `t3d predict` accept, and for metrics.json,
            scores.csv and confusion.png. Default: nothing is written.
        model: Weights file of the 3D model, or the folder of a finished training run (its best weights, else
            its last). Set either `model` or `teacher`.
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
        source_pattern: Regular expression, searched in the path of each training video without its ending.
            The part in parentheses is the name of the recording or scene that the video was cut from: its
            group (column `source`). Default: the group in file names of known data sets, else each file is a
            group.
        label_fraction: Share of the training labels to use, above 0 and up to 1. Whole groups are drawn from
            each class.
        label_seed: Seed of the draw of labels.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        overwrite: Delete the run in `out`, if there is one.
        reading: Options of finding and reading the videos.
        compute: Device, precision and batch size.

    Raises:
        ConfigError: A value is invalid, not exactly one of `model` and `teacher` is set, or an option of a
            teacher is set for a 3D model.
    """

    train: str
    test: str | None = None
    soft: str | None = None
    out: str | None = None
    model: str | None = None
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
    pooling: Literal["mean", "mean_std"] = "mean_std"
    source_pattern: str | None = None
    label_fraction: float = 1.0
    label_seed: int = 0
    allow_unfinished: bool = False
    overwrite: bool = False
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.teacher is None):
            raise ConfigError("set either `model` (the weights file of a 3D model) or `teacher` (a 2D model)")
        if self.model is not None and (changed := self._changed_teacher_options()):
            raise ConfigError(
                f"{', '.join(f'`{name}`' for name in changed)} would have no effect: only a probe of a "
                "`teacher` uses this, and a 3D model has its own clip. Remove it, or set `teacher` instead "
                "of `model`"
            )
        if self.stride is not None and self.fps is not None:
            raise ConfigError(f"`stride` is {self.stride} and `fps` is {self.fps:g}; set only one of them")
        if not 0 < self.label_fraction <= 1:
            raise ConfigError(
                f"label_fraction is {self.label_fraction}; it must be above 0 and at most 1, such as 0.1"
            )
        if self.out is None and self.test is None:
            raise ConfigError("set `test` (videos to test on), `out` (a folder for the model), or both")
        one_of("pixel_aspect", self.pixel_aspect, get_args(PixelAspect))
        one_of("pooling", self.pooling, get_args(Literal["mean", "mean_std"]))
        at_least("label_seed", self.label_seed, 0)
        _ = self.normalization  # raises an error for values that cannot work

    @property
    def normalization(self) -> Normalization | None:
        """Chosen normalization of a teacher's images, or None for the model's own."""
        return chosen(self.teacher_normalize, self.teacher_mean, self.teacher_std)

    def _changed_teacher_options(self) -> list[str]:
        """Return the names of the options that only a teacher uses, if they are not the defaults."""
        teacher = ("teacher_weights", "teacher_size", "teacher_normalize", "teacher_mean", "teacher_std")
        names = (*teacher, "num_frames", "stride", "fps", "tail", "pixel_aspect", "tonemap", "pooling")
        defaults = {each.name: each.default for each in fields(self)}
        return [name for name in names if getattr(self, name) != defaults[name]]
