from __future__ import annotations

import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from t3d.errors import ConfigError, WriteError
from t3d.io.files import (
    ABANDONED,
    RESUMABLE,
    FileDigests,
    atomic_folder,
    atomic_path,
    is_temporary,
    resumable_name,
    sweep,
    writable_folder,
)


def test_a_writable_folder_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    assert writable_folder(str(folder), name="out") == folder
    assert folder.is_dir()
    assert writable_folder(folder, name="out") == folder


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"out: the folder {wrong} cannot be created"):
            writable_folder(wrong, name="out")
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)  # root may write anywhere
    with pytest.raises(ConfigError, match=f"out: the folder {tmp_path} cannot be read and written"):
        writable_folder(tmp_path, name="out")


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole", encoding="utf-8")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text(encoding="utf-8") == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_writer_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=r"a\.txt: cannot be written: No such file"),
        atomic_path(tmp_path / "a.txt"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.b.safetensors", "no ending", "ü ñ 猫.csv", "x" * 250 + ".txt"])
def test_the_temporary_name_is_hidden_and_keeps_the_ending(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with atomic_path(target) as temporary:
        assert temporary.suffix == target.suffix or not target.suffix
        assert temporary.name.startswith(".")
        assert is_temporary(temporary.name)
        temporary.touch()
    assert target.exists()
    assert not is_temporary(target.name)


def test_only_leftovers_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    old, new = tmp_path / f".{'0a' * 16}.part.csv", tmp_path / f".{'1b' * 16}.part"
    kept = [tmp_path / name for name in ("a.csv", "a.part.csv", ".hidden", ".other.part", ".a.resume.part")]
    for file in (old, new, *kept):
        file.write_text("x")
    os.utime(old, (time.time() - 2 * ABANDONED,) * 2)
    sweep(tmp_path, older_than=ABANDONED)
    assert sorted(tmp_path.iterdir()) == sorted([new, *kept])
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    sweep(tmp_path / "nowhere")


def test_simultaneous_writers_do_not_conflict(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"

    def write(number: int) -> None:
        # "x" fails if another writer has this name.
        with atomic_path(target) as temporary, temporary.open("x") as file:
            file.write(f"{number} " * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(64)))
    (number,) = set(re.findall(r"\d+", target.read_text()))
    assert 0 <= int(number) < 64
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_gets_the_rights_that_new_files_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_weights_have_the_permissions_of_new_files(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    with atomic_path(tmp_path / "a.safetensors") as temporary:
        save_file({"a": np.zeros(3)}, temporary)
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_digests_follow_content_and_prefix(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"same")
    two.write_bytes(b"same")
    digests = FileDigests(b"a")
    first = digests(one)
    assert digests(two) == first
    assert FileDigests(b"b")(one) != first
    assert re.fullmatch("[0-9a-f]{32}", first)
    one.write_bytes(b"changed")
    assert digests(one) != first
    with pytest.raises(FileNotFoundError):
        digests(tmp_path / "nowhere")


def test_a_folder_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "new" / "videos"
    with atomic_folder(target) as temporary:
        assert is_temporary(temporary.name)
        (temporary / "a").mkdir()
        (temporary / "a" / "b.txt").write_text("whole")
        assert not target.exists()
    assert (target / "a" / "b.txt").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(ConfigError, match="videos already exists"), atomic_folder(target):
        pass
    with atomic_folder(target, replace=True) as temporary:
        (temporary / "c.txt").touch()
        assert (target / "a").exists()
    assert [entry.name for entry in target.iterdir()] == ["c.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_folder_keeps_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()

    def fail() -> None:
        with atomic_folder(tmp_path / "a", replace=True) as temporary:
            (temporary / "half").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "old"]


def test_abandoned_folders_and_downloads_are_deleted(tmp_path: Path) -> None:
    folder = tmp_path / f".{'2c' * 16}.part"
    (folder / "deep").mkdir(parents=True)
    part, note = resumable_name(tmp_path / "a.zip"), tmp_path / ".a.zip.resume.part.json"
    for file in (part, note):
        file.touch()
        os.utime(file, (time.time() - RESUMABLE + 100,) * 2)
    sweep(tmp_path, older_than=ABANDONED)
    assert sorted(tmp_path.iterdir()) == sorted([folder, part, note])
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([part, note])
    for file in (part, note):
        os.utime(file, (time.time() - RESUMABLE - 100,) * 2)
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
