"""Options of `t3d explain`. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from t3d.device import Compute
from t3d.errors import at_least, between
from t3d.video.limits import ReadLimits


@dataclass(frozen=True)
class ExplainOptions:
    """Options of the explanation of one decision.

    Args:
        most_clips: Most clips explained per video: those in which the class is most probable.
        stage: Stage of the network whose map the heat is computed from, such as `denseblock3`. Default: the
            last map with at least 4 × 4 places.

    Raises:
        ConfigError: A value is invalid.
    """

    most_clips: int = 4
    stage: str | None = None

    def __post_init__(self) -> None:
        at_least("most_clips", self.most_clips, 1)


@dataclass(frozen=True)
class ExplainConfig:
    """Explanation of the decisions of a model for videos.

    Args:
        model: Weights file, or the folder of a finished training run (its best weights, else its last).
        videos: Video files, folders of videos, patterns such as 'clips/**/*.mp4', and lists as `t3d test`
            reads them.
        out: Folder to write the page, the videos and `explanation.json` to.
        label: Class to explain. Default: the predicted class of each video.
        detailed: Number of videos with frames, an overlay video and the frames that matter. Later videos
            count in the table of classes and depths only.
        overwrite: Replace an existing explanation in the folder, and delete all files that it lists.
        root: Folder that relative paths of a list start from. By default the folder of the list.
        index: File that `t3d prepare index` or `t3d prepare shards` wrote about the videos. Videos in shards
            need theirs.
        image_fps: Frames per second of videos that are folders of images. Default: the rate in the index,
            else 25.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        options: How a decision is explained.
        compute: Where and how the model computes.
        limits: Limits of reading one file.

    Raises:
        ConfigError: A value is invalid.
    """

    model: str
    videos: tuple[str, ...]
    out: str = field(kw_only=True)
    label: str | None = None
    detailed: int = 8
    overwrite: bool = False
    root: str | None = None
    index: str | None = None
    image_fps: float | None = None
    allow_unfinished: bool = False
    options: ExplainOptions = field(default_factory=ExplainOptions)
    compute: Compute = field(default_factory=Compute)
    limits: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        at_least("detailed", self.detailed, 1)
        if self.image_fps is not None:
            between("image_fps", self.image_fps, 0.001, 100_000)
