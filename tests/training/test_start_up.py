"""Runs that are stopped in their start-up, before their lists of videos are decided."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Timer

import pytest
import torch

from t3d.cli.main import main
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, ManifestError
from t3d.io.locks import alone_in, lock
from t3d.models.weights import read_tensors
from t3d.training.config import TrainConfig
from t3d.training.errors import InterruptedRunError, RunExistsError
from t3d.training.logging import read_log
from t3d.training.run import train
from t3d.training.run_folder import RunFolder
from t3d.training.start import Run, RunVideos
from t3d.training.trainer import Trainer

Tiny = Callable[..., TrainConfig]
Patch = pytest.MonkeyPatch


@pytest.fixture
def tiny(tiny: Tiny) -> Tiny:
    """The runs of this file decode their videos."""
    return lambda **changes: tiny(**changes | {"data": {"cache": None} | changes.get("data", {})})


def stop_at(patch: Patch, video: int, number: int = signal.SIGINT) -> list[Path]:
    """Send this process a signal when it caches its n-th video; return the list of those it was asked for."""
    prepare = FrameStore.prepare
    asked: list[Path] = []

    def stopping(self: FrameStore, path: Path) -> bool:
        asked.append(path)
        if len(asked) == video:
            os.kill(os.getpid(), number)
        return prepare(self, path)

    patch.setattr(FrameStore, "prepare", stopping)
    return asked


def written(patch: Patch) -> list[Path]:
    """Return the list of entries that are decoded into the cache from now on."""
    entries: list[Path] = []
    write = FrameStore._write

    def writing(self: FrameStore, path: Path, video: object) -> None:
        entries.append(path)
        write(self, path, video)  # type: ignore[arg-type]

    patch.setattr(FrameStore, "_write", writing)
    return entries


def same_weights(one: RunFolder, two: RunFolder) -> bool:
    first, second = read_tensors(one.last)[0], read_tensors(two.last)[0]
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_its_start_up_is_resumed(
    tiny: Tiny, tmp_path: Path, monkeypatch: Patch, number: signal.Signals
) -> None:
    straight = RunFolder(train(tiny(out=str(tmp_path / "straight"))))
    cache = tmp_path / "cache"
    config = tiny(data={"cache": str(cache)})
    folder = RunFolder(config.out)
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, number)
        with pytest.raises(InterruptedRunError) as caught:
            train(config)
    assert str(caught.value) == (
        f"{config.out}: {number.name} stopped the run; the decoded frames in {cache} are kept and reused"
    )
    assert (caught.value.signal, caught.value.command) == (number, "t3d train")
    assert signal.getsignal(number) == before
    assert [file.name for file in folder.path.iterdir()] == ["config.yaml"]
    kept = len(list(cache.glob("[!.]*")))
    assert kept == 4

    entries = written(monkeypatch)
    assert train(folder.read_config(TrainConfig), resume=True) == folder.path
    assert len(entries) == 22 - kept
    assert same_weights(folder, straight)


def test_the_command_says_what_is_kept_and_how_to_resume(
    colors: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    options = ["--model", "t3d_tiny", "--epochs", "1", "--batch-size", "4", "--workers", "0"]
    options += ["--clip.num_frames", "8", "--clip.size", "32", "--clip.resize", "32"]
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        cached = ["--cache", str(cache)]
        status = main(["train", "--videos", str(colors / "train.csv"), "--out", str(run), *options, *cached])
    assert status == 130
    assert capsys.readouterr().err == (
        f"t3d: {run}: SIGINT stopped the run; the decoded frames in {cache} are kept and reused\n"
        f"  Resume it with: t3d train --resume {run}\n"
    )
    assert main(["train", "--resume", str(run)]) == 0
    assert RunFolder(run).last.exists()


def test_a_run_killed_in_its_start_up_is_resumed(tiny: Tiny) -> None:
    config = tiny()
    folder = RunFolder(config.out)
    child = os.fork()
    if not child:
        try:
            with folder.starting(config):
                (folder.path / f".{'0' * 32}.part.csv").write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)  # only after an error: the child must not continue the test
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert folder.undecided
    assert len(list(folder.path.glob(".*"))) == 2  # the lock of a process that is gone, and half a file
    train(folder.read_config(TrainConfig), resume=True)
    assert folder.last.exists()
    assert list(folder.path.glob(".*")) == []


def test_a_start_that_ended_while_it_wrote_its_lists_is_made_again(tiny: Tiny, monkeypatch: Patch) -> None:
    config = tiny()
    folder = RunFolder(config.out)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt  # as if the process was killed here

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "add_bad", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert {file.name for file in folder.path.iterdir()} == {"config.yaml", "val.csv", "classes.txt"}
    train(replace(config, data=replace(config.data, val=None, val_fraction=0.0)), resume=True)
    assert not folder.val_csv.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_run_stopped_while_it_writes_its_folder_is_resumed(
    tiny: Tiny, monkeypatch: Patch, overwrite: bool
) -> None:
    config = tiny(seed=5, overwrite=overwrite)
    folder = RunFolder(config.out)
    if overwrite:
        train(tiny())
    write = RunFolder._write_videos

    def stopped(self: RunFolder, *videos: object) -> None:
        write(self, *videos)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write_videos", stopped)
        with pytest.raises(InterruptedRunError) as caught:
            train(config)
    state = "it had not taken a step yet"
    if overwrite:
        state += ". The previous run in this folder is deleted"
    assert str(caught.value) == f"{folder.path}: SIGINT stopped the run; {state}"
    assert caught.value.command == "t3d train"
    assert not folder.undecided
    assert not folder.checkpoint.exists()
    config = folder.read_config(TrainConfig)
    assert config.seed == 5
    train(config, resume=True)
    assert folder.last.exists()


def test_a_new_run_may_take_the_place_of_one_that_never_left_its_start_up(tiny: Tiny) -> None:
    folder = RunFolder(tiny().out)
    with pytest.raises(KeyboardInterrupt), folder.starting(tiny()):
        raise KeyboardInterrupt
    assert folder.undecided
    train(tiny(seed=9))
    assert folder.read_config(TrainConfig).seed == 9
    assert not folder.undecided
    with pytest.raises(RunExistsError):
        train(tiny())


def test_a_run_to_be_replaced_stays_until_its_successor_has_started(tiny: Tiny, monkeypatch: Patch) -> None:
    folder = RunFolder(train(tiny()))
    before = {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    again = tiny(overwrite=True, data={"cache": f"{folder.path}-cache"})
    stop_at(monkeypatch, 3)
    with pytest.raises(InterruptedRunError, match="is unchanged; run the same command to start") as caught:
        train(again)
    assert caught.value.command == ""
    assert before == {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}
    with pytest.raises(ManifestError):
        train(replace(again, data=replace(again.data, train="missing.csv")))
    assert before == {file.name: file.read_bytes() for file in folder.path.iterdir() if file.is_file()}


def test_a_failed_start_leaves_no_folder_but_keeps_one_that_was_interrupted(tiny: Tiny) -> None:
    config = tiny()
    wrong = replace(config, optim=replace(config.optim, batch_size=1000))
    with pytest.raises(ConfigError, match="batch_size"):
        train(wrong)
    assert not Path(config.out).exists()
    with pytest.raises(KeyboardInterrupt), RunFolder(config.out).starting(config):
        raise KeyboardInterrupt
    with pytest.raises(ConfigError, match="batch_size"):
        train(wrong, resume=True)
    assert RunFolder(config.out).undecided


def test_two_runs_do_not_start_in_one_folder(tiny: Tiny) -> None:
    folder = RunFolder(tiny().out)
    with folder.starting(tiny()):
        with pytest.raises(ConfigError, match="another run is writing"):
            train(tiny())
        with pytest.raises(ConfigError, match="another run is writing"), alone_in(folder.log):
            pass
        assert folder.undecided


def test_two_commands_do_not_resume_one_run(tiny: Tiny, monkeypatch: Patch) -> None:
    """The second is refused from the start, not when it would write its first step."""
    folder = RunFolder(train(tiny()))
    config = tiny(optim={"epochs": 2})
    reopen = Run.reopen_videos
    refused = []

    def resume_again(self: Run[TrainConfig]) -> RunVideos:
        with monkeypatch.context() as patch:
            patch.setattr(Run, "reopen_videos", reopen)
            with pytest.raises(ConfigError, match="another run is writing") as caught:
                train(config, resume=True)
        refused.append(str(caught.value))
        return reopen(self)

    monkeypatch.setattr(Run, "reopen_videos", resume_again)
    train(config, resume=True)
    assert [f"(process {os.getpid()} on " in message for message in refused] == [True]
    assert [line["step"] for line in read_log(folder.log) if line["kind"] == "train"] == [*range(1, 9)]


def test_a_run_that_is_still_running_is_not_replaced(tiny: Tiny, tmp_path: Path, monkeypatch: Patch) -> None:
    folder = RunFolder(train(tiny()))
    videos = stop_at(monkeypatch, 0)
    again = tiny(overwrite=True, data={"cache": str(tmp_path / "cache")})
    with alone_in(folder.log), pytest.raises(ConfigError, match="another run is writing"):
        train(again)
    assert videos == []  # refused before the slow part
    train(again)
    assert videos


@pytest.mark.parametrize("error", [RuntimeError, ManifestError, OSError])
def test_every_error_of_a_start_deletes_the_folder_that_it_created(
    tiny: Tiny, error: type[Exception]
) -> None:
    folder = RunFolder(tiny().out)
    with pytest.raises(error), folder.starting(tiny()):
        raise error("no start")
    assert not folder.path.exists()


@pytest.mark.parametrize("starts", [False, True])
def test_one_of_two_new_runs_starts(tiny: Tiny, colors: Path, monkeypatch: Patch, starts: bool) -> None:
    """Another run finds the folder just after it was created, and locks it for a moment."""
    folder = RunFolder(tiny().out)
    create = RunFolder._new_folder

    @contextmanager
    def met(self: RunFolder) -> Iterator[RunFolder]:
        with create(self) as part:
            yield part
        held = lock(self.log)
        assert held is not None
        if starts:
            RunFolder(self.path).start(tiny(), Manifest.from_csv(colors / "train.csv"), None, [])
        Timer(0.2, held.release).start()

    monkeypatch.setattr(RunFolder, "_new_folder", met)
    if starts:
        with pytest.raises(RunExistsError), folder.starting(tiny()):
            pass
        assert folder.train_csv.exists()
    else:
        with folder.starting(tiny()), pytest.raises(ConfigError, match="another run"), alone_in(folder.log):
            pass


def test_a_folder_with_other_files_is_not_an_interrupted_run(tiny: Tiny) -> None:
    folder = RunFolder(tiny().out)
    with pytest.raises(KeyboardInterrupt), folder.starting(tiny()):
        raise KeyboardInterrupt
    (folder.path / "thesis.tex").write_text("mine")
    assert not folder.undecided
    with pytest.raises(ConfigError, match=r"is not a complete run \(missing: classes\.txt, train\.csv\)"):
        train(tiny(overwrite=True))
    assert (folder.path / "thesis.tex").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("resumed", [False, True])
def test_a_signal_between_start_up_and_training_stops_the_run_before_a_step(
    tiny: Tiny, tmp_path: Path, monkeypatch: Patch, number: signal.Signals, resumed: bool
) -> None:
    config = tiny(optim={"epochs": 2})
    folder = RunFolder(config.out)
    if resumed:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "say", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(InterruptedRunError):
                train(config)
    running = Trainer.running

    def stopped(self: Trainer, *opening: str) -> AbstractContextManager[None]:
        os.kill(os.getpid(), number)
        return running(self, *opening)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "running", stopped)
        patch.setattr(Trainer, "take_step", lambda *_, **__: pytest.fail("it took a step"))
        with pytest.raises(InterruptedRunError) as caught:
            train(config, resume=resumed)
    state = "its last checkpoint is unchanged" if resumed else "it had not taken a step yet"
    assert str(caught.value) == f"{folder.path}: {number.name} stopped the run; {state}"
    assert caught.value.command == "t3d train"
    assert signal.getsignal(number) == before
    train(config, resume=True)
    assert same_weights(folder, RunFolder(train(tiny(out=str(tmp_path / "straight"), optim={"epochs": 2}))))


def test_a_signal_while_data_sets_are_built_stops_the_start(tiny: Tiny, monkeypatch: Patch) -> None:
    config = tiny()

    def stopped(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("t3d.training.run.TrainClips", stopped)
    with pytest.raises(InterruptedRunError, match="SIGTERM stopped the run; it had not taken a step yet"):
        train(config)
    assert not RunFolder(config.out).undecided


def test_a_run_whose_videos_have_moved_is_not_resumed(
    tiny: Tiny, colors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "data/videos", tmp_path / "data/moved"
    shutil.copytree(colors, before)
    out = str(tmp_path / "runs/all/run")
    train(tiny(out=out, data={"train": str(before / "train.csv"), "val": str(before / "val.csv")}))
    before.rename(after)
    assert main(["train", "--resume", out, "--epochs", "2"]) == 2
    error = capsys.readouterr().err
    assert f"t3d: {out} cannot be resumed: {out}/train.csv: 16 of 16 files are missing" in error
    assert f"16 of them are below {after}, where the list has {before}" in error
    assert f"Move them back, or correct the paths in {out}/train.csv" in error
    after.rename(before)
    (before / "val_red_0.mp4").unlink()
    assert main(["train", "--resume", out, "--epochs", "2"]) == 2
    assert f"{out}/val.csv: 1 of 6 files is missing" in capsys.readouterr().err
