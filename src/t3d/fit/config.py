"""Options of `t3d fit`. Importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from t3d.data.split_lists import Shares
from t3d.device import Compute
from t3d.errors import ConfigError, at_least, between, one_of
from t3d.video.limits import ReadLimits

Candidate = Literal["frames", "network"]
CANDIDATES: tuple[Candidate, ...] = get_args(Candidate)

TEACHER, STUDENT = "lite0", "t3d_tiny"


@dataclass(frozen=True)
class FitConfig:
    """Options of a fit.

    Args:
        videos: Labeled videos: a folder with one folder per class, a table (.csv, .tsv, .txt, .jsonl), an
            index (.parquet), or an official list.
        out: Folder for the report, the model and everything else.
        minutes: Minutes that the fit may take. It decides how long the small 3D network trains, and whether.
        unlabeled_videos: More videos, without labels: a folder in any layout, or a list. The 3D network also
            learns from them.
        test: Labeled videos to test on, in any form of `videos`. Default: some of `videos`.
        candidates: Models to train: `frames` (a 2D network on single frames, with a linear classifier) and
            `network` (a small 3D network that the 2D network teaches). With both, their average is the third
            candidate. Without time for a 3D network, only `frames` is trained.
        teacher: 2D network: `lite0`, a timm or torchvision name, or a file of `t3d teacher`.
        student: Small 3D network, as listed by `t3d models`.
        epochs: Passes of the 3D network over the training videos. Default: as many as fit into `minutes`.
        clip_seconds: Length of the clips of the 3D network, in seconds. Default: 2.56, or less if most videos
            are shorter.
        size: Side of the clips of the 3D network, in pixels.
        mirror: Also train on mirrored videos. Turn it off where left and right differ in meaning.
        source_pattern: Regular expression, searched in a video's path without its ending. The part in
            parentheses is the name of the recording that the video was cut from. Videos of one recording stay
            together.
        root: Folder that the relative paths of lists start from, or that holds the files of official lists.
            By default the folder of the list.
        classes: Class file that names the class numbers of a list. Default: for a table, the class file in
            its folder, if there is one.
        cache: Folder for decoded frames and features, to share with other fits. By default they are in `out`,
            and deleted at the end.
        image_fps: Frames per second of videos that are folders of images. Default: 25.
        max_bad: Largest share of unreadable videos, from 0 to 1. With more of them the fit stops.
        export: Export the model for fast inference on a CPU. Needs the extra `t3d[export]`.
        overwrite: Delete the finished fit in `out`, if there is one, or one with other options.
        shares: Videos that are held out.
        limits: Limits of reading one file.
        compute: Where and how the models compute.

    Raises:
        ConfigError: A value that cannot work.
    """

    videos: str
    out: str = "fit"
    minutes: float = 20.0
    unlabeled_videos: str | None = None
    test: str | None = None
    candidates: tuple[Candidate, ...] = CANDIDATES
    teacher: str = TEACHER
    student: str = STUDENT
    epochs: int | None = None
    clip_seconds: float | None = None
    size: int = 64
    mirror: bool = True
    source_pattern: str | None = None
    root: str | None = None
    classes: str | None = None
    cache: str | None = None
    image_fps: float | None = None
    max_bad: float = 0.5
    export: bool = True
    overwrite: bool = False
    shares: Shares = field(default_factory=lambda: Shares(val_fraction=0.2, test_fraction=0.2))
    limits: ReadLimits = field(default_factory=ReadLimits)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        between("minutes", self.minutes, 0.1, 100_000)
        between("max_bad", self.max_bad, 0, 1)
        at_least("size", self.size, 32)
        if self.epochs is not None:
            at_least("epochs", self.epochs, 1)
        if self.clip_seconds is not None:
            between("clip_seconds", self.clip_seconds, 0.01, 3600)
        if self.image_fps is not None:
            between("image_fps", self.image_fps, 0.001, 100_000)
        self._check_candidates()
        if self.test is None and not self.shares.test_fraction:
            raise ConfigError(
                "test_fraction is 0 and `test` is not set, so there is nothing to test on; set one of them"
            )
        folder = Path(self.videos)
        if folder.is_dir() and Path(self.out).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"out is {self.out}, which is in the folder of videos, {self.videos}; choose a folder outside"
            )

    def _check_candidates(self) -> None:
        """Refuse candidates that cannot be compared."""
        if not self.candidates:
            raise ConfigError(f"candidates is empty; choose from {', '.join(CANDIDATES)}")
        for name in self.candidates:
            one_of("candidates", name, CANDIDATES)
        if len(set(self.candidates)) < len(self.candidates):
            raise ConfigError(f"candidates is {' '.join(self.candidates)}; give each name once")
        if len(self.candidates) > 1 and not self.shares.val_fraction:
            raise ConfigError(
                "val_fraction is 0, so there is nothing to choose between candidates on; set it above 0, or "
                "give one of `candidates`"
            )
