"""Options of a training run, for Python, YAML and the command line.

Each `Args:` entry is the help text of the option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from t3d.clip import ClipSpec
from t3d.data.config import AugmentConfig, DataConfig, ReadConfig
from t3d.device import Precision
from t3d.errors import ConfigError, at_least, between, one_of

Optimizer = Literal["sgd", "adamw"]
ScheduleName = Literal["step", "plateau", "cosine", "constant"]
Tracker = Literal["mlflow", "wandb", "trackio", "tensorboard"]
"""See `t3d.training.trackers`. Defined here, because reading options does not need torch."""
GradCheckpointing = Literal["none", "layers", "blocks"]
"""See `VideoNet.set_grad_checkpointing`. Defined here, too, because reading options does not need torch."""

CHANGEABLE = ("optim.epochs", "early_stopping")
"""Options that may change when a run is resumed."""


@dataclass(frozen=True)
class ModelConfig:
    """Options of the model.

    Args:
        name: Name of the model, as listed by `t3d models`.
        options: Options of the model by name, such as `{drop_rate: 0.2}`. Default: none.
        init: Weights to start from: a weights file or a run folder of the same model. On the command line,
            model and clip settings come from it unless you set them. The classifier is loaded if the classes
            are the same, else it starts untrained. Default: random weights.
        freeze: Last stage to freeze, together with all stages before it and their BatchNorm statistics:
            `stem`, `denseblock1` to `denseblock4` in DenseNet3D and T3D, `layer1` to `layer4` in ResNet3D
            (docs/reference/models.md lists the others), or `backbone` for everything except the classifier.
            Default: freeze nothing.
        grad_checkpointing: Activations to recompute in the backward pass, for less memory and slower steps:
            `none`; `layers` recomputes cheap layers of T3D and DenseNet3D, and blocks of other models;
            `blocks` recomputes whole stages. The trained model is the same.
    """

    name: str = "t3d121"
    options: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    freeze: str = ""
    grad_checkpointing: GradCheckpointing = "none"

    def __post_init__(self) -> None:
        one_of("model.grad_checkpointing", self.grad_checkpointing, get_args(GradCheckpointing))


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, schedule and regularization.

    Args:
        name: Optimizer: `sgd` (Nesterov momentum) or `adamw`.
        lr: Peak learning rate.
        momentum: Momentum of SGD. AdamW ignores it.
        weight_decay: Weight decay, applied to all parameters, or only to weight matrices and convolution
            kernels if `decay_norm` is off.
        decay_norm: Also apply weight decay to biases and normalization parameters, as the paper does.
        epochs: Number of passes over the training videos.
        batch_size: Clips per optimizer step in total, however many processes and passes share them.
        grad_accum_steps: Forward passes per optimizer step. More passes need less memory.
        schedule: Learning-rate schedule after the warm-up. `step` multiplies the rate by `gamma` every
            `step_epochs`; `plateau` multiplies it by `gamma` after more than `patience` validations without a
            lower loss; `cosine` decays it to zero along half a cosine; `constant` keeps it.
        warmup_epochs: Linear learning-rate warm-up from zero over this many epochs. 0: no warm-up.
        step_epochs: Epochs between drops of the `step` schedule.
        gamma: Factor of each drop of the `step` and `plateau` schedules.
        patience: Validations without a lower loss that the `plateau` schedule accepts before a drop.
        label_smoothing: Share of the target spread evenly over all K classes. For multi-label videos, a
            target of 1 becomes 1 - share + share / K, and 0 becomes share / K. 0: no smoothing.
        mixup_alpha: Parameter of the Beta distribution that mixes pairs of clips and their labels (mixup).
            0: no mixup.
        ema_decay: Decay of an exponential moving average of the weights, which is then validated and saved
            instead of the weights. 0: no average.
        max_grad_norm: Largest gradient norm; longer gradients are clipped. 0: no clipping.
        layer_decay: The learning rate is multiplied by this once per stage of distance from the classifier
            (in T3D: X for `denseblock4`, X^5 for `stem`). 1: the same rate everywhere.
        classifier_lr: Multiplies the classifier's learning rate: 10 is ten times `lr`.
    """

    name: Optimizer = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm: bool = True
    epochs: int = 200
    batch_size: int = 64
    grad_accum_steps: int = 1
    schedule: ScheduleName = "plateau"
    warmup_epochs: float = 0.0
    step_epochs: float = 30.0
    gamma: float = 0.1
    patience: int = 5
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    ema_decay: float = 0.0
    max_grad_norm: float = 0.0
    layer_decay: float = 1.0
    classifier_lr: float = 1.0

    def __post_init__(self) -> None:
        one_of("optim.name", self.name, get_args(Optimizer))
        one_of("optim.schedule", self.schedule, get_args(ScheduleName))
        if not self.lr > 0:
            raise ConfigError(f"optim.lr is {self.lr}; it must be above 0")
        for name in ("epochs", "batch_size", "grad_accum_steps"):
            at_least(f"optim.{name}", getattr(self, name), 1)
        if not self.step_epochs > 0:
            raise ConfigError(f"optim.step_epochs is {self.step_epochs}; it must be above 0")
        if not 0 <= self.gamma < 1:
            raise ConfigError(f"optim.gamma is {self.gamma}; it must be at least 0 and below 1")
        for name in ("weight_decay", "warmup_epochs", "patience", "mixup_alpha", "max_grad_norm"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        between("optim.layer_decay", self.layer_decay, 0.01, 1)
        if not self.classifier_lr > 0:
            raise ConfigError(f"optim.classifier_lr is {self.classifier_lr}; it must be above 0")
        for name in ("momentum", "label_smoothing", "ema_decay"):
            between(f"optim.{name}", getattr(self, name), 0, 0.999999)
        if self.batch_size % self.grad_accum_steps:
            raise ConfigError(
                f"optim.batch_size {self.batch_size} cannot be split evenly over optim.grad_accum_steps = "
                f"{self.grad_accum_steps} passes; choose a multiple"
            )


@dataclass(frozen=True)
class RunConfig:
    """Options of every kind of run.

    Args:
        out: Run folder for options, log, checkpoint and weights. It must not contain a run, see `overwrite`.
        seed: Seed of every random draw of the run.
        data: Videos, and how they are read.
        clip: Length, size and spacing of a clip.
        augment: Random changes of training clips.
        model: The model.
        optim: Optimizer, schedule and regularization.
        precision: Precision of the model: `fp32`, `bf16`, or `auto`, which is bf16 on devices that compute it
            in hardware.
        eval_every: Epochs between validations. The last epoch is always validated.
        log_every: Optimizer steps between log lines.
        tracker: Experiment trackers that also record the log: `mlflow`, `wandb`, `trackio`, `tensorboard`.
            TensorBoard is always written if it is installed.
        checkpoint_minutes: Minutes between checkpoints within an epoch. Every epoch also ends with one.
        overwrite: Delete the run in `out`, if there is one, and start again.
    """

    command: ClassVar[str] = "t3d"

    out: str = ""
    seed: int = 0
    data: ReadConfig = field(default_factory=ReadConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Precision = "auto"
    eval_every: int = 1
    log_every: int = 10
    tracker: tuple[str, ...] = ()
    checkpoint_minutes: float = 10.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is missing: choose a run folder, such as runs/NAME")
        at_least("seed", self.seed, 0)
        one_of("precision", self.precision, get_args(Precision))
        for name in self.tracker:
            one_of("tracker", name, get_args(Tracker))
        at_least("checkpoint_minutes", self.checkpoint_minutes, 0)
        for name in ("eval_every", "log_every"):
            at_least(name, getattr(self, name), 1)

    def lists(self) -> tuple[str, ...]:
        """Return the folder of relative paths, if it is set, and the lists of videos."""
        return ()

    def caches(self) -> dict[str, str]:
        """Return the folders of results computed before the first step, by the name of the results."""
        return {"decoded frames": self.data.cache} if self.data.cache else {}


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Options of a supervised training run.

    Args:
        data: Labeled videos, and how they are read.
        early_stopping: Stop after this many validations in a row without a higher accuracy (mAP for
            multi-label videos) than the best one. 0: train for all epochs.
    """

    command: ClassVar[str] = "t3d train"

    data: DataConfig = field(default_factory=DataConfig)
    early_stopping: int = 0

    def lists(self) -> tuple[str, ...]:
        """Return the folder of relative paths, if it is set, and the lists of videos."""
        return tuple(filter(None, (self.data.root, self.data.train, self.data.val, self.data.soft)))

    def __post_init__(self) -> None:
        if not self.data.train:
            raise ConfigError(
                "data.train is missing: set it to a folder with one folder per class, a table (.csv, .tsv, "
                ".txt, .jsonl), an index (.parquet), or an official list of UCF101, HMDB51 or Kinetics"
            )
        super().__post_init__()
        at_least("early_stopping", self.early_stopping, 0)
        if self.data.val is not None or self.data.val_fraction > 0:
            return
        remedy = "there are no validation videos: set data.val, data.val_fraction above 0, or"
        if self.optim.schedule == "plateau":
            raise ConfigError(
                f"optim.schedule = plateau needs a validation loss, and {remedy} another schedule"
            )
        if self.early_stopping:
            raise ConfigError(
                f"early_stopping is {self.early_stopping} and needs a validation accuracy, and {remedy} "
                "early_stopping = 0"
            )
