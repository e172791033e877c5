"""Runs that the machine stops: a full disk, a killed reader, deleted videos. They say so and resume."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from t3d.cli import main as cli
from t3d.data.clips.dataset import ClipItem, TrainClips, VideoClips
from t3d.data.clips.sampler import SampleKey
from t3d.data.manifest.table import Entry
from t3d.errors import LostReaderError, ManifestError, WriteError
from t3d.training.config import TrainConfig
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]


@pytest.mark.situation(
    "Machines and disks",
    "The disk fills up during training",
    "The command that resumes is printed; the same weights in the end",
)
def test_a_full_disk_stops_a_run_that_resumes_to_the_same_weights(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"), optim={"epochs": 2})))
    config = tiny(optim={"epochs": 2})
    folder = RunFolder(config.out)
    save, limits = Trainer.save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_once(self: Trainer, *, finished: int | None = None) -> None:
        if self.progress.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        save(self, finished=finished)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", save_once)
        with pytest.raises(WriteError) as caught:
            train(config)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.folder == folder.path
    assert caught.value.command == "t3d train"
    complete = f"The last checkpoint is complete: {folder.checkpoint}. Raise the limit"
    assert complete in str(caught.value)
    train(config, resume=True)
    assert folder.last.read_bytes() == straight.last.read_bytes()
    assert folder.best.read_bytes() == straight.best.read_bytes()


def test_a_full_disk_before_the_first_checkpoint(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny()

    def full(*_: object, **__: object) -> None:
        raise WriteError.of("log.jsonl", OSError(28, "No space left on device"))

    with monkeypatch.context() as patch:
        patch.setattr("t3d.training.trainer.save_checkpoint", full)
        with pytest.raises(WriteError, match=r"no checkpoint yet, so it starts over\. Free some space"):
            train(config)
    train(config, resume=True)
    assert RunFolder(config.out).last.exists()


def test_the_command_says_how_to_resume(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny()

    def full(*_: object, **__: object) -> None:
        raise WriteError.of(RunFolder(config.out).checkpoint, OSError(28, "No space left on device"))

    train(config)
    monkeypatch.setattr("t3d.training.trainer.save_checkpoint", full)
    assert cli.main(["train", "--resume", config.out, "--epochs", "2"]) == 2
    assert f"  Resume it with: t3d train --resume {config.out}\n" in capsys.readouterr().err


@pytest.mark.situation(
    "Machines and disks",
    "The system kills a reader process (out of memory)",
    "Named, with the likely cause and the command that resumes",
)
def test_a_killed_reader_stops_a_run_that_resumes_to_the_same_weights(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tiny(optim={"epochs": 2}, data={"workers": 1})
    straight = RunFolder(train(replace(config, out=str(tmp_path / "straight"))))
    folder, parent, clip = RunFolder(config.out), os.getpid(), TrainClips.draw

    def die(self: TrainClips, key: SampleKey, entry: Entry) -> ClipItem:
        if key.epoch == 1 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return clip(self, key, entry)

    with monkeypatch.context() as patch:
        patch.setattr(TrainClips, "draw", die)
        with pytest.raises(LostReaderError) as caught:
            train(config)
    message = str(caught.value)
    assert message.startswith("Reading process 1 of 1 (pid ")
    assert "was killed by SIGKILL, probably because the machine ran out of memory. The last" in message
    assert f"lower the number of workers in {folder.config}, and resume the run" in message
    assert (caught.value.signal, caught.value.folder) == (signal.SIGKILL, folder.path)
    train(config, resume=True)
    assert folder.last.read_bytes() == straight.last.read_bytes()


def test_a_killed_reader_of_a_validation_and_of_a_test(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(data={"workers": 1})
    train(config)

    def die(_: VideoClips, row: int) -> None:  # noqa: ARG001 (the row of a video)
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(VideoClips, "of", die)
    status = cli.main(["test", config.out, config.data.val or "", "--workers", "1"])
    assert status == 128 + signal.SIGKILL
    message = capsys.readouterr().err
    assert "was killed by SIGKILL, probably because the machine ran out of memory. Free memory" in message
    assert "or lower --workers, and run the same command again" in message
    assert cli.main(["train", "--resume", config.out, "--epochs", "2"]) == 128 + signal.SIGKILL
    assert f"  Resume it with: t3d train --resume {config.out}\n" in capsys.readouterr().err


@pytest.mark.situation(
    "Machines and disks",
    "Files are deleted during training",
    "Listed in `bad.csv`",
)
def test_videos_deleted_during_a_run_are_listed(
    tiny: Tiny, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In `bad.csv`, too, although the run stops before its next checkpoint."""
    videos = tmp_path / "videos"
    shutil.copytree(colors, videos)
    config = tiny(data={"train": str(videos / "train.csv"), "val": str(videos / "val.csv")})
    start = TrainClips.__init__

    def delete(self: TrainClips, *args: object, **options: object) -> None:
        for path in videos.glob("train_red_*.mp4"):
            path.unlink()
        start(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainClips, "__init__", delete)
    with pytest.raises(ManifestError, match="could not be decoded"):
        train(config)
    bad = RunFolder(config.out).read_bad()
    assert bad
    assert {Path(path).name.rpartition("_")[0] for path in bad} == {"train_red"}


def test_validation_videos_deleted_during_a_run_are_listed(
    tiny: Tiny, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(colors, videos)
    config = tiny(data={"train": str(videos / "train.csv"), "val": str(videos / "val.csv")})
    lost = videos / "val_red_0.mp4"
    save = Trainer.save

    def delete(self: Trainer, *, finished: int | None = None) -> None:
        lost.unlink(missing_ok=True)
        save(self, finished=finished)

    monkeypatch.setattr(Trainer, "save", delete)
    train(config)
    assert list(RunFolder(config.out).read_bad()) == [str(lost)]
