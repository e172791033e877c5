from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from t3d.card import ModelCard
from t3d.errors import CheckpointError
from t3d.models.registry import create_model
from t3d.models.weights import load_model
from t3d.training.checkpoint import Progress, Snapshot, load_checkpoint, read_header, save_checkpoint
from t3d.training.config import OptimConfig
from t3d.training.learner import Learner

SGD = OptimConfig(lr=0.05, schedule="plateau", patience=1)
ADAMW = OptimConfig(name="adamw", lr=0.01, weight_decay=0.1, decay_norm=False, schedule="cosine")
CARD = ModelCard("densenet3d_tiny", classes=("a", "b", "c"), provenance={"epochs": 3})
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


class State:
    """Everything that a checkpoint contains."""

    def __init__(self, config: OptimConfig, *, seed: int = 0, ema: bool = True, **options: object) -> None:
        torch.manual_seed(seed)
        model = create_model("densenet3d_tiny", num_classes=3, options={**SMALL, **options})
        self.model: nn.Module = model.to(memory_format=torch.channels_last_3d)
        config = replace(config, ema_decay=0.9 if ema else 0.0)
        self.learner = Learner.of(self.model, config, steps_per_epoch=10)
        self.optimizer, self.schedule = self.learner.optimizer, self.learner.schedule
        self.ema = self.learner.ema

    def learn(self, *steps: int) -> None:
        for step in steps:
            self.schedule.set(step)
            clips = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(step))
            self.optimizer.zero_grad()
            self.model(clips).square().mean().backward()
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update_parameters(self.model)

    def save(self, path: Path, progress: Progress, best: Snapshot | None = None) -> None:
        save_checkpoint(path, self.learner, progress=progress, card=CARD, best=best)

    def same_as(self, other: State) -> None:
        mine, theirs = self.optimizer.state_dict(), other.optimizer.state_dict()
        assert mine["state"].keys() == theirs["state"].keys()
        pairs = [(self.model.state_dict(), other.model.state_dict(), "model")]
        if self.ema is not None and other.ema is not None:
            pairs.append((self.ema.state_dict(), other.ema.state_dict(), "ema"))
        pairs += [(mine["state"][i], theirs["state"][i], f"optim {i}") for i in mine["state"]]
        for left, right, what in pairs:
            assert left.keys() == right.keys(), what
            for key in left:
                assert torch.equal(left[key], right[key]), (what, key)
        assert mine["param_groups"] == theirs["param_groups"]
        assert self.schedule.state_dict() == other.schedule.state_dict()


def test_a_new_run_has_no_step_and_no_validation() -> None:
    assert Progress() == Progress(epoch=0, step=0, best=-1.0, minutes=0.0)


@pytest.mark.parametrize("config", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_restart_is_bit_exact(config: OptimConfig, tmp_path: Path) -> None:
    straight = State(config)
    straight.learn(0, 1, 2)
    for loss in (1.0, 0.9, 0.95, 0.97):
        straight.schedule.validated(loss)
    progress = Progress(epoch=3, step=2, best=0.75, minutes=1.5)
    straight.save(tmp_path / "c.safetensors", progress)

    again = State(config, seed=1)
    assert load_checkpoint(tmp_path / "c.safetensors", again.learner) == (progress, None)
    for run in (straight, again):
        run.schedule.set(3)  # the rate is set before every step, so it is not part of the state
    again.same_as(straight)
    for parameter, state in again.optimizer.state.items():  # in its memory format, as optimizers create it
        moments = [value for value in state.values() if value.shape == parameter.shape]
        assert moments
        assert all(value.stride() == parameter.stride() for value in moments)
    straight.learn(3, 4)
    again.learn(3, 4)
    again.same_as(straight)


def test_before_the_first_step_and_without_average(tmp_path: Path) -> None:
    fresh = State(SGD, ema=False)
    fresh.save(tmp_path / "c.safetensors", Progress())
    other = State(SGD, seed=1, ema=False)
    other.learn(0)
    assert load_checkpoint(tmp_path / "c.safetensors", other.learner) == (Progress(), None)
    assert not other.optimizer.state
    assert torch.equal(next(other.model.parameters()), next(fresh.model.parameters()))


def test_the_file_contains_only_tensors_and_json(tmp_path: Path) -> None:
    state = State(ADAMW)
    state.learn(0)
    state.save(tmp_path / "c.safetensors", Progress())
    raw = (tmp_path / "c.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert json.loads(header.pop("__metadata__")["t3d_checkpoint"])["format"] == 4
    spans = sorted(tensor["data_offsets"] for tensor in header.values())
    assert spans[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    assert 8 + length + spans[-1][1] == len(raw)
    assert "optim.features.conv0.weight.exp_avg" in header


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        header: dict[str, Any] = json.loads(file.metadata()["t3d_checkpoint"])
    return header


def test_the_best_weights_so_far_are_restored_with_their_card(tmp_path: Path) -> None:
    path, state = tmp_path / "c.safetensors", State(SGD)
    state.learn(0)
    assert state.ema is not None
    best = Snapshot.of(state.learner.kept, CARD)
    early = {name: tensor.clone() for name, tensor in state.ema.module.state_dict().items()}
    state.learn(1)
    state.save(path, Progress(best=0.5), best)
    header = header_of(path)
    assert (header["weights"], ModelCard.from_json(header["card"])) == ("best.", CARD)

    _, back = load_checkpoint(path, State(SGD, seed=1).learner)
    assert back is not None
    assert back.card == CARD
    assert back.tensors.keys() == early.keys()
    for name, tensor in early.items():  # the average's, and not those of the later step
        assert torch.equal(back.tensors[name], tensor), name
    assert not torch.equal(early["features.conv0.weight"], state.model.state_dict()["features.conv0.weight"])


@pytest.mark.parametrize(("ema", "prefix"), [(True, "ema.module."), (False, "model.")])
def test_without_validation_the_header_names_the_current_weights(
    ema: bool, prefix: str, tmp_path: Path
) -> None:
    path, state = tmp_path / "c.safetensors", State(SGD, ema=ema)
    state.learn(0)
    state.save(path, Progress())
    header, tensors = header_of(path), load_file(path)
    assert (header["weights"], ModelCard.from_json(header["card"])) == (prefix, CARD)
    assert not any(name.startswith("best.") for name in tensors)
    for name, tensor in state.learner.averaged.state_dict().items():
        assert torch.equal(tensors[prefix + name], tensor), name


def test_only_a_part_can_be_kept() -> None:
    model = nn.Sequential()
    model.add_module("student", nn.Linear(2, 2))
    model.add_module("head", nn.Linear(2, 1))
    learner = Learner.of(model, replace(SGD, ema_decay=0.9), steps_per_epoch=1, part="student")
    assert learner.ema is not None
    assert learner.kept is learner.ema.module.student
    assert learner.kept_prefix == "ema.module.student."
    assert Snapshot.of(learner.kept, CARD).tensors.keys() == {"weight", "bias"}


def test_a_snapshot_is_a_copy_and_becomes_a_weights_file(tmp_path: Path) -> None:
    state = State(SGD, ema=False)
    card = replace(CARD, options=SMALL)
    snapshot = Snapshot.of(state.model, card)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    state.learn(0)
    snapshot.write(tmp_path / "w.safetensors")
    model, read = load_model(tmp_path / "w.safetensors")
    assert read == card
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    state = State(SGD)
    state.learn(0)
    state.save(tmp_path / "c.safetensors", Progress(epoch=1))
    return tmp_path / "c.safetensors"


def refused(path: Path, state: State) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, state.learner)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_another_net_is_refused_by_the_key_that_differs(saved: Path) -> None:
    assert "model.features.conv0.weight is [8, 3, 3, 7, 7] in the file and [16, 3" in refused(
        saved, State(SGD, stem_channels=16)
    )
    larger = refused(saved, State(SGD, block_config=[1, 2]))
    assert "model.features.denseblock2.denselayer2" in larger
    assert "is missing in the file" in larger
    headless = State(SGD)
    headless.model.classifier = nn.Identity()
    assert "model.classifier.bias is [3] in the file and missing in the model" in refused(saved, headless)


def test_another_optimizer_or_average_is_refused(saved: Path) -> None:
    assert "SGD" in refused(saved, State(ADAMW))
    assert "optim.ema_decay" in refused(saved, State(SGD, ema=False))
    state = State(SGD, ema=False)
    state.save(saved, Progress())
    assert "ema.n_averaged is missing in the file" in refused(saved, State(SGD))


def test_other_files_are_refused(saved: Path) -> None:
    state = State(SGD)
    raw = saved.read_bytes()
    for content in (raw[:-100], raw[:50], b"", b"\x80\x04}." * 50):
        saved.write_bytes(content)
        assert "not a checkpoint of a t3d run, or corrupt" in refused(saved, state)
    save_file({"weight": torch.zeros(3)}, saved)
    assert "not a checkpoint of a t3d run" in refused(saved, state)
    save_file({"weight": torch.zeros(3)}, saved, metadata={"t3d_checkpoint": '{"format": 99}'})
    assert "another version of t3d wrote this checkpoint (format 99;" in refused(saved, state)
    saved.unlink()
    assert "there is no checkpoint" in refused(saved, state)


@pytest.mark.parametrize("error", [OSError("no space left"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_old_file(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = saved.read_bytes()

    def fail(tensors: dict[str, torch.Tensor], path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        assert len(tensors) > 10
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    state = State(SGD)
    with pytest.raises(type(error)):
        state.save(saved, Progress())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_changes_nothing_in_the_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, torch.Tensor]] = []
    write: Callable[..., None] = safetensors.torch.save_file
    monkeypatch.setattr(
        safetensors.torch,
        "save_file",
        lambda tensors, path, **more: (written.append(tensors), write(tensors, path, **more)),
    )
    one, other = State(SGD), State(SGD)
    one.learn(0, 1)
    other.learn(0)
    other.save(saved, Progress())
    other.learn(1)
    one.same_as(other)
    (tensors,) = written
    assert tensors.keys() == load_file(saved).keys()


@pytest.mark.parametrize("part", ["progress", "schedule"])
def test_a_header_with_other_content_is_refused(saved: Path, part: str) -> None:
    tensors = load_file(saved)
    header = read_header(saved) | {part: {"x": [1]}}
    save_file(tensors, saved, metadata={"t3d_checkpoint": json.dumps(header)})
    assert "corrupt: " in refused(saved, State(SGD))
