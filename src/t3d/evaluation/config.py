"""Options of testing and prediction. Importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from t3d.clip import TailPolicy
from t3d.data.clips.views import FrameOrder, Views
from t3d.device import Compute
from t3d.errors import ConfigError, at_least, between, one_of
from t3d.evaluation.timeline import TimelineConfig
from t3d.runtime.formats import Runtime
from t3d.video.limits import ReadLimits
from t3d.workers.cluster import ONE_MACHINE, Cluster

ANNOTATED = (".mp4", ".m4v", ".mkv", ".mov", ".webm")
"""Endings of annotated videos, the usual ones first."""


@dataclass(frozen=True)
class Reading:
    """Options for finding and reading labeled videos.

    Args:
        root: Folder that the relative paths of a table start from, or that holds the files of an official
            list. By default the folder of the table.
        classes: Class file that names the class numbers of a list, with lines `NUMBER NAME`, `NAME NUMBER` or
            `NAME` (counted from 0), or JSON. Default: for a table, the class file in its folder, if there is
            one.
        index: File that `t3d prepare index` or `t3d prepare shards` wrote about the videos. It saves reading
            each file through before it is opened, and videos in shards need theirs. A list that is an index
            itself needs none.
        cache: Folder for decoded frames, so that later runs on the same videos do not decode them again. By
            default nothing is cached.
        image_fps: Frames per second of videos that are folders of images. Default: the rate in the index,
            else 25.
        max_bad: Largest share of unreadable videos, from 0 to 1. With more of them the command stops.
        limits: Limits of reading one file.

    Raises:
        ConfigError: A value that cannot work.
    """

    root: str | None = None
    classes: str | None = None
    index: str | None = None
    cache: str | None = None
    image_fps: float | None = None
    max_bad: float = 0.01
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        if self.image_fps is not None:
            between("image_fps", self.image_fps, 0.001, 100_000)
        between("max_bad", self.max_bad, 0, 1)


@dataclass(frozen=True)
class TestConfig:
    """A test of a model on labeled videos, by default with the paper's protocol.

    Args:
        model: Weights file, the folder of a finished training run (its best weights, else its last), a
            file that `t3d export` wrote, or a model on the Hub (`hf-hub:org/name`).
        videos: Labeled videos to test on: a folder with one folder per class, a table (.csv, .tsv,
            .txt, .jsonl), an index (.parquet), or an official list. Classes are matched by name.
        frame_order: Order of the frames within each clip. The orders other than `normal` show how much of the
            accuracy depends on time: `static` repeats the middle frame.
        tail: Use of the frames after the last whole clip: `drop` leaves them out, `pad` fills up one more
            clip, `shift` adds a clip that ends at the last frame. By default as the weights file says.
        seed: Seed of the shuffled frame order.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        runtime: Program that computes the model. `auto`: `torch` for weights files and run folders,
            `openvino` for exported .xml files, `onnx` for .onnx. With `openvino` or `onnx`, a run folder
            needs such a file next to its weights.
        views: Which clips and crops of each video are scored.
        reading: How the videos are found and read.
        compute: Where and how the model computes.

    Raises:
        ConfigError: A value that cannot work.
    """

    __test__ = False  # the name starts as those of pytest's classes do

    model: str
    videos: str
    frame_order: FrameOrder = "normal"
    tail: TailPolicy | None = None
    seed: int = 0
    allow_unfinished: bool = False
    runtime: Runtime = "auto"
    views: Views = field(default_factory=Views)
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        at_least("seed", self.seed, 0)
        one_of("runtime", self.runtime, get_args(Runtime))
        one_of("frame_order", self.frame_order, get_args(FrameOrder))
        if self.tail is not None:
            one_of("tail", self.tail, get_args(TailPolicy))
        if self.views.clips is not None and self.tail is not None:
            raise ConfigError(
                f"`tail` is {self.tail} and `clips` is {self.views.clips}; `tail` is about clips that do not "
                "overlap, and spread clips reach the end of the video anyway: leave out one of the two"
            )


@dataclass(frozen=True)
class CompareConfig:
    """A comparison of models on the same labeled videos.

    Args:
        models: Weights files, folders of finished training runs, or files that `t3d export` wrote, at least
            two. Differences are from the first.
        videos: Labeled videos to test on: a folder with one folder per class, a table (.csv, .tsv,
            .txt, .jsonl), an index (.parquet), or an official list. Classes are matched by name.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        reading: How the videos are found and read.
        compute: Where and how the models compute.

    Raises:
        ConfigError: Fewer than two models, or one of them twice.
    """

    models: tuple[str, ...]
    videos: str = field(kw_only=True)
    allow_unfinished: bool = False
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ConfigError(
                f"models: {len(self.models)} given; a comparison needs at least 2 (weights files or folders)"
            )
        twice = [model for model in self.models if self.models.count(model) > 1]
        if twice:
            raise ConfigError(f"models: {twice[0]} is given twice; give each model once")


@dataclass(frozen=True)
class FindConfig:
    """Search for the segments of videos in which a class happens.

    Args:
        model: Weights file, the folder of a finished training run (its best weights, else its last), a
            file that `t3d export` wrote, or a model on the Hub (`hf-hub:org/name`).
        videos: Video files, folders of videos, and patterns such as 'clips/**/*.mp4'.
        save: File to write the segments of one video to: a table (.csv), JSON (.json), subtitles (.srt,
            .vtt), or a picture (.png). By default they are printed.
        image_fps: Frames per second of videos that are folders of images. Default: 25.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        runtime: Program that computes the model, as for `t3d predict`.
        rules: Rules that turn the scores of clips into segments.
        compute: Where and how the model computes.
        limits: Limits of reading one file.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    videos: tuple[str, ...] = field(kw_only=True)
    save: str | None = None
    image_fps: float | None = None
    allow_unfinished: bool = False
    runtime: Runtime = "auto"
    rules: TimelineConfig = field(default_factory=TimelineConfig)
    compute: Compute = field(default_factory=Compute)
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        one_of("runtime", self.runtime, get_args(Runtime))
        if self.image_fps is not None:
            between("image_fps", self.image_fps, 0.001, 100_000)


@dataclass(frozen=True)
class PredictConfig:
    """Predictions for many videos, on one machine or on many.

    Args:
        model: Weights file, the folder of a finished training run (its best weights, else its last), a
            file that `t3d export` wrote, or a model on the Hub (`hf-hub:org/name`).
        videos: Video files, folders of videos, patterns such as 'clips/**/*.mp4', and lists as `t3d test`
            reads them, whose time spans are classified one by one. Without any, all videos that `index`
            names.
        root: Folder that relative paths of a list start from. By default the folder of the list.
        index: File that `t3d prepare index` or `t3d prepare shards` wrote about the videos. Videos in shards
            need theirs.
        image_fps: Frames per second of videos that are folders of images. Default: the rate in the index,
            else 25.
        top: Number of classes per prediction, most probable first. Default: 3 if predictions are printed, all
            classes in a file. A CSV file always has all.
        per_clip: Also give the times and the scores of each clip. Not for a CSV file.
        threshold: Smallest probability of a class that is printed or drawn. Default: 0, and 0.5 for what is
            drawn with several labels per video.
        save: File to write one annotated video to (.mp4, .m4v, .mkv, .mov, .webm), or folder for several. It
            shows the classes of each moment, and keeps the sound.
        overwrite: Replace existing annotated videos.
        out: File to write the predictions to: JSON Lines (`.jsonl`), or a table (`.csv`) with one column per
            class. Repeating the command resumes an interrupted run. By default predictions are printed.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        runtime: Program that computes the model: `torch`, or `openvino` or `onnx` for files that `t3d export`
            wrote. `auto` also uses such a file next to the weights of a run if it is from exactly these
            weights and faster here, and says so. It measures that once.
        cluster: Which machines compute.
        compute: Where and how the model computes.
        limits: Limits of reading one file.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    videos: tuple[str, ...] = ()
    root: str | None = None
    index: str | None = None
    image_fps: float | None = None
    top: int | None = None
    per_clip: bool = False
    threshold: float | None = None
    save: str | None = None
    overwrite: bool = False
    out: str | None = None
    allow_unfinished: bool = False
    runtime: Runtime = "auto"
    cluster: Cluster = ONE_MACHINE
    compute: Compute = field(default_factory=Compute)
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        one_of("runtime", self.runtime, get_args(Runtime))
        if self.top is not None:
            at_least("top", self.top, 1)
        if self.image_fps is not None:
            between("image_fps", self.image_fps, 0.001, 100_000)
        if self.out is not None and not self.out.endswith((".jsonl", ".csv")):
            raise ConfigError(
                f"out is {self.out}; predictions are written as JSON Lines or as a table, so it must end in "
                ".jsonl or .csv"
            )
        if self.out is not None and self.out.endswith(".csv") and (self.per_clip or self.top is not None):
            option = "per_clip" if self.per_clip else "top"
            raise ConfigError(
                f"`{option}` is set and `out` is {self.out}; a table has one row per video and a column for "
                f"every class. Leave out `{option}`, or write a .jsonl file"
            )
        if self.threshold is not None:
            between("threshold", self.threshold, 0, 1)
        self._check_output()
        if self.allow_unfinished and self.cluster.kind != "none":
            raise ConfigError(
                f"`allow_unfinished` is set and `cluster` is {self.cluster.kind}; the run may save new "
                "weights while the machines load them. Predict on this machine, or finish the run first"
            )

    def _check_output(self) -> None:
        if self.out is not None and (self.save is not None or self.threshold is not None):
            option = "save" if self.save is not None else "threshold"
            why = "one command writes either" if option == "save" else "a file of predictions has all classes"
            raise ConfigError(f"`{option}` is set and `out` is {self.out}; {why}: leave out one of the two")
        if self.overwrite and self.save is None:
            raise ConfigError("`overwrite` is set without `save`; it is about annotated videos")
        ending = Path(self.save or "").suffix.lower()
        if self.save is not None and ending not in ("", *ANNOTATED) and not Path(self.save).is_dir():
            raise ConfigError(
                f"save is {self.save}; an annotated video ends in {', '.join(ANNOTATED[:-1])} or "
                f"{ANNOTATED[-1]}, and a folder has no ending"
            )
