"""Options of the data: which videos, and how a training clip is varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from t3d.errors import ConfigError, at_least, between, one_of
from t3d.video.limits import DEFAULT_LIMITS, ReadLimits

Crop = Literal["five", "random_resized"]


@dataclass(frozen=True)
class ReadConfig:
    """Options for reading and holding out videos, shared by all kinds of runs.

    Args:
        val_fraction: Share of the training videos held out for validation, whole groups (column `source`) at
            a time. 0 holds out none.
        source_pattern: Regular expression, searched in a video's path without its ending. The part in
            parentheses is the name of the recording or scene that the video was cut from: its group. Videos
            of one group stay together.
        index: Index of the files, written by `t3d prepare index`, which makes opening them fast. Not needed
            if the list of videos is an index (`.parquet`).
        cache: Folder for decoded, resized frames, so that each video is decoded once. Default: no cache.
        cache_gb: Largest size of `cache`, in GB.
        image_fps: Frames per second of videos that are folders of images. Default: the rate in the index,
            else 25.
        max_bad: Largest accepted share of unreadable videos.
        workers: Processes that read videos. 0 reads them in the training process.
        timeout: Time limit for each time a file is opened and read, in seconds. A file that takes longer is
            reported as unreadable.
        max_megapixels: Largest frame that is decoded, in megapixels. 8K video has 33.
        max_clip_gb: Largest size of the resized frames of one clip in memory, in GB.
        shuffle_window: Shards only: number of videos that are shuffled together. Has no effect on single
            files, which are always fully shuffled.
        lanes: Shards only: number of parts that an epoch is divided into, read in parallel. With one part per
            machine, each machine reads its own shards. Must divide `optim.batch_size`.
    """

    val_fraction: float = 0.1
    source_pattern: str | None = None
    index: str | None = None
    cache: str | None = None
    cache_gb: float = 20.0
    image_fps: float | None = None
    max_bad: float = 0.01
    workers: int = 2
    timeout: float = DEFAULT_LIMITS.timeout
    max_megapixels: float = DEFAULT_LIMITS.max_megapixels
    max_clip_gb: float = DEFAULT_LIMITS.max_clip_gb
    shuffle_window: int = 10_000
    lanes: int = 1

    def __post_init__(self) -> None:
        at_least("data.shuffle_window", self.shuffle_window, 1)
        at_least("data.lanes", self.lanes, 1)
        between("data.val_fraction", self.val_fraction, 0, 0.9)
        between("data.max_bad", self.max_bad, 0, 1)
        between("data.cache_gb", self.cache_gb, 0, 1e9)
        at_least("data.workers", self.workers, 0)
        at_least("data.timeout", self.timeout, 1e-3)
        at_least("data.max_megapixels", self.max_megapixels, 1e-3)
        at_least("data.max_clip_gb", self.max_clip_gb, 1e-6)
        if self.image_fps is not None:
            between("data.image_fps", self.image_fps, 0.001, 100_000)

    @property
    def limits(self) -> ReadLimits:
        """Limits of reading one file."""
        return ReadLimits(self.timeout, self.max_megapixels, self.max_clip_gb)


@dataclass(frozen=True)
class DataConfig(ReadConfig):
    """Options for the labeled videos of a run.

    Args:
        train: Labeled videos to train on: a folder with one folder per class, a table (`.csv`, `.tsv`,
            `.txt`, `.jsonl`), an index (`.parquet`), or an official list of UCF101, HMDB51 or Kinetics. An
            official list is
            UCF101's `trainlist01.txt`, Kinetics' `train.csv`, or for HMDB51 the folder of its split files
            followed by a part, such as `testTrainMulti_7030_splits:train1`; its files are in `root`.
        val: Labeled videos to validate on. Default: a tenth of the training videos (`val_fraction`).
        root: Folder that relative paths of a table start from, or that holds the files of an official list.
        classes: Class file that names the class numbers of a list, with lines `NUMBER NAME`, `NAME NUMBER` or
            `NAME` (counted from 0), or JSON. Default: for a table, the class file in its folder, if there is
            one.
        label_fraction: Share of the training labels to use, in each class, whole groups at a time. It is
            drawn after the validation videos. With the same `label_seed`, a smaller share is part of a larger
            one.
        label_seed: Seed of the draw of `label_fraction`.
        balance: Sample every class equally often per epoch, however many videos it has. Not for videos with
            several labels, and not with `soft`.
        soft: Table of soft labels: the probability of each class for more training videos, as
            `t3d predict` writes it. A video that also has a label keeps the label. Videos that are also
            in the validation are left out. Default: labels only.
    """

    train: str = ""
    val: str | None = None
    root: str | None = None
    classes: str | None = None
    label_fraction: float = 1.0
    label_seed: int = 0
    balance: bool = False
    soft: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.label_fraction <= 1:
            raise ConfigError(
                f"data.label_fraction is {self.label_fraction}; it must be above 0 and at most 1, such as 0.1"
            )
        at_least("data.label_seed", self.label_seed, 0)
        if self.soft is not None and self.balance:
            raise ConfigError(
                f"data.balance is on and data.soft is {self.soft}; videos with soft labels have no one class "
                "to sample equally often. Leave out one of the two"
            )


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training clips, drawn once per clip, so that all its frames change equally.

    Args:
        crop: `five` takes one of the four corners or the center (the paper); `random_resized` takes a
            rectangle of random area and shape and resizes it to the clip's size.
        min_area: Least share of the frame that `random_resized` takes.
        flip: Probability of a horizontal flip. Set it to 0 where left and right differ in meaning.
        color: Strength of random brightness, contrast and saturation; 0.4 draws factors from 0.6 to 1.4.
    """

    crop: Crop = "five"
    min_area: float = 0.35
    flip: float = 0.5
    color: float = 0.0

    def __post_init__(self) -> None:
        one_of("augment.crop", self.crop, get_args(Crop))
        between("augment.min_area", self.min_area, 0.01, 1)
        between("augment.flip", self.flip, 0, 1)
        between("augment.color", self.color, 0, 0.95)
