"""Transfers with a few labels, on videos of two colors: the run, its files, what is left out, and errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch

from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import read_soft_labels
from t3d.errors import CheckpointError, ConfigError, Failed, ManifestError
from t3d.evaluation.config import TestConfig as Tested
from t3d.evaluation.run_test import run_test
from t3d.models.weights import load_model, write_tensors
from t3d.training.config import ModelConfig, OptimConfig
from t3d.training.errors import InterruptedRunError
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import Trainer
from t3d.transfer import held_out, run, task
from t3d.transfer.config import LabelConfig, PoolConfig, TeacherConfig, TransferConfig
from t3d.transfer.features import FeatureStore
from t3d.transfer.linear import LinearFit
from t3d.transfer.run import transfer
from t3d.transfer.teachers.base import TEACHER_KEY
from t3d.transfer.videos import Pool, open_pool
from t3d.video.encode import write_video

NET = ModelConfig(
    name="densenet3d_tiny",
    options={"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1},
)
Small = Callable[..., TransferConfig]


def draw(root: Path, count: int, *, seed: int) -> Path:
    """Videos of 12 frames, half of them reddish, half of them bluish, in one folder per color."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(count):
        name = ("blue", "red")[number % 2]
        (root / name).mkdir(parents=True, exist_ok=True)
        color = torch.randint(60, 120, (1, 3, 1, 1), generator=generator)
        color[:, 0 if name == "red" else 2] += 100
        noise = torch.randint(-20, 21, (12, 3, 32, 32), generator=generator)
        write_video(root / name / f"{number:02d}.mp4", (color + noise).clamp(0, 255).byte(), crf=20)
    return root


def table(path: Path, rows: list[tuple[Path, str]], column: str = "label") -> Path:
    path.write_text(f"path,{column}\n" + "".join(f"{file},{value}\n" for file, value in rows))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Unlabeled videos, and a few with labels."""
    root = tmp_path_factory.mktemp("colors")
    return draw(root / "pool", 20, seed=0), draw(root / "few", 8, seed=1)


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model("resnet10t", pretrained=False, num_classes=4)
    header = json.dumps({"name": "timm:resnet10t", "size": 32})
    write_tensors(net.state_dict(), path, metadata={TEACHER_KEY: header})
    return path


@pytest.fixture
def small(folders: tuple[Path, Path], teacher_file: Path, tmp_path: Path) -> Small:
    pool, few = folders
    base = TransferConfig(
        out=str(tmp_path / "run"),
        data=PoolConfig(videos=str(pool), val_fraction=0.2, workers=0),
        clip=ClipSpec(num_frames=4, stride=2, size=32, resize=32),
        model=NET,
        teacher=TeacherConfig(
            name=str(teacher_file), frames=2, cache=str(pool.parent / "features"), frame_step=2
        ),
        labels=LabelConfig(videos=str(few)),
        optim=OptimConfig(name="adamw", lr=1e-2, epochs=2, batch_size=4, schedule="constant", ema_decay=0.5),
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


def test_the_student_learns_the_classes_from_soft_labels(
    small: Small, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pool, few = folders
    run = RunFolder(transfer(small(optim={"epochs": 6})))
    figures = [line for line in read_log(run.log) if line["kind"] == "val"][-1]
    assert figures["agreement"] == 1.0
    assert "same class as the teacher 100.0%" in capsys.readouterr().out
    for weights in (run.last, run.path / "teacher.safetensors"):  # no label of the pool was read
        assert run_test(Tested(str(weights), str(pool))).metrics.video_top1 == 1.0
    for name, count in (("soft.csv", 16), ("val_soft.csv", 4)):
        soft = read_soft_labels(run.path / name)
        truth = [Path(entry.path).parent.name for entry in soft.videos]
        assert [soft.classes[best] for best in soft.probs.argmax(1)] == truth
        assert len(soft) == count
        assert not any(Path(entry.path).is_relative_to(few) for entry in soft.videos)
    _, card = load_model(run.last)
    assert card.classes == ("blue", "red")
    assert card.provenance["labels"] == str(few)


@pytest.mark.long
def test_a_stopped_run_ends_as_if_it_never_had_been(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = RunFolder(transfer(small(out=str(tmp_path / "straight"))))
    config = small()
    folder = RunFolder(config.out)
    take = Trainer.take_step

    def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
        take(self, batches, epoch=epoch, step=step)
        if epoch == 1 and step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", stopping)
        with pytest.raises(InterruptedRunError):
            transfer(config)
    with monkeypatch.context() as patch:  # what the run saved is read, not made again
        patch.setattr("t3d.transfer.task.label_softly", None)
        transfer(folder.read_config(TransferConfig), resume=True)
    assert folder.last.read_bytes() == straight.last.read_bytes()
    assert (folder.path / "soft.csv").read_bytes() == (straight.path / "soft.csv").read_bytes()


@pytest.mark.long
def test_two_processes_learn_from_the_same_soft_labels_and_resume(
    small: Small,
    tmp_path: Path,
    in_two_processes: Callable[[Callable[[int], object]], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = RunFolder(transfer(small(out=str(tmp_path / "one"), optim={"epochs": 1})))
    config = small()
    folder = RunFolder(config.out)
    take = Trainer.take_step
    saved = {}

    def stopped(rank: int) -> Any:
        def stopping(self: Trainer, batches: Any, *, epoch: int, step: int) -> None:
            take(self, batches, epoch=epoch, step=step)
            if rank == 1 and epoch == 1 and step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Trainer, "take_step", stopping)
        return transfer(config)

    def resumed(_: int) -> Any:
        monkeypatch.setattr("t3d.transfer.task.label_softly", None)  # is not called again
        return transfer(folder.read_config(TransferConfig), resume=True)

    errors = in_two_processes(stopped)
    assert [(type(error), error.signal) for error in errors] == [(InterruptedRunError, signal.SIGTERM)] * 2
    for name in ("soft.csv", "val_soft.csv", "teacher.safetensors"):
        saved[name] = (folder.path / name).read_bytes()
        assert saved[name] == (one.path / name).read_bytes(), name  # the number of processes does not matter
    assert in_two_processes(resumed) == [folder.path, folder.path]
    assert {name: (folder.path / name).read_bytes() for name in saved} == saved
    steps = [line["step"] for line in read_log(folder.log) if line["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert load_model(folder.last)[1].classes == ("blue", "red")


def test_soft_labels_of_other_videos_do_not_resume_a_run(small: Small) -> None:
    config = small(optim={"epochs": 1})
    run = RunFolder(transfer(config))
    val = run.path / "val_soft.csv"
    kept = val.read_text()
    lines = kept.splitlines(keepends=True)
    val.write_text("".join([lines[0], *reversed(lines[1:])]))
    longer = replace(config, optim=replace(config.optim, epochs=2))
    with pytest.raises(CheckpointError, match=r"val_soft\.csv does not list the videos of .*val\.csv"):
        transfer(longer, resume=True)
    val.write_text(kept)
    soft = run.soft_csv.read_text()
    lines = soft.splitlines(keepends=True)
    renamed = lines[0].replace("red", "pink")
    for changed, message in (
        ([lines[0], *reversed(lines[1:])], r"soft\.csv lists 16 videos; it must list the 16 .* same order"),
        ([renamed, *lines[1:]], "has the classes blue, pink, but .* blue, red; restore"),
    ):
        run.soft_csv.write_text("".join(changed))
        with pytest.raises(CheckpointError, match=message):
            transfer(longer, resume=True)
    run.soft_csv.write_text(soft)
    (run.path / "teacher.safetensors").unlink()  # is made again, and nothing else changes
    transfer(longer, resume=True)
    assert (run.path / "teacher.safetensors").exists()
    assert run.soft_csv.read_text() == soft


@pytest.mark.long
def test_a_run_stopped_at_another_step_ends_as_if_it_never_had_been(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = RunFolder(transfer(small(out=str(tmp_path / "straight"))))
    steps: list[tuple[Any, str]] = [
        (task, "label_softly"),
        (run, "save_task"),
        (held_out.HeldOut, "measure"),
    ]
    for owner, name in steps:
        config = small(out=str(tmp_path / name))
        taken = getattr(owner, name)

        def stopped(*args: Any, taken: Any = taken, **options: Any) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return taken(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stopped)
            with pytest.raises(InterruptedRunError):
                transfer(config)
        transfer(RunFolder(config.out).read_config(TransferConfig), resume=True)
        for file in ("last.safetensors", "teacher.safetensors", "soft.csv", "val_soft.csv"):
            assert (tmp_path / name / file).read_bytes() == (straight.path / file).read_bytes(), (name, file)


def test_a_run_without_unlabeled_videos_is_resumed(
    small: Small, folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _, few = folders
    config = small(data={"videos": str(few), "val_fraction": 0.0}, optim={"epochs": 1})
    folder = RunFolder(transfer(config))
    assert not (folder.path / "soft.csv").exists()
    transfer(replace(config, optim=replace(config.optim, epochs=2)), resume=True)
    assert "epoch   2/2" in capsys.readouterr().out


def test_labeled_videos_may_be_part_of_the_pool_and_are_never_held_out(
    small: Small, folders: tuple[Path, Path]
) -> None:
    pool, _ = folders
    config = small(labels={"videos": str(pool), "fraction": 0.3}, optim={"epochs": 1})
    run = RunFolder(transfer(config))
    train, val = run.read_videos()
    assert val is not None
    assert (len(train) + len(val), int(train.labeled.sum()), int(val.labeled.sum())) == (20, 6, 0)
    drawn = Manifest.from_folder(pool).label_subset(0.3, seed=0)
    assert [entry.path for entry in train][:6] == [entry.path for entry in drawn]
    with pytest.raises(ManifestError, match="fewer than 2 sources have no labeled video"):
        transfer(replace(config, out=config.out + "2", labels=replace(config.labels, fraction=1.0)))


def test_excluded_videos_and_their_copies_are_left_out(
    small: Small, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, few = folders
    kept_away = tmp_path / "tests"
    kept_away.mkdir()
    shutil.copy(pool / "red" / "03.mp4", kept_away / "copy.mp4")
    shutil.copy(few / "blue" / "02.mp4", kept_away / "another.mp4")
    run = RunFolder(transfer(small(data={"exclude": str(kept_away)}, optim={"epochs": 1})))
    names = {"/".join(Path(entry.path).parts[-3:]) for part in run.read_videos() for entry in part or ()}
    assert len(names) == 26
    assert not names & {"pool/red/03.mp4", "few/blue/02.mp4"}
    assert "2 of 28 training videos are also in the excluded list" in capsys.readouterr().out
    config = small(data={"exclude": str(few)}, out=str(tmp_path / "none"))
    with pytest.raises(ManifestError, match="no labeled video of blue, red is left: 8 of 28 videos"):
        transfer(config)
    assert not Path(config.out).exists()


@pytest.mark.long
def test_pairs_weight_0_teaches_only_classes(small: Small, tmp_path: Path) -> None:
    losses = []
    for weight in (0.0, 1.0):
        config = small(
            labels={"pairs_weight": weight}, out=str(tmp_path / str(weight)), optim={"epochs": 1, "lr": 1e-9}
        )
        lines = read_log(RunFolder(transfer(config)).log)
        losses.append(next(line["loss"] for line in lines if line["kind"] == "val"))
    assert 0.5 < losses[0] < 1.0  # ln 2 is guessing
    assert losses[1] - losses[0] == pytest.approx(1.0, abs=0.35)  # 1 - the cosine of unrelated vectors


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"fraction": 0.0}}, r"labels\.fraction is 0\.0"),
        ({"labels": {"temperature": 0.0}}, r"labels\.temperature is 0\.0; it must be above 0"),
        ({"labels": {"videos": "", "rounds": 2}}, r"labels\.rounds has no effect without labeled videos"),
        ({"teacher": {"cache": None}}, r"labels\.videos needs teacher\.cache"),
    ],
)
def test_options_that_contradict_each_other(small: Small, changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small(**changes)


def test_labels_that_cannot_be_used_are_refused_before_a_folder_is_left(
    small: Small, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    _, few = folders
    one = tmp_path / "one"
    shutil.copytree(few / "red", one / "red")
    for videos, message in ((one, "at least 2 classes"), (tmp_path / "gone.csv", "no such file")):
        config = small(labels={"videos": str(videos)})
        with pytest.raises(ManifestError, match=message):
            transfer(config)
        assert not Path(config.out).exists()


def test_labeled_videos_that_cannot_be_read(
    small: Small, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, few = folders
    rows = [(path, path.parent.name) for path in sorted(few.rglob("*.mp4"))]
    config = small(labels={"videos": str(table(tmp_path / "few.csv", rows))}, data={"max_bad": 0.5})
    monkeypatch.setattr("t3d.transfer.run.with_features", None)  # would be an error: nothing is computed
    gone = [(tmp_path / path.name if name == "red" else path, name) for path, name in rows]
    table(tmp_path / "few.csv", gone)
    with pytest.raises(ManifestError, match=r"class red has no readable video:\n.*01\.mp4: no such file"):
        transfer(config)
    table(tmp_path / "few.csv", [(tmp_path / path.name, name) for path, name in rows])
    with pytest.raises(ManifestError, match=r"few\.csv: 8 of 8 files are missing"):
        transfer(config)
    several = tmp_path / "several.csv"
    several.write_text("path,labels\n" + "".join(f"{path},{name}|warm\n" for path, name in rows))
    with pytest.raises(ManifestError, match="needs one label per video, and these have several"):
        transfer(small(labels={"videos": str(several)}))
    soft = tmp_path / "soft.csv"
    soft.write_text("path,blue,red\n" + "".join(f"{path},0.5,0.5\n" for path, _ in rows))
    with pytest.raises(ManifestError, match="no video has a label"):
        transfer(small(labels={"videos": str(soft)}))
    assert not Path(config.out).exists()


def test_a_class_that_damage_leaves_without_features_stops_the_start(
    small: Small, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, few = folders

    def broken(_: FeatureStore, manifest: Manifest, *__: Any, **___: Any) -> list[Failed]:
        lost = [row for row, entry in enumerate(manifest) if entry.path.parent == few / "red"]
        return [Failed(str(manifest[row].path), "frame 7 cannot be decoded", row) for row in lost]

    monkeypatch.setattr(FeatureStore, "make", broken)
    config = small(data={"max_bad": 0.5})
    with pytest.raises(ManifestError, match=r"class red has no readable video:\n.*frame 7 cannot be decoded"):
        transfer(config)
    assert not Path(config.out).exists()


class _ReachedTeacherError(Exception):
    pass


def test_pools_that_leave_the_teacher_little_to_label(
    small: Small, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, few = folders
    one = table(tmp_path / "one.csv", [(path, "tape") for path in sorted(pool.rglob("*.mp4"))], "source")

    def stop(*_: Any) -> None:
        raise _ReachedTeacherError

    monkeypatch.setattr("t3d.transfer.run._open_teacher", stop)  # all of this comes before
    nothing_held_out = r"fewer than 2 sources have no labeled video.*data\.val_fraction to 0"
    for data in ({"videos": str(one)}, {"videos": str(few)}, {"exclude": str(pool)}):
        with pytest.raises(ManifestError, match=nothing_held_out):
            transfer(small(data=data))
    notes = ((one, r"20 videos .* are of one group"), (few, "all 8 videos have a label"))
    for videos, note in notes:
        with pytest.warns(UserWarning, match=note), pytest.raises(_ReachedTeacherError):
            transfer(small(data={"videos": str(videos), "val_fraction": 0.0}))
    config = small(data={"videos": str(one), "val_fraction": 0.0}, labels={"by_source": False})
    with warnings.catch_warnings(action="error"), pytest.raises(_ReachedTeacherError):
        transfer(config)


def test_only_the_main_process_finds_the_videos(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Manifest.from_files(["a.mp4", "b.mp4"]))
    monkeypatch.setattr("t3d.transfer.videos.find_pool", None)  # would be an error
    monkeypatch.setattr("t3d.transfer.videos.broadcast_object_list", lambda pools: [pools[0] or pool])
    other = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=False), config=small())
    assert open_pool(cast("Any", other)) is pool


def test_a_class_with_one_group_is_not_cross_validated(
    small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    transfer(small(labels={"fraction": 0.1}, optim={"epochs": 1}))
    printed = capsys.readouterr().out
    assert "2 videos with labels" in printed
    assert (
        "accuracy of the teacher's classifier is not known: a class has labeled videos of only one" in printed
    )


def test_the_accuracy_of_the_teacher_names_what_it_was_fitted_on() -> None:
    fitted = task.Task(torch.zeros(1, 2), None, LinearFit(None, 1.0, 0.5))
    wanted = ". Fitted on the labels alone, the teacher's classifier gets 50.0% of the labeled clips right"
    assert task.task_sentence(fitted).startswith(wanted)


def test_the_command_line(
    small: Small, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool, few = folders
    options = f"--videos {pool} --labels {few} --teacher {small().teacher.name} --label-fraction 0.5"
    tiny = "--teacher.frames 2 --clip.num-frames 4 --clip.size 32 --clip.resize 32 --epochs 1 --batch-size 4"
    words = (
        f"transfer --recipe transfer-few-labels {options} {tiny} --teacher.cache {tmp_path}/cache --workers 0"
    )
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 0
    assert "4 videos with labels" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), str(few / "red" / "01.mp4"), "--workers", "0"]) == 0
    assert np.isin(["blue", "red"], capsys.readouterr().out.replace("%", " ").split()).any()
