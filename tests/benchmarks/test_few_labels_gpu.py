"""Clips are packed, unpacked and learned from, and an interrupted training resumes exactly."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from t3d.transfer.teachers.library import TorchTeacher
from t3d.video.encode import write_video

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    pass


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("few_labels_gpu")


@pytest.fixture(scope="module")
def packed(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PACK of 4 blue and 4 red videos for training and 1 of each for the test, in 2 parts."""
    root = tmp_path_factory.mktemp("gpu")
    generator = torch.Generator().manual_seed(0)
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for label, name in enumerate(("Blue", "Red")):
        (root / "data/videos" / name).mkdir(parents=True)
        for group in range(5):
            video = f"{name}/v_{name}_g{group:02d}_c01"
            frames = torch.randint(0, 30, (20, 3, 1, 1), generator=generator).expand(20, 3, 128, 128).clone()
            frames[:, 2 if name == "Blue" else 0] += 150
            write_video(root / "data/videos" / f"{video}.mp4", frames.to(torch.uint8), crf=35)
            part = "test" if group == 4 else "train"
            lists[part].append(f"{video}.avi {label + 1}\n" if part == "train" else f"{video}.avi\n")
    for part, lines in lists.items():
        (root / f"data/{part}list01.txt").write_text("".join(lines))
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())
    teacher = TorchTeacher("quarters", net, size=128, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t3d.transfer.teachers.open.open_teacher", lambda *_, **__: teacher)
        script.pack(root / "data", root / "pack", parts=2, shares=[0.5, 1.0], seeds=[0])
    return root / "pack"


@pytest.fixture(autouse=True)
def _tiny(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 4, "bottleneck": 1}
    monkeypatch.setitem(script.NETS, "tiny", ("densenet3d_tiny", options))
    monkeypatch.setattr(script, "CROP", 32)


def run(script: ModuleType, packed: Path, out: Path, **changes: Any) -> bool:
    options = {"minutes": 5.0, "steps": 2, "batch": 2, "nets": ["tiny"], "device": torch.device("cpu")}
    finished: bool = script.run(packed, out, **(options | changes))
    return finished


def test_clips_features_and_soft_labels_are_those_of_their_videos(script: ModuleType, packed: Path) -> None:
    data = script.unpack(packed, torch.device("cpu"))
    assert data.clips.shape == (10, 16, 3, 128, 128)  # a video of 20 frames is one clip
    assert data.classes == ["Blue", "Red"]
    assert data.test.tolist() == [False] * 8 + [True] * 2
    redder = (data.clips[data.first, :, 0].float().mean((1, 2, 3)) > 100).long()
    assert redder.tolist() == data.label.tolist()
    red = data.features[:, :4].mean(1) - data.features[:, 8:12].mean(1)  # the means; then the deviations
    assert (red > 0).long().tolist() == data.label.tolist()
    labeled, soft = data.shares["labeled 0.5 0"], data.shares["soft 0.5 0"]
    assert [int(labeled[:4].sum()), int(labeled[4:].sum())] == [2, 2]
    assert soft.argmax(1).tolist() == data.label[:8].tolist()
    assert bool((soft[labeled].amax(1) == 1).all())
    assert bool((soft[~labeled].amax(1) < 1).all())
    assert bool(data.shares["labeled 1.0 0"].all())
    assert script.crops(data.clips[:2], None).shape == (2, 3, 16, 32, 32)


def test_runs_resume_and_end_as_if_they_had_not_stopped(
    script: ModuleType, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[dict[str, Any]] = []
    accuracy = script.Training.accuracy

    def kept(self: Any) -> Any:
        saved.append({name: tensor.clone() for name, tensor in self.student.state_dict().items()})
        return accuracy(self)

    monkeypatch.setattr(script.Training, "accuracy", kept)
    assert run(script, packed, tmp_path / "whole")
    names = [result["name"] for result in script.read_results(tmp_path / "whole")]
    assert names == ["tiny-0.5-scratch-0", "tiny-0.5-transfer-0", "tiny-1-scratch-0", "tiny-1-transfer-0"]
    whole, saved[:] = list(saved), []

    take = script.Training.take_step

    def slow(self: Any) -> Any:  # the last of a call
        patch.setattr(script, "clock", lambda: 1e9)
        return take(self)

    calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(script.Training, "take_step", slow)
        while not run(script, packed, tmp_path / "parts"):
            patch.setattr(script, "clock", lambda: 0.0)
            calls += 1
            assert calls < 20
    assert calls >= 4
    assert script.read_results(tmp_path / "parts") == script.read_results(tmp_path / "whole")
    for one, other in zip(whole, saved, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["results.jsonl"]
    assert "| tiny | 50% | 2 |" in script.table(script.read_results(tmp_path / "whole"))


def test_parts_of_another_number_of_parts_are_refused(
    script: ModuleType, packed: Path, tmp_path: Path
) -> None:
    shutil.copytree(packed, tmp_path / "pack")
    with pytest.raises(SystemExit, match="another number of parts"):
        script.pack(packed.parent / "data", tmp_path / "pack", parts=1, shares=[1.0], seeds=[0])


def test_from_scratch_only_labeled_videos_are_seen(script: ModuleType, packed: Path) -> None:
    data = script.unpack(packed, torch.device("cpu"))
    seen = {}
    for transfer in (False, True):
        training = script.Training(script.Experiment("tiny", 0.5, 0, transfer), data, steps=10, batch=4)
        rows = []
        for training.step in range(4):
            rows += training.clips_of_step(torch.Generator().manual_seed(0))[0].tolist()
        seen[transfer] = sorted(rows)
    labeled = data.shares["labeled 0.5 0"].nonzero()[:, 0].tolist()
    assert seen[False] == sorted(labeled * 4)
    assert seen[True] == sorted([*range(8)] * 2)
