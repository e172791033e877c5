from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from t3d.errors import CheckpointError
from t3d.models.registry import create_model
from t3d.training import checkpoint
from t3d.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from t3d.training.config import OptimConfig
from t3d.training.optim import Schedule, make_ema, make_optimizer

SGD = OptimConfig(lr=0.05, schedule="plateau", patience=1)
ADAMW = OptimConfig(name="adamw", lr=0.01, weight_decay=0.1, decay_norm=False, schedule="cosine")
SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}


class State:
    """All that a checkpoint holds."""

    def __init__(self, config: OptimConfig, *, seed: int = 0, ema: bool = True, **options: object) -> None:
        torch.manual_seed(seed)
        model = create_model("densenet3d_tiny", num_classes=3, options={**SMALL, **options})
        self.model: nn.Module = model.to(memory_format=torch.channels_last_3d)
        self.optimizer = make_optimizer(self.model, config)
        self.schedule = Schedule(self.optimizer, config, steps_per_epoch=10)
        self.ema: AveragedModel | None = make_ema(self.model, 0.9) if ema else None

    def learn(self, *steps: int) -> None:
        for step in steps:
            self.schedule.set(step)
            clips = torch.randn(4, 3, 8, 32, 32, generator=torch.Generator().manual_seed(step))
            self.optimizer.zero_grad()
            self.model(clips).square().mean().backward()
            self.optimizer.step()
            if self.ema is not None:
                self.ema.update_parameters(self.model)

    @property
    def parts(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "ema": self.ema,
        }

    def same_as(self, other: State) -> None:
        mine, theirs = self.optimizer.state_dict(), other.optimizer.state_dict()
        assert mine["state"].keys() == theirs["state"].keys()
        pairs = [(self.model.state_dict(), other.model.state_dict(), "model")]
        if self.ema is not None and other.ema is not None:
            pairs.append((self.ema.state_dict(), other.ema.state_dict(), "ema"))
        pairs += [(mine["state"][i], theirs["state"][i], f"optim {i}") for i in mine["state"]]
        for here, there, what in pairs:
            assert here.keys() == there.keys(), what
            for key in here:
                assert torch.equal(here[key], there[key]), (what, key)
        assert mine["param_groups"] == theirs["param_groups"]
        assert self.schedule.state_dict() == other.schedule.state_dict()


@pytest.mark.parametrize("config", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_restart_is_bit_exact(config: OptimConfig, tmp_path: Path) -> None:
    straight = State(config)
    straight.learn(0, 1, 2)
    for loss in (1.0, 0.9, 0.95, 0.97):
        straight.schedule.validated(loss)
    progress = Progress(epoch=3, step=2, best=0.75, minutes=1.5)
    save_checkpoint(tmp_path / "c.safetensors", **straight.parts, progress=progress)

    again = State(config, seed=1)
    assert load_checkpoint(tmp_path / "c.safetensors", **again.parts) == progress
    for run in (straight, again):
        run.schedule.set(3)  # the rate is set before every step, it is no state
    again.same_as(straight)
    for parameter, state in again.optimizer.state.items():  # in its order in memory, as optimisers make it
        moments = [value for value in state.values() if value.shape == parameter.shape]
        assert moments
        assert all(value.stride() == parameter.stride() for value in moments)
    straight.learn(3, 4)
    again.learn(3, 4)
    again.same_as(straight)


def test_before_the_first_step_and_without_average(tmp_path: Path) -> None:
    fresh = State(SGD, ema=False)
    save_checkpoint(tmp_path / "c.safetensors", **fresh.parts, progress=Progress())
    other = State(SGD, seed=1, ema=False)
    other.learn(0)
    assert load_checkpoint(tmp_path / "c.safetensors", **other.parts) == Progress()
    assert not other.optimizer.state
    assert torch.equal(next(other.model.parameters()), next(fresh.model.parameters()))


def test_the_file_is_tensors_and_json_and_nothing_else(tmp_path: Path) -> None:
    state = State(ADAMW)
    state.learn(0)
    save_checkpoint(tmp_path / "c.safetensors", **state.parts, progress=Progress())
    raw = (tmp_path / "c.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    json.loads(header.pop("__metadata__")["t3d_checkpoint"])
    spans = sorted(tensor["data_offsets"] for tensor in header.values())
    assert spans[0][0] == 0
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    assert 8 + length + spans[-1][1] == len(raw)
    assert "optim.features.conv0.weight.exp_avg" in header


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    state = State(SGD)
    state.learn(0)
    save_checkpoint(tmp_path / "c.safetensors", **state.parts, progress=Progress(epoch=1))
    return tmp_path / "c.safetensors"


def refused(path: Path, state: State) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **state.parts)
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
    assert "model.classifier.bias is [3] in the file and missing in the net" in refused(saved, headless)


def test_another_optimiser_or_average_is_refused(saved: Path) -> None:
    assert "SGD" in refused(saved, State(ADAMW))
    assert "optim.ema_decay" in refused(saved, State(SGD, ema=False))
    state = State(SGD, ema=False)
    save_checkpoint(saved, **state.parts, progress=Progress())
    assert "ema.n_averaged is missing in the file" in refused(saved, State(SGD))


def test_what_is_no_checkpoint_is_refused(saved: Path) -> None:
    state = State(SGD)
    raw = saved.read_bytes()
    for content in (raw[:-100], raw[:50], b"", b"\x80\x04}." * 50):
        saved.write_bytes(content)
        assert "not a checkpoint of a t3d run, or damaged" in refused(saved, state)
    save_file({"weight": torch.zeros(3)}, saved)
    assert "not a checkpoint of a t3d run" in refused(saved, state)
    save_file({"weight": torch.zeros(3)}, saved, metadata={"t3d_checkpoint": '{"format": 99}'})
    assert "checkpoint format 99" in refused(saved, state)
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

    monkeypatch.setattr(checkpoint, "save_file", fail)
    state = State(SGD)
    with pytest.raises(type(error)):
        save_checkpoint(saved, **state.parts, progress=Progress())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_changes_nothing_in_the_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, torch.Tensor]] = []
    write: Callable[..., None] = checkpoint.save_file
    monkeypatch.setattr(
        checkpoint,
        "save_file",
        lambda tensors, path, **more: (written.append(tensors), write(tensors, path, **more)),
    )
    one, other = State(SGD), State(SGD)
    one.learn(0, 1)
    other.learn(0)
    save_checkpoint(saved, **other.parts, progress=Progress())
    other.learn(1)
    one.same_as(other)
    (tensors,) = written
    assert tensors.keys() == load_file(saved).keys()
