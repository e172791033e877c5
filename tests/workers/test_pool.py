from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pebble import ProcessPool

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


def _kill(number: int) -> None:
    os.kill(os.getpid(), number)


def test_a_killed_process_says_the_likely_cause_and_how_to_retry() -> None:
    outcomes = dict(
        watched(_kill, [signal.SIGKILL, signal.SIGSEGV], workers=2, timeout=60.0, title="killing")
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
        list(watched(time.sleep, ["text"], workers=1, timeout=60.0, title="sleeping"))


class Breaking(ProcessPool):
    """A pool that breaks once, as Pebble's does if a process dies before it reports its file."""

    broken: ClassVar[list[int]] = []

    def schedule(self, function: Any, args: Any = (), **options: Any) -> Any:
        if len(self.broken) < 2 and args == (7,):
            self.broken.append(args[0])
            future: Future[int] = Future()
            future.set_exception(BrokenProcessPool("All workers expired"))
            return future
        return super().schedule(function, args=args, **options)


def test_the_files_of_a_broken_pool_are_read_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.workers.pool.ProcessPool", Breaking)
    outcomes = dict(watched(abs, range(10), workers=1, timeout=60.0, title="counting"))
    assert outcomes == {number: number for number in range(10)}
    assert Breaking.broken == [7, 7]
