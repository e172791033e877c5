from __future__ import annotations

import subprocess
import sys

import pytest

from t3d.data.config import DataConfig
from t3d.errors import ConfigError
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig

DATA = DataConfig(train="videos")


def test_defaults_are_the_papers_recipe() -> None:
    config = TrainConfig(out="run", data=DATA)
    assert (config.clip.num_frames, config.clip.stride, config.clip.size, config.clip.resize) == (
        32,
        2,
        224,
        256,
    )
    optim = config.optim
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)
    assert (optim.batch_size, optim.epochs, optim.schedule, optim.gamma) == (64, 200, "plateau", 0.1)
    assert config.augment.crop == "five"
    assert config.model == ModelConfig(name="t3d121")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"lr": 0.0}, "optim.lr is 0.0"),
        ({"lr": float("nan")}, "optim.lr is nan"),
        ({"epochs": 0}, "optim.epochs is 0"),
        ({"batch_size": 0}, "optim.batch_size is 0"),
        ({"schedule": "cosin"}, "optim.schedule is 'cosin'; did you mean 'cosine'"),
        ({"name": "adam"}, "optim.name is 'adam'; did you mean 'adamw'"),
        ({"grad_accum_steps": 0}, "optim.grad_accum_steps is 0"),
        (
            {"batch_size": 8, "grad_accum_steps": 3},
            "batch_size 8 cannot be split evenly over optim.grad_accum_steps = 3",
        ),
        ({"step_epochs": 0.0}, "optim.step_epochs is 0.0"),
        ({"weight_decay": -1e-4}, "optim.weight_decay is -0.0001"),
        ({"warmup_epochs": -1.0}, "optim.warmup_epochs is -1.0"),
        ({"mixup_alpha": -0.1}, "optim.mixup_alpha is -0.1"),
        ({"max_grad_norm": float("nan")}, "optim.max_grad_norm is nan"),
        ({"momentum": 1.0}, "optim.momentum is 1.0"),
        ({"ema_decay": 1.0}, "optim.ema_decay is 1.0"),
        ({"label_smoothing": 1.5}, "optim.label_smoothing is 1.5"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(values: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named.replace("(", r"\(")):
        OptimConfig(**values)  # type: ignore[arg-type]


def test_a_run_needs_videos_and_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"data\.train is missing: set it to a folder"):
        TrainConfig(out="run")
    with pytest.raises(ConfigError, match="out is missing: choose a run folder"):
        TrainConfig(data=DATA)


def test_plateau_needs_validation_videos() -> None:
    alone = DataConfig(train="videos", val_fraction=0.0)
    with pytest.raises(ConfigError, match="plateau needs a validation loss"):
        TrainConfig(out="run", data=alone)
    assert TrainConfig(out="run", data=alone, optim=OptimConfig(schedule="cosine")).data.val is None
    TrainConfig(out="run", data=DataConfig(train="videos", val="others", val_fraction=0.0))


@pytest.mark.parametrize("name", ["eval_every", "log_every", "seed"])
def test_counts_of_a_run_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is -1"):
        TrainConfig(out="run", data=DATA, **{name: -1})  # type: ignore[arg-type]


def test_options_can_be_read_without_torch() -> None:
    code = "import sys, t3d.training.config; assert 'torch' not in sys.modules, 'torch is imported'"
    subprocess.run([sys.executable, "-c", code], check=True)
