"""Every option of supervision transfer: what recipes and `t3d transfer` set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from t3d.data.config import ReadConfig
from t3d.errors import ConfigError, at_least, did_you_mean
from t3d.training.config import OptimConfig, RunConfig

Objective = Literal["match", "contrastive", "regress", "sum"]
Negatives = Literal["one", "all"]
Space = Literal["learned", "teacher"]


@dataclass(frozen=True)
class PoolConfig(ReadConfig):
    """Which videos; labels are neither needed nor looked at.

    Args:
        videos: A folder of videos, in any layout; a `.csv` or `.jsonl` table; an index (`.parquet`); or an
            official list of UCF101, HMDB51 or Kinetics (then `root` is the folder the files lie in).
        root: Folder that the files of a list or table lie in.
    """

    videos: str = ""
    root: str | None = None


@dataclass(frozen=True)
class TeacherConfig:
    """The frozen 2D net, and the frames it sees.

    Args:
        name: A timm or torchvision net (`timm:resnet50`, `torchvision:resnet50`; without a prefix timm is
            looked through first), or an ONNX file that maps images to features.
        weights: A `.safetensors` file for that net; without it the library's own ImageNet weights.
        size: Side of the square it sees, in pixels; without it the net's own.
        frames: Frames of each clip's time span, spread evenly: the paper's X.
        average: Average the features of these frames, as the paper does. Otherwise they stand side by side,
            in the order of time, and the student must also know what is seen when.
        augment: Crop and flip the frames at random, independently of the clip. Not together with `cache`.
        cache: Folder for features; each frame is then computed once for all epochs and runs. Only every
            `frame_step`-th frame is, and of these the nearest ones stand for the frames wanted.
        frame_step: See `cache`, in frames of the video.
    """

    name: str = ""
    weights: str | None = None
    size: int | None = None
    frames: int = 8
    average: bool = True
    augment: bool = False
    cache: str | None = None
    frame_step: int = 8

    def __post_init__(self) -> None:
        for name in ("frames", "frame_step"):
            at_least(f"teacher.{name}", getattr(self, name), 1)
        object.__setattr__(self, "cache", self.cache or None)
        if self.size is not None:
            at_least("teacher.size", self.size, 1)
        if self.augment and self.cache:
            raise ConfigError(
                "teacher.augment shows the teacher other pixels each time, and teacher.cache keeps its "
                "features: switch one of them off"
            )


@dataclass(frozen=True)
class PairConfig:
    """What the student learns about pairs of clip and frames.

    Args:
        objective: `regress`, the default because it validated best (docs/results.md), predicts the teacher's
            feature, by cosine; `match` says of a pair whether its parts belong together (the paper's);
            `contrastive` finds the frames that belong to a clip among the batch's, and the clip that belongs
            to frames (InfoNCE); `sum` is all three.
        negatives: Of `match`: `one` draws a negative for each positive (the paper's 1 : 1); `all` takes
            every other video of the batch, together weighing as much as the positives.
        other_time: Frames of another, not overlapping time of the same video count as negatives as well.
        temperature: Of `contrastive`.
        space: Where `contrastive` compares: `learned` maps both sides into a space of their own; `teacher`
            predicts the teacher's own feature, so that what the teacher tells apart must be told apart, and
            not only what is easily told.
    """

    objective: Objective = "regress"
    negatives: Negatives = "one"
    other_time: bool = False
    temperature: float = 0.1
    space: Space = "learned"

    def __post_init__(self) -> None:
        for name, kind in (("objective", Objective), ("negatives", Negatives), ("space", Space)):
            value = getattr(self, name)
            if value not in get_args(kind):
                raise ConfigError(f"pairs.{name} is {value!r}; {did_you_mean(str(value), get_args(kind))}")
        if not self.temperature > 0:
            raise ConfigError(f"pairs.temperature is {self.temperature}; it must be above 0")


@dataclass(frozen=True)
class TransferConfig(RunConfig):
    """Supervision transfer.

    Args:
        data: Which videos.
        model: The student.
        teacher: The frozen 2D net.
        pairs: What is learned about pairs.
        optim: How the student learns; the paper's recipe by default.
    """

    command: ClassVar[str] = "t3d transfer"

    data: PoolConfig = field(default_factory=PoolConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(epochs=150, batch_size=32, schedule="step")
    )

    def __post_init__(self) -> None:
        if not self.data.videos:
            raise ConfigError(
                "no videos to learn from: give a folder, a .csv, a .jsonl or a split list, as --videos PATH"
            )
        if not self.teacher.name:
            raise ConfigError(
                "no teacher: give a timm or torchvision net or an ONNX file, as --teacher resnet50"
            )
        super().__post_init__()
        if self.clip.segments > 1:
            raise ConfigError(
                f"clip.segments is {self.clip.segments}; transfer pairs one clip with frames of the same "
                "time: leave it at 1 here, and set it when training on labels"
            )
        if self.optim.batch_size < 2 * self.optim.accumulate:
            raise ConfigError(
                f"optim.batch_size is {self.optim.batch_size} in optim.accumulate = {self.optim.accumulate} "
                "passes; each pass must have at least 2 clips, since negatives come from its other clips"
            )
        if self.optim.mixup or self.optim.label_smoothing:
            raise ConfigError("optim.mixup and optim.label_smoothing are about labels, and here are none")
        if self.optim.schedule == "plateau" and self.data.val_fraction == 0:
            raise ConfigError(
                "optim.schedule = plateau watches the validation loss, and there is no validation set: "
                "give data.val_fraction above 0, or another schedule"
            )
