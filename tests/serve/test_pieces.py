"""Options, tokens, folders and processes of the server, without a server."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from t3d.cli.main import main
from t3d.errors import ConfigError, LostReaderError
from t3d.io.locks import lock
from t3d.serve import child, run
from t3d.serve import folder as folders
from t3d.serve.child import ScoringProcess, TaskError, TaskStopped
from t3d.serve.config import ServeConfig
from t3d.serve.folder import PREFIX, ServeFolder, delete_orphans
from t3d.serve.inside import Setup
from t3d.serve.run import TOKEN
from t3d.serve.score import Task
from t3d.serve.security import Rules, allowed_hosts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "port is 70000"),
        ({"max_mb": 0}, "max_mb is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"max_mb": 5000}, "one upload must fit on the disk"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServeConfig("model", **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "absent: no such run folder or weights file"),
        (
            ["MODEL", "--host", "no.such.host.invalid"],
            "--host is 'no.such.host.invalid', which is not an address",
        ),
        (["MODEL", "--host", "192.0.2.1"], "--host is '192.0.2.1', which is not an address of this machine"),
        (["absent", "--token-file", "absent.txt"], "absent.txt cannot be read"),
        (["absent", "--examples", "absent"], "give a folder with videos"),
        (["absent", "--examples", "."], ". has no video"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    words: list[str],
    message: str,
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    given = [word.replace("MODEL", str(model)) for word in words]
    assert main(["serve", *given, "--port", "0"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_the_model_is_loaded_ends_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened: list[object] = []
    run.serve(ServeConfig(str(model), port=0), opened=lambda *each: opened.append(each), stopped=lambda: True)
    assert opened == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_has_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(
        ConfigError, match=r'uvicorn is missing; install it with `pip install "t3d\[serve\]"`'
    ):
        run.serve(ServeConfig("absent"), opened=lambda *_: None, stopped=lambda: True)


def test_a_token_is_in_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN, raising=False)
    assert run._token(ServeConfig("m")) is None
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    assert run._token(ServeConfig("m", token_file=str(file))) == "0123456789abcdef"
    monkeypatch.setenv(TOKEN, "fedcba9876543210")
    assert run._token(ServeConfig("m")) == "fedcba9876543210"
    assert run._token(ServeConfig("m", token_file=str(file))) == "0123456789abcdef"
    for weak in ("", "short", "0123456789 abcdef", "ä" * 20):
        monkeypatch.setenv(TOKEN, weak)
        with pytest.raises(ConfigError, match="at least 16 ASCII characters"):
            run._token(ServeConfig("m"))


def test_names_by_which_the_server_is_reached() -> None:
    local = allowed_hosts("127.0.0.1", ("Videos.example",), local=True)
    assert local == {"localhost", "127.0.0.1", "::1", "videos.example"}
    assert allowed_hosts("0.0.0.0", (), local=False) is None
    assert "videos.example" in (allowed_hosts("0.0.0.0", ("videos.example",), local=False) or ())


def test_a_token_is_compared_as_a_whole() -> None:
    rules = Rules(None, "0123456789abcdef")
    assert rules.is_token("0123456789abcdef")
    assert not any(map(rules.is_token, ("", "0123456789abcde", "0123456789abcdef0", "\udc80", "é")))
    assert not Rules(None, None).is_token("")
    assert Rules(None, "another token 12").cookie != rules.cookie


def test_a_folder_is_private_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = ServeFolder()
    assert folder.path.name.startswith(PREFIX)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "video").write_text("x")
    assert delete_orphans() == []  # it is in use
    folder.delete()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_a_server_that_was_killed_while_it_started_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    old, new = (tmp_path / f"t3d-starting-{name}" for name in ("old", "new"))
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    assert delete_orphans() == [old]
    assert [path.name for path in tmp_path.iterdir()] == ["t3d-starting-new"]  # another server starts


def test_a_folder_is_deleted_although_a_process_still_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, left = tmp_path / "job", [2]
    delete = shutil.rmtree

    def delete_and_write(path: Path, **options: Any) -> None:
        delete(path, **options)
        if left[0] > 0:
            left[0] -= 1
            path.mkdir()

    monkeypatch.setattr(shutil, "rmtree", delete_and_write)
    folder.mkdir()
    folders.delete_tree(folder)
    assert not folder.exists()


def test_an_example_whose_name_is_not_text_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good.mp4").touch()
    (tmp_path / os.fsdecode(b"bad-\xff.mp4")).touch()
    assert list(run._examples(str(tmp_path))) == ["good.mp4"]
    assert "is left out: its name is not UTF-8" in capsys.readouterr().err


def test_the_token_is_not_inherited(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(TOKEN, "0123456789abcdef")
    run.serve(ServeConfig(str(model), port=0), opened=lambda *_: None, stopped=lambda: True)
    assert TOKEN not in os.environ


@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT"])
def test_a_closed_terminal_ends_the_server(name: str) -> None:
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # it may be ignored, if the tests run in the background
    try:
        _ended_by(number)
    finally:
        signal.signal(number, before)


def _ended_by(number: int) -> None:
    before = signal.getsignal(number)
    with run._hangups(lambda: False) as ended:
        assert not ended()
        signal.raise_signal(number)
        assert ended()
    assert signal.getsignal(number) == before
    signal.signal(number, signal.SIG_IGN)  # as `nohup` does
    try:
        with run._hangups(lambda: False) as ended:
            signal.raise_signal(number)
            assert not ended()
    finally:
        signal.signal(number, before)


class _Pipe:
    """One end of a pipe with one message."""

    def __init__(self, message: bytes) -> None:
        self.message = message

    def poll(self, _: float) -> bool:
        return True

    def recv_bytes(self, most: int) -> bytes:
        assert most < 1e9
        return self.message

    def send_bytes(self, _: bytes) -> None: ...

    def close(self) -> None: ...


def test_a_message_of_a_scoring_process_is_never_run() -> None:
    """The process decodes files from strangers. A pickle from it could run anything in the server."""
    scorer = ScoringProcess(Setup(ServeConfig("model"), "folder"))
    for message in (pickle.dumps(("result", {})), b"", b"[1]", b"nonsense", b"{}"):
        scorer._pipe = _Pipe(message)  # type: ignore[assignment]
        with pytest.raises(TaskError):
            scorer._message(0)
    scorer._pipe = _Pipe(b'["progress", 0.5]')  # type: ignore[assignment]
    assert scorer._message(0) == ("progress", 0.5)


class _Process:
    """A process that is alive until it is killed."""

    pid = 1
    killed = False

    def is_alive(self) -> bool:
        return not self.killed

    def kill(self) -> None:
        self.killed = True

    def join(self) -> None: ...


def test_an_idle_process_with_too_much_memory_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What earlier videos left in memory would count for the next video."""
    scorer = ScoringProcess(Setup(ServeConfig("model", max_memory_gb=2), "folder"))
    scorer._base = 1_000_000_000
    for resident, killed in ((1_400_000_000, False), (1_600_000_000, True)):
        monkeypatch.setattr(child, "_resident", lambda _, resident=resident: resident)
        process = scorer._process = _Process()  # type: ignore[assignment]
        scorer.renew_if_grown()
        assert process.killed is killed
        assert scorer.is_ready is not killed


def test_unwanted_work_is_ended_without_the_process_if_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_STOPPING", 0.05)
    for message, killed in ((b'["stopped", null]', False), (b'["progress", 0.1]', True)):
        scorer = ScoringProcess(Setup(ServeConfig("model"), "folder"))
        process = scorer._process = _Process()  # type: ignore[assignment]
        scorer._pipe = _Pipe(message)  # type: ignore[assignment]
        with pytest.raises(TaskStopped):
            scorer.run(Task("predict", "a"), report=lambda _: None, unwanted=lambda: True)
        assert process.killed is killed


def test_a_load_that_hangs_has_a_time_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(child, "_LOADING", 0.0)
    scorer = ScoringProcess(Setup(ServeConfig("absent"), str(tmp_path / "folder")))
    with pytest.raises(LostReaderError, match="was not ready within 0 s"):
        scorer.start()
    assert not scorer.is_ready


def test_folders_of_killed_servers_are_deleted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    orphan, used, other = (tmp_path / f"{PREFIX}{name}" for name in ("orphan", "used", "other"))
    for path in (orphan, used, other):
        path.mkdir()
        (path / "video").write_text("x")
    (tmp_path / f"{PREFIX}link").symlink_to(other)
    (tmp_path / f"{PREFIX}file").write_text("x")
    held = lock(used)
    assert held is not None
    mine = folders._is_ours
    monkeypatch.setattr(folders, "_is_ours", lambda path: mine(path) and path != other)  # of another user
    assert delete_orphans() == [orphan]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{PREFIX}{name}" for name in ("used", "other", "link", "file")
    )
    held.release()
    shutil.rmtree(used)
