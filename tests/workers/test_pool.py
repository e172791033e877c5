from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from statistics import StatisticsError
from typing import Any

import pytest

from t3d.errors import LostReaderError
from t3d.workers import pool
from t3d.workers.pool import Lost, watched


def test_each_result_comes_with_its_item() -> None:
    outcomes = watched(abs, [-3, 4, -5], workers=2, timeout=60.0, title="counting")
    assert dict(outcomes) == {-3: 3, 4: 4, -5: 5}
    assert list(watched(abs, [], workers=2, timeout=60.0, title="nothing")) == []


def test_no_file_waits_for_a_slower_one(tmp_path: Path) -> None:
    slow = f"while [ ! -e '{tmp_path}/go' ]; do sleep 0.01; done"
    outcomes = watched(os.system, [slow, "true"], workers=2, timeout=60.0, title="waiting")
    assert next(outcomes) == ("true", 0)
    (tmp_path / "go").touch()
    assert list(outcomes) == [(slow, 0)]


def test_only_the_file_that_takes_too_long_times_out() -> None:
    outcomes = watched(time.sleep, [60.0, 0.0, 0.1], workers=1, timeout=2.0, title="sleeping")
    given_up = Lost("timeout: not finished within 2 s")
    assert dict(outcomes) == {60.0: given_up, 0.0: None, 0.1: None}


def test_a_process_that_dies_is_a_fact_about_the_file() -> None:
    outcomes = watched(os._exit, [3, 4], workers=2, timeout=60.0, title="dying")
    assert dict(outcomes) == {
        status: Lost(
            f"the process that read it ended with exit status {status}, so a library crashed, perhaps on a "
            "damaged video"
        )
        for status in (3, 4)
    }


def test_a_script_without_a_main_guard_gets_the_reason(tmp_path: Path) -> None:
    """A spawned process imports the script again, which starts processes again: Python refuses that."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom t3d.workers.pool import watched\n"
        "list(watched(os.getpid, [()], workers=1, timeout=60.0, title='x'))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (
        "LostReaderError: the process that read it ended with exit status 1, with the error above"
        in done.stderr
    )
    assert "must keep its main code under" in done.stderr


def test_a_killed_process_says_the_likely_cause_and_how_to_retry() -> None:
    outcomes = dict(
        watched(
            signal.raise_signal, [signal.SIGKILL, signal.SIGSEGV], workers=2, timeout=60.0, title="killing"
        )
    )
    assert outcomes[signal.SIGKILL] == Lost(
        "the process that read it was killed by SIGKILL, probably because the machine ran out of memory. "
        "Free memory, or lower `workers`, and run the same command again to retry the file"
    )
    assert outcomes[signal.SIGSEGV] == Lost(
        "the process that read it was killed by SIGSEGV, so a library crashed, perhaps on a damaged video"
    )


def test_a_programming_error_is_not_reported_as_a_bad_file() -> None:
    with pytest.raises(TypeError):
        list(watched(abs, ["text"], workers=1, timeout=60.0, title="counting"))  # type: ignore[arg-type]


def test_a_result_that_cannot_be_sent_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match=r"memoryview.* gave something that cannot be sent: cannot pickle"):
        list(watched(memoryview, [b"a"], workers=1, timeout=60.0, title="sending"))


def test_an_error_keeps_its_type_and_the_place_where_it_was_raised() -> None:
    with pytest.raises(StatisticsError, match="at least one data point") as raised:
        list(watched(statistics.fmean, [[]], workers=1, timeout=60.0, title="reading"))
    assert "in fmean" in raised.value.__notes__[0]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_death_is_reported_for_the_file_that_was_read(workers: int) -> None:
    numbers = [signal.SIGKILL, 0, signal.SIGSEGV, 0, signal.SIGKILL, signal.SIGBUS]
    outcomes = list(watched(signal.raise_signal, numbers, workers=workers, timeout=60.0, title="killing"))
    assert sorted(number for number, _ in outcomes) == sorted(numbers)
    for number, outcome in outcomes:
        assert (outcome is None) == (number == 0)
        assert outcome is None or signal.Signals(number).name in outcome.reason


def test_a_process_that_dies_before_it_takes_a_file_says_nothing_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dies_when_imported.py").write_text(
        f"import os\nif os.getpid() != {os.getpid()}:\n    os._exit(7)\ndef read(item): return item\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    read = importlib.import_module("dies_when_imported").read
    with pytest.raises(LostReaderError, match="exit status 7"):
        list(watched(read, [1, 2], workers=2, timeout=60.0, title="reading"))


def test_a_process_killed_between_two_files_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    give = pool._Process.give
    killed: list[int] = []

    def kill_and_give(process: Any, item: int) -> None:
        if item == 3 and not killed:
            killed.append(process.process.pid)
            monkeypatch.setattr(process.process, "is_alive", lambda: True)  # not noticed yet
            os.kill(killed[0], signal.SIGKILL)
            process.process.join()
            give(process, item)
            monkeypatch.undo()
        else:
            give(process, item)

    monkeypatch.setattr(pool._Process, "give", kill_and_give)
    outcomes = dict(watched(abs, range(6), workers=1, timeout=60.0, title="counting"))
    assert outcomes == {number: number for number in range(6)}
    assert len(killed) == 1


def test_nothing_is_left_running() -> None:
    outcomes = watched(time.sleep, [0.0, 600.0], workers=2, timeout=900.0, title="sleeping")
    assert next(outcomes) == (0.0, None)
    outcomes.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []
