"""Every option of a training run, as frozen dataclasses: what YAML recipes and `t3d train` set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from t3d.clip import ClipSpec
from t3d.data.config import AugmentConfig, DataConfig, ReadConfig
from t3d.errors import ConfigError, at_least, between


@dataclass(frozen=True)
class ModelConfig:
    """Which net.

    Args:
        name: A name that `t3d models` lists.
        options: Options of the net by name, such as `{drop_rate: 0.2}`.
        init: Weights file to start from. Its classifier is never taken: the new one starts untrained.
        freeze: Stage up to which nothing learns, BatchNorm included: `stem`, `denseblock1` … `denseblock4` in
            DenseNet3D and T3D, `layer1` … `layer4` in ResNet3D (docs/models.md has the others), or `backbone`
            for all but the classifier. Empty: everything learns.
        grad_checkpointing: Recompute parts of the net's blocks in the backward pass, to save memory.
    """

    name: str = "t3d121"
    options: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    freeze: str = ""
    grad_checkpointing: bool = False


@dataclass(frozen=True)
class OptimConfig:
    """How the net learns.

    Args:
        name: `sgd` (Nesterov momentum) or `adamw`.
        lr: Peak learning rate.
        momentum: Of SGD.
        weight_decay: Applied to every parameter, or to kernels alone, see `decay_norm`.
        decay_norm: Whether biases and normalisation parameters decay too (the paper does not exempt them).
        epochs: Passes over the training videos.
        batch_size: Clips in one optimiser step, over all processes and accumulation steps together.
        accumulate: Forward passes one optimiser step is spread over, to save memory.
        schedule: `step` multiplies the rate by `gamma` every `step_epochs`; `plateau` does so when more than
            `patience` validations in a row have not brought the loss down; `cosine` falls to zero along half
            a cosine; `constant` does nothing.
        warmup_epochs: The rate rises linearly from zero for so long, whatever the schedule.
        step_epochs: See `schedule`.
        gamma: See `schedule`.
        patience: See `schedule`.
        label_smoothing: Share of the target spread evenly over all K classes; with several labels a video, 1
            becomes 1 - share + share / K, and 0 becomes share / K.
        mixup: Parameter of the Beta distribution that mixes pairs of clips, and their labels; 0 switches it
            off.
        ema: Decay of the moving average of the weights, which is then tested and saved; 0 switches it off.
        clip_grad: Largest norm of the gradient; 0 switches clipping off.
        layer_decay: The learning rate shrinks by this factor with each stage away from the classifier
            (in T3D `denseblock4` once, `stem` five times). 1: all learn alike.
        classifier_lr: Factor of the classifier's learning rate.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm: bool = True
    epochs: int = 200
    batch_size: int = 64
    accumulate: int = 1
    schedule: Literal["step", "plateau", "cosine", "constant"] = "plateau"
    warmup_epochs: float = 0.0
    step_epochs: float = 30.0
    gamma: float = 0.1
    patience: int = 5
    label_smoothing: float = 0.0
    mixup: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    layer_decay: float = 1.0
    classifier_lr: float = 1.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ConfigError(f"optim.lr is {self.lr}; it must be above 0")
        for name in ("epochs", "batch_size", "accumulate"):
            at_least(f"optim.{name}", getattr(self, name), 1)
        if not self.step_epochs > 0:
            raise ConfigError(f"optim.step_epochs is {self.step_epochs}; it must be above 0")
        if not 0 <= self.gamma < 1:
            raise ConfigError(f"optim.gamma is {self.gamma}; it must be at least 0 and below 1")
        for name in ("weight_decay", "warmup_epochs", "patience", "mixup", "clip_grad"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        between("optim.layer_decay", self.layer_decay, 0.01, 1)
        if not self.classifier_lr > 0:
            raise ConfigError(f"optim.classifier_lr is {self.classifier_lr}; it must be above 0")
        for name in ("momentum", "label_smoothing", "ema"):
            between(f"optim.{name}", getattr(self, name), 0, 0.999999)
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"optim.batch_size {self.batch_size} cannot be split over optim.accumulate = "
                f"{self.accumulate} passes; choose a multiple"
            )


@dataclass(frozen=True)
class RunConfig:
    """What every kind of run asks.

    Args:
        out: Run folder: configuration, logs, checkpoint and weights. Never overwritten unless `overwrite`.
        seed: Every random draw of the run follows from it.
        data: Which videos.
        clip: What a clip is.
        augment: How a training clip is varied.
        model: Which net.
        optim: How it learns.
        precision: `bf16` computes in bfloat16; `auto` does so where the device has it in hardware.
        eval_every: Epochs between validations.
        log_every: Steps between log lines.
        checkpoint_minutes: Time between checkpoints within an epoch; each epoch ends with one anyway.
        overwrite: Delete the run folder if it exists.
    """

    command: ClassVar[str] = "t3d"

    out: str = ""
    seed: int = 0
    data: ReadConfig = field(default_factory=ReadConfig)
    clip: ClipSpec = field(default_factory=ClipSpec)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    eval_every: int = 1
    log_every: int = 10
    checkpoint_minutes: float = 10.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.out:
            raise ConfigError("out is missing: say where the run folder shall be, as --out runs/NAME")
        at_least("seed", self.seed, 0)
        for name in ("eval_every", "log_every"):
            at_least(name, getattr(self, name), 1)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A training run.

    Args:
        data: Which videos, with which labels.
    """

    command: ClassVar[str] = "t3d train"

    data: DataConfig = field(default_factory=DataConfig)

    def __post_init__(self) -> None:
        if not self.data.train:
            raise ConfigError(
                "data.train is missing: give a folder with one folder per class, a .csv, a .jsonl "
                "or a split list, as --data.train PATH"
            )
        super().__post_init__()
        if self.optim.schedule == "plateau" and self.data.val is None and self.data.val_fraction == 0:
            raise ConfigError(
                "optim.schedule = plateau watches the validation loss, and there is no validation "
                "set: give data.val, or data.val_fraction above 0, or another schedule"
            )
