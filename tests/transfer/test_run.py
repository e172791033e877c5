"""Whole transfer runs of seconds, on videos whose frames and clips are easily matched by color."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.config import AugmentConfig, DataConfig
from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError, Failed, ManifestError
from t3d.models.registry import create_model
from t3d.models.weights import load_model, read_tensors, write_tensors
from t3d.training.config import ModelConfig, OptimConfig, TrainConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import Trainer
from t3d.transfer import run as loop
from t3d.transfer.config import PairConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.features import FeatureStore
from t3d.transfer.run import transfer
from t3d.transfer.teachers.base import TEACHER_KEY, Teacher
from t3d.transfer.teachers.open import open_teacher
from t3d.video.encode import write_video
from t3d.video.video import Video

NET = ModelConfig(
    name="densenet3d_tiny",
    options={"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1},
)
Small = Callable[..., TransferConfig]


def draw(root: Path, count: int, *, first: int = 0) -> Path:
    """A folder of videos of 24 frames, 32 × 48, each with its own color that slowly becomes lighter."""
    root.mkdir(parents=True)
    generator = torch.Generator().manual_seed(first)
    for number in range(first, first + count):
        color = torch.randint(20, 200, (1, 3, 1, 1), generator=generator)
        light = torch.linspace(0, 40, 24).view(24, 1, 1, 1)
        noise = torch.randint(-10, 11, (24, 3, 32, 48), generator=generator)
        write_video(root / f"{number:02d}.mp4", (color + light + noise).clamp(0, 255).byte(), crf=20)
    return root


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("pool") / "videos", 24)


@pytest.fixture(scope="module")
def eighty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 80 videos in `videos`; later runs reuse the caches that earlier runs put next to it."""
    root = tmp_path_factory.mktemp("eighty")
    draw(root / "videos", 80)
    return root


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as `t3d teacher` writes it; random weights know colors well enough. It has BatchNorm."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", pretrained=False, num_classes=4)
    write_tensors(
        net.state_dict(), path, metadata={TEACHER_KEY: json.dumps({"name": "timm:resnet10t", "size": 32})}
    )
    return path


@pytest.fixture
def small(pool: Path, teacher_file: Path, tmp_path: Path) -> Small:
    """Maker of the config of a short run, 5 steps per epoch; dictionaries change fields of a section."""
    base = TransferConfig(
        out=str(tmp_path / "run"),
        data=PoolConfig(videos=str(pool), val_fraction=0.15, workers=0),
        clip=ClipSpec(num_frames=8, stride=1, size=32, resize=32),
        augment=AugmentConfig(),
        model=NET,
        teacher=TeacherConfig(name=str(teacher_file), frames=2),
        pairs=PairConfig("match"),
        optim=OptimConfig(name="adamw", lr=3e-3, epochs=1, batch_size=4, schedule="constant"),
        precision="fp32",
        log_every=1,
    )

    def make(**changes: object) -> TransferConfig:
        parts = {
            name: replace(getattr(base, name), **value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return replace(base, **parts)

    return make


def weights_of(folder: RunFolder) -> dict[str, torch.Tensor]:
    return read_tensors(folder.last)[0]


def numbers_of(folder: RunFolder) -> list[dict[str, Any]]:
    """The log without what a clock gave."""
    clocks = ("time", "clips_per_second", "waiting_for_data")
    return [{k: v for k, v in line.items() if k not in clocks} for line in read_log(folder.log)]


def table(path: Path, rows: list[tuple[Path, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "source"), *rows])
    return path


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param("match", marks=pytest.mark.long),
        "regress",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("contrastive", "sum")),
    ],
)
def test_pairs_of_held_out_videos_are_told_apart(small: Small, objective: str, eighty: Path) -> None:
    config = small(
        data={"videos": str(eighty / "videos"), "val_fraction": 0.2, "cache": str(eighty / "frames")},
        pairs={"objective": objective, "negatives": "all"},
        teacher={"cache": str(eighty / "features"), "frame_step": 4},
        optim={"epochs": 12, "batch_size": 8, "schedule": "cosine", "ema_decay": 0.9},
        eval_every=12,
    )
    lines = read_log(RunFolder(transfer(config)).log)
    last = lines[-1]
    assert last["kind"] == "val"
    assert last["auc"] > 0.85  # guessing gives 0.5
    assert ("accuracy" in last) == (objective in ("match", "sum"))
    if objective in ("match", "sum"):
        assert last["accuracy"] > 0.7
        assert {"precision", "recall"} <= last.keys()


def test_the_teacher_stays_as_it_is_to_the_bit(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Teacher] = []

    def remember(*args: Any, **kwargs: Any) -> Teacher:
        opened.append(open_teacher(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(loop, "open_teacher", remember)
    config = small()
    before = {key: value.clone() for key, value in open_teacher(config.teacher.name).state_dict().items()}
    assert any("running_mean" in key for key in before)
    transfer(config)
    (teacher,) = opened
    assert not teacher.training
    assert not any(module.training for module in teacher.modules())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_the_student_starts_a_training(small: Small, pool: Path, tmp_path: Path) -> None:
    folder = RunFolder(transfer(small(clip={"modality": "diff"})))
    net, card = load_model(folder.last)
    assert card.classes == ()
    assert card.clip.modality == "diff"
    assert card.provenance["transfer"] == "match"
    assert net(torch.randn(2, 3, 8, 32, 32)).shape == (2, net.num_features)

    rows = [(path, "even" if int(path.stem) % 2 else "odd") for path in sorted(pool.glob("*.mp4"))]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    config = TrainConfig(
        out=str(tmp_path / "tuned"),
        data=DataConfig(train=str(tmp_path / "labels.csv"), val_fraction=0, workers=0),
        clip=card.clip,
        model=replace(NET, init=str(folder.last)),
        optim=OptimConfig(lr=1e-12, epochs=1, batch_size=4, schedule="constant", weight_decay=0),
    )
    tuned = read_tensors(RunFolder(train(config)).last)[0]
    given = weights_of(folder)
    kernels = [key for key in given if given[key].ndim == 5]
    assert kernels
    for key in kernels:  # they are where the transfer left them, but for a step of nearly nothing
        torch.testing.assert_close(tuned[key], given[key], rtol=0, atol=1e-6)


@pytest.mark.long
def test_a_run_that_was_stopped_ends_as_if_it_never_had_been(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {
        "optim": {"epochs": 2, "ema_decay": 0.9},
        "pairs": {"objective": "sum", "other_time": True},
        "teacher": {"augment": True},
    }
    straight = RunFolder(transfer(small(**changes, out=str(tmp_path / "straight"))))
    config = small(**changes)
    folder = RunFolder(config.out)
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        take(self, batches, epoch=epoch, step=step)
        if epoch * self.steps + step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError, match=f"{folder.path}: SIGTERM stopped the run") as caught:
            transfer(config)
    assert not folder.last.exists()
    tensors, _ = read_tensors(folder.checkpoint)
    with safe_open(folder.checkpoint, framework="pt") as file:
        header = json.loads(file.metadata()["t3d_checkpoint"])
    card = ModelCard.from_json(header["card"])
    assert header["weights"] == "ema.module.student."
    student = create_model(card.architecture, num_classes=0, options=card.options)
    student.load_state_dict({name: tensors[header["weights"] + name] for name in student.state_dict()})
    assert not any(name.startswith("best.") for name in tensors)  # held-out pairs choose no student
    assert folder.command() == caught.value.command == "t3d transfer"
    again = replace(folder.read_config(TransferConfig), out=config.out)
    assert again == config
    transfer(again, resume=True)
    assert numbers_of(folder) == numbers_of(straight)
    assert not folder.best.exists()
    assert folder.last.read_bytes() == straight.last.read_bytes()  # with the held-out figures in the card
    theirs = weights_of(straight)
    for key, value in weights_of(folder).items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.long
def test_a_transfer_trained_longer_is_one_longer_transfer(small: Small, tmp_path: Path) -> None:
    optim = {"schedule": "step", "step_epochs": 1.0, "ema_decay": 0.5}
    straight = RunFolder(transfer(small(optim=optim | {"epochs": 3}, out=str(tmp_path / "straight"))))
    config = small(optim=optim)
    folder = RunFolder(transfer(config))
    transfer(replace(config, optim=replace(config.optim, epochs=3)), resume=True)
    assert numbers_of(folder) == numbers_of(straight)
    assert folder.last.read_bytes() == straight.last.read_bytes()
    assert folder.read_config(TransferConfig).optim.epochs == 3


def test_a_run_does_not_resume_without_one_of_its_videos(
    small: Small, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(pool, videos)
    cache = {"cache": str(tmp_path / "features"), "frame_step": 2}
    config = small(data={"videos": str(videos), "max_bad": 0.1}, teacher=cache)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            transfer(config)
    learned, _ = RunFolder(config.out).read_videos()
    lost = learned[0].path
    whole = lost.read_bytes()
    lost.write_bytes(b"no video")
    with pytest.raises(ManifestError, match=rf"cannot be resumed.*{lost.name} .*overwrite=True"):
        transfer(config, resume=True)
    lost.write_bytes(whole)
    transfer(config, resume=True)
    assert RunFolder(config.out).last.exists()


@pytest.mark.long
def test_features_that_were_kept_teach_what_fresh_ones_teach(small: Small, tmp_path: Path) -> None:
    slow = {"lr": 1e-7}  # larger steps would make much of the rounding
    fresh = RunFolder(transfer(small(optim=slow, out=str(tmp_path / "fresh"))))
    cache = {"cache": str(tmp_path / "features"), "frame_step": 1}
    kept = small(optim=slow, teacher=cache, out=str(tmp_path / "kept"))
    for mine, theirs in zip(numbers_of(RunFolder(transfer(kept))), numbers_of(fresh), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)  # they are kept in half precision
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()}
    assert len(made) == 24
    transfer(replace(kept, overwrite=True))
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "features").iterdir()} == made


@pytest.mark.long
def test_one_file_under_many_names_is_one_source(
    small: Small, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for path in sorted(pool.glob("*.mp4"))[:8]:
        for number in range(3):
            copy = tmp_path / f"{path.stem}_{number}.mp4"
            shutil.copy(path, copy)
            rows.append((copy, copy.stem))
    config = small(data={"videos": str(table(tmp_path / "pool.csv", rows)), "val_fraction": 0})
    transfer(config)
    assert "on 24 videos (8 groups)" in capsys.readouterr().out
    folder = RunFolder(transfer(replace(config, data=replace(config.data, val_fraction=0.3), overwrite=True)))
    mine, held = folder.read_videos()
    assert held is not None
    assert len(mine) + len(held) == 24
    assert {Path(e.path).stem[:2] for e in mine}.isdisjoint(Path(e.path).stem[:2] for e in held)


def test_videos_that_cannot_be_read_are_counted_and_left_out(
    small: Small, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "mixed"
    shutil.copytree(pool, videos)
    whole = (videos / "03.mp4").read_bytes()
    (videos / "03.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "04.mp4").write_bytes(b"no video")
    data = {"videos": str(videos), "max_bad": 0.1}
    teacher = {"cache": str(tmp_path / "features")}
    folder = RunFolder(transfer(small(data=data, teacher=teacher)))
    assert {Path(path).name for path in folder.read_bad()} >= {"04.mp4"}
    train, val = folder.read_videos()
    assert val is not None
    place = "on the GPU" if torch.cuda.is_available() else "on the CPU"
    assert capsys.readouterr().out.startswith(
        f"Training densenet3d_tiny on {len(train)} videos ({len(train)} groups), with the teacher "
        f"{small().teacher.name} and the objective {small().pairs.objective}, validating on {len(val)}, "
        f"{place}; {len(folder.read_bad())} unreadable video"
    )
    with pytest.raises(ManifestError, match=r"04\.mp4"):
        transfer(small(data=data | {"max_bad": 0.0}, out=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def test_a_video_without_features_is_reported_and_left_out(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = FeatureStore.make

    def broken(self: FeatureStore, manifest: Manifest, *args: Any, **kwargs: Any) -> list[Failed]:
        failures = [
            (row, entry) for row, entry in enumerate(manifest) if entry.path.name in ("03.mp4", "11.mp4")
        ]
        kept = manifest.select([row for row in range(len(manifest)) if row not in dict(failures)])
        make(self, kept, *args, **kwargs)
        return [Failed(str(entry.path), "frame 12 cannot be decoded", row) for row, entry in failures]

    monkeypatch.setattr(FeatureStore, "make", broken)
    config = small(data={"max_bad": 0.5}, teacher={"cache": str(tmp_path / "features")}, optim={"epochs": 2})
    folder = RunFolder(transfer(config))
    assert {Path(path).name: reason for path, reason in folder.read_bad().items()} == {
        "03.mp4": "frame 12 cannot be decoded",
        "11.mp4": "frame 12 cannot be decoded",
    }
    mine, held = folder.read_videos()
    assert held is not None
    assert len(mine) + len(held) == 22


# --- what cannot begin -----------------------------------------------------------------------------------


def test_negatives_need_sources(
    small: Small, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(pool.glob("*.mp4"))
    one = table(tmp_path / "one.csv", [(path, "same") for path in paths])
    with pytest.raises(ManifestError, match=r"24 video\(s\) of 1 source.*data\.source_pattern"):
        transfer(small(data={"videos": str(one)}))
    few = table(tmp_path / "few.csv", [(path, str(i % 3)) for i, path in enumerate(paths)])
    config = small(
        data={"videos": str(few), "val_fraction": 0}, teacher={"cache": str(tmp_path / "features")}
    )
    monkeypatch.setattr(loop, "with_features", None)  # would be an error: the message comes before
    with pytest.raises(ManifestError, match=r"only 3 sources.*optim\.batch_size = 4.*3 or less"):
        transfer(config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="empty"):
        transfer(small(data={"videos": str(tmp_path / "empty")}))
    with pytest.raises(ManifestError, match="no such"):
        transfer(small(data={"videos": str(tmp_path / "nowhere")}))
    assert not Path(small().out).exists()


def test_clips_that_are_too_short_are_refused_where_that_is_asked_for(small: Small) -> None:
    config = small(clip={"num_frames": 30, "short": "error"})
    with pytest.raises(ManifestError, match=r"24 frames.*30 frames"):
        transfer(config)


def test_a_teacher_that_cannot_be_opened_leaves_no_run(small: Small, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.onnx"):
        transfer(small(teacher={"name": str(tmp_path / "nowhere.onnx")}))
    with pytest.raises(ConfigError, match="resnet18"):
        transfer(small(teacher={"name": "resnet81"}))
    assert not Path(small().out).exists()


def test_options_that_contradict_each_other(small: Small) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.augment.*teacher\.cache"):
        small(teacher={"augment": True, "cache": "features"})
    with pytest.raises(ConfigError, match="mixup"):
        small(optim={"mixup_alpha": 0.2})
    with pytest.raises(ConfigError, match=r"data\.videos is missing"):
        small(data={"videos": ""})
    with pytest.raises(ConfigError, match=r"teacher\.name is missing"):
        small(teacher={"name": ""})
    with pytest.raises(ConfigError, match=r"pairs\.temperature"):
        PairConfig(temperature=0)


def test_a_run_is_resumed_by_its_own_command(small: Small) -> None:
    folder = RunFolder(transfer(small()))
    with pytest.raises(ConfigError, match="is a run of t3d transfer; t3d train cannot resume"):
        folder.read_config(TrainConfig)
    with pytest.raises(ConfigError, match="already contains a run of t3d transfer"):
        transfer(small())


def test_a_run_stopped_while_it_computes_teacher_features_keeps_them(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = tmp_path / "features"
    config = small(teacher={"cache": str(features)})
    written: list[Path] = []
    write = FeatureStore._write

    def stopping(self: FeatureStore, values: torch.Tensor, path: Path) -> None:
        write(self, values, path)
        written.append(path)
        if len(written) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(FeatureStore, "_write", stopping)
    with pytest.raises(InterruptedRunError, match=f"the teacher features in {features} are kept and reused"):
        transfer(config)
    folder = RunFolder(config.out)
    assert folder.undecided
    transfer(folder.read_config(TransferConfig), resume=True)
    assert len(written) == len(set(written))  # none was computed twice
    assert folder.last.exists()


@pytest.mark.long
def test_transfer_and_training_decode_each_video_once_into_one_cache(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipes resize frames alike, so the second command finds what the first one decoded."""
    for first, name in ((0, "one"), (4, "two")):
        draw(tmp_path / "videos" / name, 4, first=first)
    decoded: list[str] = []
    write = FrameStore._write

    def counting(self: FrameStore, path: Path, video: Video) -> None:
        decoded.append(video.path.name)
        write(self, path, video)

    monkeypatch.setattr(FrameStore, "_write", counting)
    common = f"--videos {tmp_path}/videos --cache {tmp_path}/cache --epochs 1 --batch-size 4 --workers 0"
    from_images = f"--teacher {teacher_file} --teacher.cache {tmp_path}/features"
    student = tmp_path / "transfer"
    for words in (
        f"transfer --recipe transfer-laptop {common} {from_images} --out {student}",
        f"train --recipe modern {common} --init {student} --out {tmp_path}/tuned",
        f"train --recipe modern {common} --out {tmp_path}/scratch",
    ):
        assert main(words.split()) == 0
    assert sorted(decoded) == [f"{number:02d}.mp4" for number in range(8)]


def test_a_signal_while_held_out_pairs_are_built_stops_the_start(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()

    def stopped(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "HeldOut", stopped)
    with pytest.raises(
        InterruptedRunError, match="SIGTERM stopped the run; it had not taken a step"
    ) as caught:
        transfer(config)
    assert caught.value.command == "t3d transfer"
    assert not RunFolder(config.out).undecided
