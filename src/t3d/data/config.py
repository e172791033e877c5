"""Options of the data: which videos, and how a training clip is varied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t3d.errors import ConfigError, at_least, between


@dataclass(frozen=True)
class ReadConfig:
    """How videos are read and held out: what every kind of run asks.

    Args:
        val_fraction: Share of the training videos held out for validation, whole sources at a time. 0: none.
        source_pattern: Regular expression whose group names a video's source (the long recording or scene
            it was cut from), searched in its path. Clips of one source are never split.
        index: What `t3d prepare index` wrote about the files, so that none has to be read through to be
            opened. A list of videos that is an index itself (`.parquet`) needs no second one.
        decoder: `pyav`, or `torchcodec` for files that an index knows to be whole: the same frames, by the
            FFmpeg of this machine. It was nowhere found to be faster (docs/benchmarks.md).
        cache: Folder for decoded, resized frames, so that each video is decoded once and not once an epoch.
        cache_gb: Largest size of that folder, in GB.
        max_bad: Largest share of unreadable videos that training accepts.
        workers: Processes that read videos. 0: the training process reads them.
        shuffle_window: Videos of shards that are shuffled with each other: a shard is read about as long as
            this many videos take. Files are shuffled all.
        lanes: Parts of an epoch of shards that are read side by side. Give as many as there are machines, and
            each machine reads shards of its own; a divisor of `optim.batch_size`.
    """

    val_fraction: float = 0.1
    source_pattern: str | None = None
    index: str | None = None
    decoder: Literal["pyav", "torchcodec"] = "pyav"
    cache: str | None = None
    cache_gb: float = 20.0
    max_bad: float = 0.01
    workers: int = 2
    shuffle_window: int = 10_000
    lanes: int = 1

    def __post_init__(self) -> None:
        at_least("data.shuffle_window", self.shuffle_window, 1)
        at_least("data.lanes", self.lanes, 1)
        between("data.val_fraction", self.val_fraction, 0, 0.9)
        between("data.max_bad", self.max_bad, 0, 1)
        between("data.cache_gb", self.cache_gb, 0, 1e9)
        at_least("data.workers", self.workers, 0)


@dataclass(frozen=True)
class DataConfig(ReadConfig):
    """Which videos, with which labels.

    Args:
        train: A folder with one folder per class, a `.csv` or `.jsonl` table, an index (`.parquet`), or an
            official list with its files in `root`: UCF101's `trainlist01.txt`, Kinetics' `train.csv`, or
            for HMDB51 the folder of its split files with a part behind it, such as
            `testTrainMulti_7030_splits:train1`.
        val: The same, for validation; without it `val_fraction` of `train` is held out.
        root: Folder that relative paths of a table start from, or that the files of a list are in.
        label_fraction: Use only this share of the training labels, in each class, as whole sources; drawn
            behind the validation videos. With one `label_seed`, a smaller share is a part of a larger one.
        label_seed: Of that draw.
        balance: Take every class equally often in an epoch, however many videos it has. Not with several
            labels a video.
    """

    train: str = ""
    val: str | None = None
    root: str | None = None
    label_fraction: float = 1.0
    label_seed: int = 0
    balance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.label_fraction <= 1:
            raise ConfigError(
                f"data.label_fraction is {self.label_fraction}; it must be above 0 and at most 1, such as 0.1"
            )
        at_least("data.label_seed", self.label_seed, 0)


@dataclass(frozen=True)
class AugmentConfig:
    """How a training clip is varied; drawn once a clip, so that all its frames change alike.

    Args:
        crop: `five` takes one of the four corners or the centre (the paper); `random_resized` takes a
            rectangle of random area and shape and resizes it to the clip's size.
        min_area: Least share of the frame that `random_resized` takes.
        flip: Probability of a horizontal flip. Set it to 0 where left and right differ in meaning.
        color: Strength of random brightness, contrast and saturation; 0.4 draws factors from 0.6 to 1.4.
    """

    crop: Literal["five", "random_resized"] = "five"
    min_area: float = 0.35
    flip: float = 0.5
    color: float = 0.0

    def __post_init__(self) -> None:
        between("augment.min_area", self.min_area, 0.01, 1)
        between("augment.flip", self.flip, 0, 1)
        between("augment.color", self.color, 0, 0.95)
