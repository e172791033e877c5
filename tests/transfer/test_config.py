from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.training.config import OptimConfig
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig

POOL = PoolConfig(videos="videos")
TEACHER = TeacherConfig(name="resnet50")
UNWATCHED, PLATEAU = PoolConfig(videos="videos", val_fraction=0.0), OptimConfig(schedule="plateau")


def run(**changes: Any) -> TransferConfig:
    return TransferConfig(**({"out": "run", "data": POOL, "teacher": TEACHER} | changes))


def test_a_pool_a_teacher_and_a_folder_are_enough() -> None:
    config = run()
    assert config.command == "t3d transfer"
    assert config.pairs == PairConfig(objective="regress", negatives="one", other_time=False)
    assert (config.teacher.frames, config.teacher.augment, config.teacher.cache) == (8, False, None)
    assert config.model.name == "t3d121"


def test_all_but_the_objective_is_the_papers_recipe_by_default() -> None:
    config = run()
    optim, clip = config.optim, config.clip
    assert (optim.name, optim.lr, optim.momentum, optim.weight_decay) == ("sgd", 0.1, 0.9, 1e-4)
    assert (optim.batch_size, optim.epochs) == (32, 150)
    assert (optim.schedule, optim.gamma, optim.step_epochs) == ("step", 0.1, 30)
    assert (clip.num_frames, clip.size) == (32, 224)


def test_options_cannot_be_changed_after_their_check() -> None:
    for part, name in ((run(), "seed"), (POOL, "root"), (TEACHER, "frames"), (PairConfig(), "temperature")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": PoolConfig()},
            "data.videos is missing: set it to a folder in any layout, a table (.csv, .tsv, .txt, .jsonl)",
        ),
        ({"teacher": TeacherConfig()}, "teacher.name is missing: set it to a timm or torchvision model"),
        ({"out": ""}, "out is missing: choose a run folder, such as runs/NAME"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"eval_every": 0}, "eval_every is 0; it must be at least 1"),
        ({"log_every": 0}, "log_every is 0; it must be at least 1"),
        (
            {"optim": OptimConfig(batch_size=3, grad_accum_steps=3), "pairs": PairConfig(objective="match")},
            "at least 6, so that each of the 3 passes (optim.grad_accum_steps) has 2 clips: the objective",
        ),
        (
            {"optim": OptimConfig(batch_size=1)},
            "optim.batch_size is 1; it must be at least 2, so that each batch has 2 clips: the metrics",
        ),
        (
            {"optim": OptimConfig(mixup_alpha=0.2)},
            "optim.mixup_alpha and optim.label_smoothing are for t3d train",
        ),
        (
            {"optim": OptimConfig(label_smoothing=0.1)},
            "optim.mixup_alpha and optim.label_smoothing are for t3d train",
        ),
        ({"clip": ClipSpec(segments=3)}, "clip.segments is 3; it must be 1"),
        ({"data": UNWATCHED, "optim": PLATEAU}, "plateau needs a validation loss"),
        ({"data": UNWATCHED, "optim": PLATEAU}, "set data.val_fraction above 0, or choose another schedule"),
    ],
)
def test_a_run_that_cannot_work_is_refused_with_the_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "works"),
    [(1, 1, False), (2, 1, True), (2, 2, False), (4, 2, True), (6, 6, False), (8, 4, True)],
)
def test_every_pass_needs_two_clips(batch_size: int, accumulate: int, works: bool) -> None:
    optim = OptimConfig(batch_size=batch_size, grad_accum_steps=accumulate)
    if works:
        assert run(optim=optim).optim == optim
    else:
        with pytest.raises(ConfigError, match=r"optim\.batch_size"):
            run(optim=optim)


def test_values_near_a_refused_one_are_accepted() -> None:
    nothing_held_out = replace(POOL, val_fraction=0.0)
    for schedule in ("step", "cosine", "constant"):
        assert run(data=nothing_held_out, optim=OptimConfig(schedule=schedule)).data == nothing_held_out
    assert run(optim=OptimConfig(schedule="plateau")).data.val_fraction > 0
    assert TeacherConfig(augment=True).cache is None
    assert TeacherConfig(cache="features", augment=False).frame_step == 8
    assert TeacherConfig(frames=1, frame_step=1, size=1).size == 1
    assert PairConfig(temperature=1e-3).temperature == 1e-3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"frames": 0}, "teacher.frames is 0; it must be at least 1"),
        ({"frame_step": 0}, "teacher.frame_step is 0; it must be at least 1"),
        ({"frame_step": -8}, "teacher.frame_step is -8; it must be at least 1"),
        ({"size": 0}, "teacher.size is 0; it must be at least 1"),
        ({"size": -1}, "teacher.size is -1; it must be at least 1"),
        ({"augment": True, "cache": "features"}, "turn one of them off"),
    ],
)
def test_a_teacher_that_cannot_work_is_refused_with_the_fix(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TeacherConfig(name="resnet50", **values)
    assert message in str(caught.value)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_a_temperature_is_above_zero(temperature: float) -> None:
    with pytest.raises(ConfigError, match=rf"pairs\.temperature is {temperature}; it must be above 0"):
        PairConfig(temperature=temperature)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"val_fraction": 0.95}, "data.val_fraction is 0.95; it must be between 0 and 0.9"),
        ({"val_fraction": -0.1}, "data.val_fraction is -0.1; it must be between 0 and 0.9"),
        ({"max_bad": 1.1}, "data.max_bad is 1.1; it must be between 0 and 1"),
        ({"cache_gb": -1.0}, "data.cache_gb is -1.0; it must be between 0"),
        ({"workers": -1}, "data.workers is -1; it must be at least 0"),
    ],
)
def test_a_pool_is_read_by_the_rules_of_all_runs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PoolConfig(videos="videos", **values)
    assert message in str(caught.value)


def test_options_are_read_without_torch() -> None:
    code = "import sys, t3d.transfer.config; assert 'torch' not in sys.modules, 'torch is imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"objective": "matching"}, r"pairs\.objective is 'matching'; did you mean 'match'"),
        ({"negatives": "on"}, r"pairs\.negatives is 'on'.*one"),
        ({"space": "teachers"}, r"pairs\.space is 'teachers'; did you mean 'teacher'"),
    ],
)
def test_misspelled_choices_are_refused_from_python_too(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PairConfig(**option)


def test_an_empty_cache_path_disables_the_cache() -> None:
    assert TeacherConfig(name="resnet50", cache="", augment=True).cache is None
