"""Options of `t3d reproduce`, for all runs of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from t3d.device import Precision
from t3d.errors import ConfigError, at_least, one_of
from t3d.training.config import GradCheckpointing
from t3d.transfer.teachers.normalization import NormalizationName

Scale = Literal["paper", "small"]
SetName = Literal["ucf101", "hmdb51", "kinetics", "youtube8m"]
SETS: Mapping[str, str] = {
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "kinetics": "Kinetics-400",
    "youtube8m": "YouTube-8M",
}
"""Displayed name of each data set, by its name in options."""


@dataclass(frozen=True)
class GivenSet:
    """Location of one data set, as given by the user.

    Args:
        path: Folder with the official lists, as written by `t3d prepare download`, or any labeled videos
            without official splits.
        root: Folder that relative paths in lists start from. Default: `path`.
        index: Index of the files.
    """

    path: str
    root: str | None = None
    index: str | None = None


@dataclass(frozen=True)
class Choices:
    """Options for all runs of a table.

    Args:
        data: Folder with the official lists and the videos of a data set. For YouTube-8M, and with `scale`
            small, any videos.
        root: Folder that relative paths in the lists start from. Default: the folder in `data`.
        index: Index of the files, written by `t3d prepare index`.
        out: Folder for runs and the table. The same command resumes an interrupted table.
        scale: Size of the runs. `small` uses small models, short clips and few epochs, so that all steps run
            in minutes.
        teacher: 2D teacher of transfers: `lite0`, a timm or torchvision name, or an ONNX file. Default:
            torchvision's DenseNet-121; for few-labels `lite0`.
        teacher_weights: Weights of the teacher, a `.safetensors` file.
        teacher_normalize: Normalization of the teacher's images, by name: `imagenet`, `half`, `clip`, `unit`
            or `byte`. Default: the model's own. Needed for an ONNX file without metadata about it.
        partial: Accept official lists with missing videos. The result contains their number.
        seed: Seed of every random draw.
        workers: Processes that read videos.
        cache: Folder for decoded frames.
        precision: Number format: `fp32`, `bf16` (bfloat16), or `auto` (bf16 if the device supports it in
            hardware).
        grad_accum_steps: Forward passes per optimizer step, to save memory.
        grad_checkpointing: Activations to recompute in the backward pass, to save memory: `none`, `layers`,
            or `blocks`, which saves most and is slowest.

    Raises:
        ConfigError: A value is invalid, or a data set has a root or an index but no `data` entry.
    """

    data: dict[SetName, str] = field(default_factory=dict)
    root: dict[SetName, str] = field(default_factory=dict)
    index: dict[SetName, str] = field(default_factory=dict)
    out: Path = Path("reproduced")
    scale: Scale = "paper"
    teacher: str | None = None
    teacher_weights: str | None = None
    teacher_normalize: NormalizationName | None = None
    partial: bool = False
    seed: int = 0
    workers: int = 2
    cache: str | None = None
    precision: Precision = "auto"
    grad_accum_steps: int = 1
    grad_checkpointing: GradCheckpointing = "none"

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("workers", self.workers, 0)
        at_least("grad_accum_steps", self.grad_accum_steps, 1)
        one_of("grad_checkpointing", self.grad_checkpointing, get_args(GradCheckpointing))
        for option, values in (("root", self.root), ("index", self.index)):
            for name, value in values.items():
                if name not in self.data:
                    raise ConfigError(f"{option}.{name} {value} needs data.{name}, which is not set")

    @property
    def sets(self) -> Mapping[str, GivenSet]:
        """Location of each data set, by name."""
        return {
            name: GivenSet(path, self.root.get(name), self.index.get(name))
            for name, path in self.data.items()
        }
