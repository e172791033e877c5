from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from t3d.errors import ConfigError
from t3d.io.locks import alone_in, holder_of, lock, lock_unshared, share

_HOLDER = """
import sys
from pathlib import Path
from t3d.io import locks
held = getattr(locks, sys.argv[1])(Path(sys.argv[2]))
print(held is not None, flush=True)
sys.stdin.read()
"""


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process that holds a lock until it is killed."""
    command = [sys.executable, "-c", _HOLDER, kind, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("name", ["a.txt", ".hidden", "a [b]*?.tar"])
def test_one_holds_a_lock_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with lock(target) as held:  # type: ignore[union-attr]
        assert held.path.name.startswith(".")
        assert lock(target) is None
    again = lock(target)
    assert again is not None
    again.release()
    again.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.situation(
    "Machines and disks",
    "Two commands write to one run folder",
    "The second is refused; the message names the first",
)
def test_the_message_says_who_holds_the_lock(tmp_path: Path) -> None:
    target = tmp_path / "log.jsonl"
    other = holder("lock", target)
    with pytest.raises(ConfigError) as caught, alone_in(target):
        pass
    killed(other)
    known = rf"{target} \(process {other.pid} on {re.escape(socket.gethostname())}, since 20\d\d-.*\); wait"
    assert re.search(known, str(caught.value))
    with alone_in(target):  # the note of the killed process is replaced
        assert holder_of(target).startswith(f"process {os.getpid()} on ")
    assert holder_of(target) == ""


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        with pytest.raises(ConfigError, match="another run is writing to"), alone_in(tmp_path):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["lock", "share"])
def test_a_killed_process_holds_nothing(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "a.tar"
    process = holder(kind, target)
    assert lock_unshared(target) is None
    killed(process)
    assert list(tmp_path.iterdir()) != []
    free = lock_unshared(target)
    assert free is not None
    free.release()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_takes_over_from_a_killed_process(tmp_path: Path) -> None:
    process = holder("lock", tmp_path / "a")
    taken = threading.Event()

    def wait() -> None:
        held = lock(tmp_path / "a", wait=True)
        assert held is not None
        taken.set()
        held.release()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not taken.wait(0.2)
    killed(process)
    waiting.join(300)
    assert taken.is_set()
    assert list(tmp_path.iterdir()) == []


def test_readers_share_and_keep_writers_out(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    one, two = share(target), share(target)
    assert lock_unshared(target) is None
    one.release()
    assert lock_unshared(target) is None
    two.release()
    other = share(tmp_path / "a.tar.gz")  # its name begins alike
    held = lock_unshared(target)
    assert held is not None
    entered = threading.Event()

    def read() -> None:
        with share(target):
            entered.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert not entered.wait(0.2), "a reader waits while the file may be deleted"
    held.release()
    reader.join(300)
    assert entered.is_set()
    other.release()
    assert list(tmp_path.iterdir()) == []


def count(path: Path, times: int) -> None:
    for _ in range(times):
        with lock(path, wait=True):  # type: ignore[union-attr]
            path.write_text(str(int(path.read_text()) + 1))


def test_many_processes_that_lock_one_file_never_meet(tmp_path: Path) -> None:
    path = tmp_path / "number"
    path.write_text("0")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=count, args=(path, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
        assert worker.exitcode == 0
    assert path.read_text() == "100"
    assert list(tmp_path.iterdir()) == [path]


def test_a_forked_child_neither_holds_nor_frees_its_parents_lock(tmp_path: Path) -> None:
    target = tmp_path / "a"
    context = multiprocessing.get_context("fork")
    held = lock(target)
    assert held is not None
    go = context.Event()
    child = context.Process(target=lambda: (held.release(), go.wait(300)))
    child.start()
    assert lock(target) is None
    held.release()
    free = lock(target)
    assert free is not None, "the child is alive, and does not hold it"
    free.release()
    go.set()
    child.join(300)
    assert child.exitcode == 0


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock(tmp_path / "nowhere" / "a")


def test_no_process_started_later_inherits_a_lock(tmp_path: Path) -> None:
    held = lock(tmp_path / "a")
    assert held is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        held.release()
        free = lock(tmp_path / "a")
        assert free is not None
        free.release()
        child.communicate(b"\n")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
