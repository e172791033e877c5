"""Options of supervision transfer, for Python, YAML and the command line.

Each `Args:` entry is the help text of the option.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, get_args

from t3d.data.config import ReadConfig
from t3d.errors import ConfigError, at_least, one_of
from t3d.training.config import OptimConfig, RunConfig
from t3d.transfer.teachers.normalization import Normalization, NormalizationName, chosen

Objective = Literal["match", "contrastive", "regress", "sum"]
Negatives = Literal["one", "all"]
Space = Literal["learned", "teacher"]
ClipPooling = Literal["mean", "mean_std", "concatenate"]


@dataclass(frozen=True)
class PoolConfig(ReadConfig):
    """Unlabeled videos. Labels are neither needed nor read.

    Args:
        videos: Videos to learn from: a folder in any layout, a table (`.csv`, `.tsv`, `.txt`,
            `.jsonl`), an index (`.parquet`), or an official list of UCF101, HMDB51 or Kinetics with its files
            in `root`.
        root: Folder that relative paths of lists and tables start from, or that holds the files of official
            lists. Default: the folder of each list.
        exclude: Videos to keep away from, such as those to test on, in any form of `videos`. Videos that are
            the same file as one of these, have the same bytes, the same group (column `source`) or a similar
            perceptual hash are left out. Perceptual hashes need an index (`t3d prepare index`).
    """

    videos: str = ""
    root: str | None = None
    exclude: str | None = None


@dataclass(frozen=True)
class TeacherConfig:
    """Frozen 2D teacher and its input frames.

    Args:
        name: Teacher. `lite0` is EfficientNet-Lite0; its ImageNet weights are in a pip package. Others: a
            timm or torchvision model (`timm:resnet50`, `torchvision:resnet50`; without a prefix, timm is
            searched first), an ONNX file that maps images to features, or a file written by `t3d teacher`.
        weights: Weights of the teacher, a `.safetensors` file. Default: the library's ImageNet weights.
        size: Side of the teacher's square input images, in pixels. Default: the teacher's own.
        normalize: Normalization of the teacher's images, by name: `imagenet`; `half` (values from -1 to 1);
            `clip`; `unit` (0 to 1); `byte` (0 to 255). Default: the model's own. Needed for an ONNX file
            without metadata about it, unless `mean` and `std` are set.
        mean: Mean of the red, green and blue channel in [0, 1], instead of `normalize`.
        std: Standard deviation of the red, green and blue channel in [0, 1], instead of `normalize`.
        frames: Number of frames per clip that the teacher gets, spread evenly over the clip (X in the paper).
            If the clip spans fewer frames, some are used several times.
        pooling: The teacher's features of a clip: `mean` averages those of its frames, as the paper does;
            `mean_std` appends their standard deviation over time; `concatenate` joins them in order of time,
            so that the student must also learn the time of each frame. Default: `mean_std` for the objective
            `regress`, else `mean`.
        augment: Crop and flip the teacher's frames at random, independently of the clip. Cannot be combined
            with `cache`.
        cache: Folder for teacher features, so that each frame is computed once for all epochs and runs. Only
            every `frame_step`-th frame is stored. Other frames use the nearest stored one. Default: no cache.
        frame_step: Distance between frames with stored features, in frames of the video, see `cache`.
    """

    name: str = ""
    weights: str | None = None
    size: int | None = None
    normalize: NormalizationName | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    frames: int = 8
    pooling: ClipPooling | None = None
    augment: bool = False
    cache: str | None = None
    frame_step: int = 8

    def __post_init__(self) -> None:
        for name in ("frames", "frame_step"):
            at_least(f"teacher.{name}", getattr(self, name), 1)
        object.__setattr__(self, "cache", self.cache or None)
        if self.normalize is not None:
            one_of("teacher.normalize", self.normalize, get_args(NormalizationName))
        _ = self.normalization  # raises an error for values that cannot work
        if self.pooling is not None:
            one_of("teacher.pooling", self.pooling, get_args(ClipPooling))
        if self.size is not None:
            at_least("teacher.size", self.size, 1)
        if self.augment and self.cache:
            raise ConfigError(
                "teacher.augment changes the teacher's frames in every epoch, so teacher.cache cannot store "
                "their features: turn one of them off"
            )

    @property
    def normalization(self) -> Normalization | None:
        """Chosen normalization, or None for the model's own."""
        return chosen(self.normalize, self.mean, self.std)


@dataclass(frozen=True)
class PairConfig:
    """Objective of the student, on pairs of a clip and frames.

    Args:
        objective: Training objective. `regress` predicts the teacher's feature, with a cosine loss (best in
            validation, see docs/project/results.md). `match` classifies whether clip and frames belong
            together (the paper's). `contrastive` finds the frames of a clip among all frames of the batch,
            and the clip of the frames (InfoNCE). `sum` adds all three.
        negatives: Negative pairs of `match`: `one` draws one per positive pair (the paper's 1 : 1); `all`
            uses every other video of the batch, with the same total weight as the positives.
        other_time: Also use frames of another, non-overlapping time of the same video as negatives.
        temperature: Temperature of `contrastive`.
        space: Space in which `contrastive` compares: `learned` maps clip and frames into a common learned
            space; `teacher` predicts the teacher's own feature, so that the student must distinguish
            everything that the teacher distinguishes.
    """

    objective: Objective = "regress"
    negatives: Negatives = "one"
    other_time: bool = False
    temperature: float = 0.1
    space: Space = "learned"

    def __post_init__(self) -> None:
        for name, kind in (("objective", Objective), ("negatives", Negatives), ("space", Space)):
            one_of(f"pairs.{name}", getattr(self, name), get_args(kind))
        if not self.temperature > 0:
            raise ConfigError(f"pairs.temperature is {self.temperature}; it must be above 0")


@dataclass(frozen=True)
class LabelConfig:
    """A few labeled videos. With them, the student becomes a classifier.

    A linear classifier on the teacher's features is fitted on these labels. Its class probabilities for the
    unlabeled videos are the student's targets (soft labels), together with the labels themselves.

    Args:
        videos: Labeled videos: a folder with one folder per class, a `.csv` or `.jsonl` table, an index
            (`.parquet`), or an official list. They may be among the unlabeled videos. Default: no labels; the
            student learns features and has no classifier.
        fraction: Share of the labels to use, in each class, whole groups at a time.
        seed: Seed of the draw of `fraction`. With the same seed, a smaller share is part of a larger one.
        temperature: Divides the classifier's scores before the softmax. Above 1, soft labels are more even.
        by_source: Average the soft labels of all videos of a group (column `source`), because videos of one
            recording usually show the same class.
        rounds: Times that the classifier is fitted again, on the labels and the soft labels.
        pairs_weight: Weight of the loss of `pairs.objective`; that of the classes has weight 1. 0: the
            student only learns classes.
    """

    videos: str = ""
    fraction: float = 1.0
    seed: int = 0
    temperature: float = 1.0
    by_source: bool = True
    rounds: int = 1
    pairs_weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(
                f"labels.fraction is {self.fraction}; it must be above 0 and at most 1, such as 0.1"
            )
        if not self.temperature > 0:
            raise ConfigError(f"labels.temperature is {self.temperature}; it must be above 0")
        at_least("labels.seed", self.seed, 0)
        at_least("labels.rounds", self.rounds, 0)
        at_least("labels.pairs_weight", self.pairs_weight, 0)


@dataclass(frozen=True)
class TransferConfig(RunConfig):
    """Options of a supervision transfer.

    Args:
        data: Unlabeled videos, and how they are read.
        model: Student.
        teacher: Frozen 2D teacher.
        pairs: Objective of the student, on pairs of a clip and frames.
        labels: A few labeled videos, with which the student becomes a classifier.
        optim: Optimizer and schedule of the student. Default: the paper's recipe.
    """

    command: ClassVar[str] = "t3d transfer"

    data: PoolConfig = field(default_factory=PoolConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    pairs: PairConfig = field(default_factory=PairConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(epochs=150, batch_size=32, schedule="step")
    )

    @property
    def pooling(self) -> ClipPooling:
        """Pooling of the teacher's features of a clip."""
        return self.teacher.pooling or ("mean_std" if self.pairs.objective == "regress" else "mean")

    def lists(self) -> tuple[str, ...]:
        """Return the folder of relative paths, if it is set, and the lists of videos."""
        names = (self.data.root, self.data.videos, self.labels.videos, self.data.exclude)
        return tuple(filter(None, names))

    def caches(self) -> dict[str, str]:
        """Return the folders of results computed before the first step, by the name of the results."""
        features = {"teacher features": self.teacher.cache} if self.teacher.cache else {}
        return super().caches() | features

    def __post_init__(self) -> None:
        if not self.data.videos:
            raise ConfigError(
                "data.videos is missing: set it to a folder in any layout, a table (.csv, .tsv, .txt, "
                ".jsonl), an index (.parquet), or an official list of UCF101, HMDB51 or Kinetics"
            )
        if not self.teacher.name:
            raise ConfigError(
                "teacher.name is missing: set it to a timm or torchvision model, such as resnet50, an ONNX "
                "file, or a file written by t3d teacher (.safetensors)"
            )
        super().__post_init__()
        if self.clip.segments > 1:
            raise ConfigError(
                f"clip.segments is {self.clip.segments}; it must be 1, because transfer pairs one clip with "
                "frames of the same time. Set it when training on labels"
            )
        if self.optim.batch_size < 2 * self.optim.grad_accum_steps:
            parts, least = self.optim.grad_accum_steps, 2 * self.optim.grad_accum_steps
            reason = (
                "the metrics compare each clip with the teacher features of the other clips"
                if self.pairs.objective == "regress"
                else f"the objective {self.pairs.objective} takes its negative pairs from the other clips"
            )
            batch = "each batch" if parts == 1 else f"each of the {parts} passes (optim.grad_accum_steps)"
            raise ConfigError(
                f"optim.batch_size is {self.optim.batch_size}; it must be at least {least}, so that {batch} "
                f"has 2 clips: {reason}"
            )
        if self.optim.mixup_alpha or self.optim.label_smoothing:
            raise ConfigError(
                "optim.mixup_alpha and optim.label_smoothing are for t3d train; a transfer does not use "
                "them, also with labels. Remove them"
            )
        self._check_labels()
        if self.optim.schedule == "plateau" and self.data.val_fraction == 0:
            raise ConfigError(
                "optim.schedule = plateau needs a validation loss, and there are no validation videos: "
                "set data.val_fraction above 0, or choose another schedule"
            )

    def _check_labels(self) -> None:
        labels = self.labels
        if not labels.videos:
            changed = [each.name for each in fields(labels) if getattr(labels, each.name) != each.default]
            if changed:
                raise ConfigError(
                    f"labels.{changed[0]} has no effect without labeled videos; set labels.videos, or remove "
                    "it"
                )
            return
        if not self.teacher.cache:
            raise ConfigError(
                "labels.videos needs teacher.cache, a folder for the teacher's features: its classifier is "
                "fitted on features of all videos before the student's first step"
            )
