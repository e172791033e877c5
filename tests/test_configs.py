"""Recipes from Python are those of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import t3d
from t3d.cli import main
from t3d.errors import ConfigError
from t3d.video.encode import write_video

NEEDED = {
    "modern": {"data.train": "clips", "out": "runs/a"},
    "paper": {"data.train": "clips", "out": "runs/a"},
    "transfer-few-labels": {"data.videos": "clips", "labels.videos": "few", "out": "runs/a"},
    "transfer-laptop": {"data.videos": "clips", "teacher.name": "resnet18", "out": "runs/a"},
    "transfer-paper": {"data.videos": "clips", "teacher.name": "resnet18", "out": "runs/a"},
}


def plain(value: object) -> object:
    """The value with lists for tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("name", list(NEEDED))
def test_a_recipe_is_that_of_the_command_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {**NEEDED[name], "optim.epochs": 7}
    words = [f"--{key}={value}" for key, value in changes.items()]
    command = "transfer" if name.startswith("transfer") else "train"
    assert main.main([command, "--recipe", name, *words, "--print-config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    config = t3d.recipe(name, changes)
    assert plain(asdict(config)) == shown
    assert config.optim.epochs == 7


def test_a_rate_replaces_the_stride_of_a_recipe() -> None:
    clip = t3d.recipe("modern", {**NEEDED["modern"], "clip.fps": 12.5}).clip
    assert (clip.stride, clip.fps) == (None, 12.5)
    assert t3d.recipe("modern", {**NEEDED["modern"], "clip.stride": 3}).clip.stride == 3
    with pytest.raises(ConfigError, match=r"clip\.stride is 3 and clip\.fps is 8"):
        t3d.recipe("modern", {**NEEDED["modern"], "clip.stride": 3, "clip.fps": 8.0})


def test_a_transfer_and_the_training_after_it_decode_each_video_once(tmp_path: Path) -> None:
    """Both laptop recipes resize frames alike, so they share the entries of a cache."""
    video = write_video(tmp_path / "a.mp4", torch.zeros(20, 3, 96, 128, dtype=torch.uint8))
    cache = tmp_path / "cache"
    entries = []
    for name in ("transfer-laptop", "modern"):
        store = t3d.FrameStore(t3d.recipe(name, NEEDED[name]).clip, cache=str(cache))
        assert store.prepare(video)
        entries.append([(entry.name, entry.stat().st_ino) for entry in cache.glob("*.safetensors")])
    assert len(entries[0]) == 1
    assert entries[0] == entries[1]


def test_every_recipe_has_a_name() -> None:
    assert t3d.list_recipes() == sorted(NEEDED)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("moden", {}, "no recipe 'moden'; did you mean .?modern"),
        ("modern", {"data.train": "a"}, "out is missing"),
        ("modern", {**NEEDED["modern"], "optim.epoch": 3}, "did you mean 'optim.epochs'"),
        ("modern", {**NEEDED["modern"], "epochs": 3}, "unknown option 'epochs'; did you mean 'optim.epochs'"),
        ("modern", {**NEEDED["modern"], "optim": 3}, "optim is a section; set its options, such as 'optim"),
        ("modern", {**NEEDED["modern"], "optim": {"epoch": 3}}, "did you mean 'optim.epochs'"),
        ("modern", {**NEEDED["modern"], "optim.lr": None}, "optim.lr is None; give a value"),
        ("modern", {3: 4}, "names of options are text such as 'optim.epochs', got 3 of type int"),
        ("modern", ["optim.epochs"], "a dictionary such as .* got .* of type list"),
        (None, {}, "the name of a recipe is text, got None of type NoneType; known: modern, paper"),
        (["modern"], {}, "the name of a recipe is text, got .* of type list"),
        ("mine.yaml", {}, "`t3d train` takes it as `config`"),
        ("modern", {**NEEDED["modern"], "seed.value": 3}, "seed"),
        ("modern", {**NEEDED["modern"], "eval_every.value": 3}, "eval_every is not a section"),
        ("modern", {**NEEDED["modern"], "optim.epochs": "many"}, "optim.epochs"),
        ("modern", {**NEEDED["modern"], "optim.epochs": 0}, "optim.epochs is 0"),
    ],
)
def test_invalid_options_are_refused(name: Any, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        t3d.recipe(name, changes)


def test_paths_and_sections_are_accepted() -> None:
    config = t3d.recipe(
        "modern",
        {"data": {"train": Path("clips")}, "out": Path("runs/a"), "model.options": {"growth_rate": 4}},
    )
    assert (config.data.train, config.out) == ("clips", "runs/a")
    assert config.model.options == {"growth_rate": 4}


@pytest.mark.parametrize("name", ["modern", "transfer-laptop"])
def test_recipes_for_own_videos_sample_by_time_and_give_way_to_a_stride(name: str) -> None:
    clip = t3d.recipe(name, NEEDED[name]).clip
    assert clip.stride is None
    assert clip.fps == {"modern": 25 / 2, "transfer-laptop": 25 / 4}[name]
    assert t3d.recipe(name, {**NEEDED[name], "clip.stride": 2}).clip.step == 2
