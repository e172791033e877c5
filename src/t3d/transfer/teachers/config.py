"""Options of training a teacher, for Python and the command line. This module does not import torch.

Each `Args:` entry is the help text of the option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from t3d.errors import ConfigError, at_least, between


@dataclass(frozen=True)
class TeacherTraining:
    """Options of training a teacher on still images.

    Args:
        images: Images in one folder per class, or labeled videos: a folder with one folder per class, a
            table (`.csv`, `.tsv`, `.txt`, `.jsonl`), an index (`.parquet`), or an official list of UCF101,
            HMDB51 or Kinetics. Single frames of the videos are used.
        out: Weights file to write (`.safetensors`). It can be used as a teacher.
        name: Name of a timm model.
        size: Side of the square input images, in pixels.
        epochs: Number of passes over the images.
        batch_size: Images per optimizer step.
        frames: Frames per video and epoch. Ignored for images.
        lr: Peak learning rate of AdamW.
        min_area: Smallest share of the image that a random crop covers. 1 keeps a square image whole.
        flip: Probability of a horizontal flip.
        val_fraction: Share of the images held out to measure accuracy, whole groups (column `source`) at a
            time.
        seed: Seed of every random draw.
        root: Folder that relative paths of a list or table start from. Default: the folder of the list.
        classes: Class file that names the class numbers of a list, with lines `NUMBER NAME`, `NAME NUMBER` or
            `NAME` (counted from 0), or JSON. Default: for a table, the class file in its folder, if there is
            one.
        cache: Folder for decoded frames of videos. Default: no cache.
        workers: Processes that read images or videos. 0 reads them in this process.
        device: Device to train on: `auto` (a CUDA GPU if there is one, else the CPU), `cpu`, `cuda`,
            `cuda:1`.
        overwrite: Replace `out` if it exists.
    """

    images: str
    out: str = field(kw_only=True)
    name: str = "resnet10t"
    size: int = 64
    epochs: int = 20
    batch_size: int = 32
    frames: int = 1
    lr: float = 2e-3
    min_area: float = 0.5
    flip: float = 0.5
    val_fraction: float = 0.1
    seed: int = 0
    root: str | None = None
    classes: str | None = None
    cache: str | None = None
    workers: int = 2
    device: str = "auto"
    overwrite: bool = False

    def __post_init__(self) -> None:
        for key in ("size", "epochs", "frames"):
            at_least(key, getattr(self, key), 1)
        at_least("batch_size", self.batch_size, 2)
        at_least("workers", self.workers, 0)
        at_least("seed", self.seed, 0)
        between("min_area", self.min_area, 0.01, 1)
        between("flip", self.flip, 0, 1)
        between("val_fraction", self.val_fraction, 0.01, 0.9)
        if not self.lr > 0:
            raise ConfigError(f"lr is {self.lr}; it must be above 0")
        if Path(self.out).suffix != ".safetensors":
            raise ConfigError(f"out is {self.out}; it must end in .safetensors")
        if Path(self.out).exists() and not self.overwrite:
            raise ConfigError(
                f"{self.out} already exists; choose another `out`, or set overwrite=True to replace it"
            )
