"""What a user chooses about all runs of a table: the options of `t3d reproduce`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from t3d.device import Precision
from t3d.errors import ConfigError, at_least

Scale = Literal["paper", "small"]
SetName = Literal["ucf101", "hmdb51", "kinetics", "youtube8m"]
SETS: Mapping[str, str] = {
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "kinetics": "Kinetics-400",
    "youtube8m": "YouTube-8M",
}
"""Names of the data sets, and how they are shown."""


@dataclass(frozen=True)
class GivenSet:
    """What a user names of one data set.

    Args:
        path: A folder that holds official lists, as `t3d prepare download` makes it; or any labeled videos,
            which have no official splits.
        root: Folder that the files of lists are in; without it they are looked for in `path`.
        index: Index of the files.
    """

    path: str
    root: str | None = None
    index: str | None = None


@dataclass(frozen=True)
class Choices:
    """What the user chose for all runs of a table.

    Args:
        data: Folder with the official lists and the videos of a data set. For YouTube-8M, and with `scale`
            small, any videos.
        root: Folder that the files of the lists are in, if it is another one.
        index: Index of the files, written by `t3d prepare index`.
        out: Folder for runs and the table. The same command resumes an interrupted one.
        scale: Size of the runs. `small` takes small models, clips and epochs, to run all steps in minutes.
        teacher: 2D model of transfers: timm or torchvision name, or ONNX file.
        teacher_weights: `.safetensors` file for the teacher.
        partial: Accept official lists some of whose videos are missing. The result says how many.
        seed: Seed of every random draw.
        workers: Processes that read videos.
        cache: Folder for decoded frames.
        precision: Number format: `bf16` computes in bfloat16; `auto` does so where the device has it in
            hardware.
        grad_accum_steps: Forward passes per optimizer step, to save memory.
        grad_checkpointing: Recompute parts of models in the backward pass, to save memory.

    Raises:
        ConfigError: A value that cannot work, or a root or index of a data set that is not named.
    """

    data: dict[SetName, str] = field(default_factory=dict)
    root: dict[SetName, str] = field(default_factory=dict)
    index: dict[SetName, str] = field(default_factory=dict)
    out: Path = Path("reproduced")
    scale: Scale = "paper"
    teacher: str = "torchvision:densenet121"
    teacher_weights: str | None = None
    partial: bool = False
    seed: int = 0
    workers: int = 2
    cache: str | None = None
    precision: Precision = "auto"
    grad_accum_steps: int = 1
    grad_checkpointing: bool = False

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        at_least("workers", self.workers, 0)
        at_least("grad_accum_steps", self.grad_accum_steps, 1)
        for option, values in (("root", self.root), ("index", self.index)):
            for name, value in values.items():
                if name not in self.data:
                    raise ConfigError(f"{option}.{name} {value} needs data.{name}, which is not given")

    @property
    def sets(self) -> Mapping[str, GivenSet]:
        """What was named of each data set."""
        return {
            name: GivenSet(path, self.root.get(name), self.index.get(name))
            for name, path in self.data.items()
        }
