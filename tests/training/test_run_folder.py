from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError, Failed, ManifestError
from t3d.io.journal import Journal
from t3d.training.config import TrainConfig
from t3d.training.errors import WrongCommandError
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import TransferConfig

Tiny = Callable[..., TrainConfig]


@pytest.fixture
def videos(colors: Path) -> Manifest:
    return Manifest.from_csv(colors / "train.csv")


def started(config: TrainConfig, videos: Manifest, bad: tuple[Failed, ...] = ()) -> RunFolder:
    folder = RunFolder(config.out)
    folder.start(config, videos, None, bad)
    return folder


def test_options_are_read_as_written(tiny: Tiny, videos: Manifest) -> None:
    config = tiny(
        seed=7,
        optim={"lr": 1e-5, "warmup_epochs": 0.5, "name": "adamw"},
        clip={"mean": (0.1, 0.2, 0.3), "tail": "shift"},
        data={"source_pattern": r"_(\d+)$", "cache": "ein Ordner: für Bilder"},
        overwrite=True,
    )
    back = started(config, videos).read_config(TrainConfig)
    assert back == config
    assert isinstance(back.clip.mean, tuple)


def test_videos_are_read_as_written(tiny: Tiny, videos: Manifest) -> None:
    mixed = videos.select([5, 12, 0, 15]).with_classes(["red", "green", "blue"])
    config = tiny()
    folder = RunFolder(config.out)
    folder.start(config, mixed, videos.select([3]), [])
    train, val = folder.read_videos()
    assert train.classes == ("red", "green", "blue")
    assert list(train) == list(mixed)
    assert val is not None
    assert [entry.path for entry in val] == [videos[3].path]
    assert val.classes == train.classes
    folder.val_csv.unlink()
    assert folder.read_videos()[1] is None


def test_bad_videos_are_reported_once(tiny: Tiny, videos: Manifest) -> None:
    folder = started(tiny(), videos, (Failed("a, b.mp4", "holds no\nframe", 3),))
    assert folder.read_bad() == {"a, b.mp4": "holds no\nframe"}
    folder.add_bad({"c.mp4": "broke", "a, b.mp4": "again"})
    assert folder.read_bad() == {"a, b.mp4": "again", "c.mp4": "broke"}
    written = folder.bad_csv.stat().st_mtime_ns
    folder.add_bad({"c.mp4": "broke"})
    assert folder.bad_csv.stat().st_mtime_ns == written
    other = replace(tiny(), out=f"{folder.path}2")
    assert not started(other, videos).bad_csv.exists()


def test_an_existing_run_is_only_replaced_on_request(tiny: Tiny, videos: Manifest) -> None:
    config = tiny()
    folder = started(config, videos)
    (folder.path / "old").write_text("")
    with pytest.raises(ConfigError, match=r"already contains a run of t3d train; .*overwrite=True"):
        folder.refuse_existing(overwrite=False)
    with pytest.raises(ConfigError, match="already contains a run"):
        started(config, videos)  # started by another process while this one read its videos
    assert (folder.path / "old").exists()
    started(replace(config, overwrite=True, seed=5), videos)
    assert not (folder.path / "old").exists()
    assert folder.read_config(TrainConfig).seed == 5


def test_a_run_under_way_is_neither_swept_nor_replaced(tiny: Tiny, videos: Manifest) -> None:
    folder = started(tiny(), videos)
    half = folder.path / f".{'0' * 32}.part.safetensors"
    half.write_text("being written")
    with Journal(folder.log):  # as a run in another process has it open
        holder = rf"log\.jsonl \(process {os.getpid()} on {re.escape(socket.gethostname())}, since 20"
        with pytest.raises(ConfigError, match=holder), folder.resuming():
            pass
        with pytest.raises(ConfigError, match=r"another run is writing to .*log\.jsonl"):
            started(tiny(overwrite=True), videos)
        assert half.exists()
    with folder.resuming():
        assert not half.exists()
        with pytest.raises(ConfigError, match="another run is writing"), folder.resuming():
            pass


def test_a_run_that_another_process_began_meanwhile_stays(
    tiny: Tiny, videos: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = started(tiny(seed=5), videos)
    monkeypatch.setattr(
        RunFolder, "refuse_existing", lambda *_, **__: None
    )  # the other one was not there yet
    with pytest.raises(ConfigError, match="already exists"):
        started(tiny(seed=6), videos)
    assert folder.read_config(TrainConfig).seed == 5


def test_a_folder_without_a_run_is_never_deleted(tmp_path: Path, tiny: Tiny, videos: Manifest) -> None:
    for number, content in enumerate((["thesis.tex"], ["config.yaml", "main.py"])):
        path = tmp_path / f"other{number}"
        path.mkdir()
        for name in content:
            (path / name).write_text("mine")
        for overwrite in (True, False):
            with pytest.raises(ConfigError, match=r"is not a complete run \(missing: .*train\.csv"):
                started(tiny(out=str(path), overwrite=overwrite), videos)
        assert sorted(file.name for file in path.iterdir()) == content
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ConfigError, match="file is a file, not a run folder; choose another"):
        RunFolder(file).refuse_existing(overwrite=True)


def test_an_empty_folder_can_be_used(tmp_path: Path, tiny: Tiny, videos: Manifest) -> None:
    (tmp_path / "run").mkdir()
    assert started(tiny(), videos).config.exists()


def test_the_current_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (".", "..", str(tmp_path)):
        with pytest.raises(ConfigError, match="the current folder or one above it"):
            RunFolder(out).refuse_existing(overwrite=True)
    RunFolder("within").refuse_existing(overwrite=False)


def test_a_failed_start_leaves_no_folder(
    tmp_path: Path, tiny: Tiny, videos: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(out=str(tmp_path / "deep" / "run"))

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(RunFolder, "add_bad", fail)
    with pytest.raises(OSError, match="no space left"):
        started(config, videos)
    assert list((tmp_path / "deep").iterdir()) == []


def test_no_run_to_resume(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder"):
        RunFolder(tmp_path / "nowhere").read_config(TrainConfig)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("optim: {lrr: 1}", "lrr"),
        ("optim: {lr: fast}", "fast"),
        ("optim: [", "expected"),
        ("", "not a table of options"),
        ("out: run", "data.train is missing"),
        ("- a\n- b", "table of options"),
    ],
)
def test_a_corrupt_config_is_an_error_with_its_path(
    tiny: Tiny, videos: Manifest, content: str, named: str
) -> None:
    folder = started(tiny(), videos)
    folder.config.write_text(content)
    with pytest.raises(ConfigError) as caught:
        folder.read_config(TrainConfig)
    assert str(folder.config) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("name", "line"), [("data.speed", "  speed: pyav\n"), ("speed", None), ("data.7", "  7: pyav\n")]
)
def test_an_option_of_another_version_is_refused_by_name(
    tiny: Tiny, videos: Manifest, name: str, line: str | None
) -> None:
    folder = started(tiny(), videos)
    text = folder.config.read_text()
    changed = text.replace("data:\n", f"data:\n{line}") if line else f"{text}speed: pyav\n"
    folder.config.write_text(changed)
    with pytest.raises(ConfigError) as caught:
        folder.read_config(TrainConfig)
    assert str(caught.value) == (
        f"{folder.config}: this version of t3d has no option {name}; remove it from the file if the run does "
        "not depend on it, or resume with the version that started the run"
    )
    folder.config.write_text(text)
    assert folder.read_config(TrainConfig) == tiny()


def test_options_of_an_earlier_version_are_refused_with_their_present_names(
    tiny: Tiny, videos: Manifest
) -> None:
    folder = started(tiny(), videos)
    text = folder.config.read_text()
    text = text.replace("ema_decay:", "ema:").replace("grad_accum_steps:", "accumulate:")
    folder.config.write_text(text.replace("  root:", "  decoder: pyav\n  videos:"))
    with pytest.raises(ConfigError) as caught:
        folder.read_config(TrainConfig)
    message = str(caught.value)
    assert message.startswith(f"{folder.config} uses option names of an earlier version: ")
    assert "optim.accumulate is now optim.grad_accum_steps" in message
    assert "optim.ema is now optim.ema_decay" in message
    assert "data.videos is now data.root" in message
    assert "optim.mixup" not in message


@pytest.mark.parametrize(("old", "now"), [("true", "layers"), ("false", "none")])
def test_grad_checkpointing_of_an_earlier_version_is_translated(
    tiny: Tiny, videos: Manifest, old: str, now: str
) -> None:
    folder = started(tiny(), videos)
    text = folder.config.read_text()
    folder.config.write_text(text.replace("grad_checkpointing: none", f"grad_checkpointing: {old}"))
    assert folder.config.read_text() != text
    model = folder.read_config(TrainConfig).model
    assert model == replace(tiny().model, grad_checkpointing=now)


def test_a_run_of_another_command_is_refused_by_its_name(tiny: Tiny, videos: Manifest) -> None:
    folder = started(tiny(), videos)
    with pytest.raises(WrongCommandError, match="is a run of t3d train; t3d transfer cannot") as caught:
        folder.read_config(TransferConfig)
    assert (caught.value.folder, caught.value.command) == (folder.path, "t3d train")


def test_a_corrupt_list_of_videos_is_an_error(tiny: Tiny, videos: Manifest) -> None:
    folder = started(tiny(), videos)
    folder.classes.write_text("red\ngreen\n")
    with pytest.raises(ManifestError, match="the class 'blue' is not a class of the model"):
        folder.read_videos()
    folder.train_csv.unlink()
    with pytest.raises(ManifestError, match=r"train\.csv"):
        folder.read_videos()
