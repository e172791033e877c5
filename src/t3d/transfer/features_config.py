"""Options of `t3d features`. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from t3d.device import Compute
from t3d.errors import ConfigError, at_least, between, one_of
from t3d.evaluation.config import Reading
from t3d.transfer.teacher_clips import TeacherClips

Per = Literal["video", "clip"]


@dataclass(frozen=True)
class FeaturesConfig(TeacherClips):
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
        super().__post_init__()
        one_of("per", self.per, get_args(Per))
        between("similar", self.similar, 0, 1)
        if self.clusters is not None:
            at_least("clusters", self.clusters, 2)
