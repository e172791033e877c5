"""Options of `t3d features`. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from t3d.clip import PixelAspect, TailPolicy
from t3d.device import Compute
from t3d.errors import ConfigError, at_least, between, one_of
from t3d.evaluation.config import Reading
from t3d.transfer.teachers.normalization import Normalization, NormalizationName, chosen

Per = Literal["video", "clip"]


@dataclass(frozen=True)
class FeaturesConfig:
    """Features of videos, computed by a model or by a 2D teacher.

    Args:
        model: Weights file, or the folder of a finished training run (its best weights, else its last). Leave
            it out with `teacher`.
        videos: Videos: a folder, with or without class folders, a table (.csv, .tsv, .txt, .jsonl), an index
            (.parquet), an official list, or several folders and video files. Labels are kept, but not needed.
        out: File to write: `.npz` (NumPy) or `.parquet`. Repeating the command resumes an interrupted run.
        per: Rows of the file: one per `video`, with the mean over its clips, or one per `clip`.
        page: Page (.html) to write, with near-duplicates and clusters of the videos.
        similar: Cosine of two videos' features from which on the page shows them as near-duplicates.
        clusters: Number of clusters in the page. Default: the square root of half the number of videos, from
            2 to 24.
        teacher: 2D model: `lite0`, a timm or torchvision name, or an .onnx or .safetensors file.
        teacher_weights: Weights of the teacher, a .safetensors file. Default: its published weights.
        teacher_size: Side of the teacher's square input images, in pixels. Default: the teacher's own.
        teacher_normalize: Normalization of the teacher's images, by name: `imagenet`; `half` (values from -1
            to 1); `clip`; `unit` (0 to 1); `byte` (0 to 255). Default: the model's own.
        teacher_mean: Mean of the red, green and blue channel in [0, 1], instead of `teacher_normalize`.
        teacher_std: Standard deviation of each channel in [0, 1], instead of `teacher_normalize`.
        num_frames: Number of frames per clip for a teacher. A 3D model has its own.
        stride: Distance between neighboring frames of a teacher's clip, in frames of the video. Default: 16.
        fps: Frames per second of a teacher's clip, instead of `stride`.
        tail: Policy for the frames after a teacher's last whole clip: `drop`, `pad` or `shift`.
        pixel_aspect: Handling of videos whose pixels are not square, for a teacher: `ignore` or `square`.
        tonemap: Convert videos with a high dynamic range (HDR) to a standard range, for a teacher.
        pooling: Feature of a teacher's clip: `mean` averages the features of its frames, `mean_std` appends
            their standard deviation over time.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        reading: Options of finding and reading the videos.
        compute: Device, precision and batch size.

    Raises:
        ConfigError: A value is invalid, there are no videos, or neither a model nor a teacher.
    """

    model: str | None = None
    videos: tuple[str, ...] = ()
    out: str = field(kw_only=True)
    per: Per = "video"
    page: str | None = None
    similar: float = 0.97
    clusters: int | None = None
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
    pooling: Literal["mean", "mean_std"] = "mean"
    allow_unfinished: bool = False
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if (
            self.teacher is not None and self.model is not None
        ):  # on the command line, the first of the videos
            object.__setattr__(self, "videos", (self.model, *self.videos))
            object.__setattr__(self, "model", None)
        if self.model is None and self.teacher is None:
            raise ConfigError("there is no model: give a run folder or weights file, or set `teacher`")
        if not self.videos:
            given = f"only {self.model} is given" if self.teacher is None else "no videos are given"
            raise ConfigError(f"{given}; give the videos, too: a folder, a list, or video files")
        if Path(self.out).suffix.lower() not in (".npz", ".parquet"):
            raise ConfigError(f"out is {self.out}; features are written as .npz (NumPy) or .parquet")
        if self.page is not None and Path(self.page).suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"`page` is {self.page}; it must end in .html")
        if self.stride is not None and self.fps is not None:
            raise ConfigError(f"`stride` is {self.stride} and `fps` is {self.fps:g}; set only one of them")
        one_of("per", self.per, get_args(Per))
        one_of("tail", self.tail, get_args(TailPolicy))
        one_of("pixel_aspect", self.pixel_aspect, get_args(PixelAspect))
        one_of("pooling", self.pooling, get_args(Literal["mean", "mean_std"]))
        between("similar", self.similar, 0, 1)
        if self.clusters is not None:
            at_least("clusters", self.clusters, 2)
        _ = self.normalization  # raises an error for values that cannot work

    @property
    def normalization(self) -> Normalization | None:
        """Chosen normalization of a teacher's images, or None for the model's own."""
        return chosen(self.teacher_normalize, self.teacher_mean, self.teacher_std)
