from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from t3d import progress as module
from t3d.progress import in_words, progress, show_progress, tick, track

Out = pytest.CaptureFixture[str]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """A clock that the test moves; the drawing thread waits, so that the test alone says when to draw."""
    clock = Clock()
    monkeypatch.setattr(module, "_clock", clock)
    monkeypatch.setattr(module, "_TICK", 3600.0)
    show_progress()
    yield clock
    show_progress(False)


def lines(capsys: Out) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""  # stdout is for results
    return captured.err.splitlines()


def test_a_short_task_prints_nothing(clock: Clock, capsys: Out) -> None:
    with progress("Decoding videos", total=10) as bar:
        clock.now += 4.9
        bar.advance(10)
        tick()
    assert lines(capsys) == []


def test_a_long_task_prints_a_line_at_its_start_and_every_30_seconds(clock: Clock, capsys: Out) -> None:
    with progress("Decoding videos", total=500) as bar:
        for _ in range(66):
            clock.now += 1
            bar.advance(2)
            tick()
    assert lines(capsys) == [
        "Decoding videos: 10 of 500 (2 %), about 4 min left",
        "Decoding videos: 70 of 500 (14 %), about 4 min left",
        "Decoding videos: 130 of 500 (26 %), about 3 min left",
        "Decoding videos: 132 of 500 (26 %), done in 1 min",
    ]


def test_a_stalled_item_does_not_silence_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    printed = threading.Event()
    monkeypatch.setattr(module, "_TICK", 0.001)
    monkeypatch.setattr(module._Lines, "_print", lambda *_: printed.set())
    with progress("Decoding videos", total=2):
        clock.now += 31
        assert printed.wait(300)  # nothing was advanced: the thread looked at the clock
    assert lines(capsys) == []


def test_nothing_is_shown_in_a_library() -> None:
    assert list(track(range(3), "Decoding videos")) == [0, 1, 2]
    assert module._view is None
    with progress("Decoding videos"):
        assert module._view is None


def test_other_processes_of_a_run_show_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with progress("Decoding videos"):
        assert module._view is None
    monkeypatch.setenv("RANK", "0")
    with progress("Decoding videos"):
        assert module._view is not None
    assert module._thread is None
    assert clock.now == 1000


def test_the_line_is_about_the_innermost_task(clock: Clock, capsys: Out) -> None:
    with progress("Training", total=100, unit="steps") as outer:
        clock.now += 5
        outer.advance(10, note="epoch 1 of 10, loss 1.250")
        tick()
        for _ in range(2):
            with progress("Validating", total=8) as inner:
                clock.now += 6
                inner.advance(2)
                tick()
            clock.now += 1
            tick()
    assert lines(capsys) == [
        "Training: 10 of 100 steps (10 %), epoch 1 of 10, loss 1.250, about 40 s left",
        "Validating: 2 of 8 (25 %), about 18 s left",  # announced once, not in every epoch
        "Validating: 2 of 8 (25 %), done in 6 s",
        "Training: 10 of 100 steps (10 %), done in 19 s",
    ]


def test_an_error_says_nothing_of_an_end(clock: Clock, capsys: Out) -> None:
    def stopped() -> None:
        with progress("Decoding videos", total=10):
            clock.now += 6
            tick()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert lines(capsys) == ["Decoding videos: 0 of 10 (0 %)"]
    assert module._thread is None


def test_items_done_by_an_earlier_run_do_not_affect_the_rate(clock: Clock) -> None:
    with progress("Decoding videos", total=1000) as bar:
        bar.advance(500)  # cached
        for _ in range(60):
            clock.now += 1
            bar.advance(1)
            tick()
        assert bar.left() == "about 7 min left"


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (12_300_000, 45_600_000, "12.3 of 45.6 MB (26 %)"),
        (1_200_000_000, 6_500_000_000, "1.2 of 6.5 GB (18 %)"),
        (12_300_000, None, "12.3 MB"),
    ],
)
def test_bytes_are_shown_in_larger_units(done: int, total: int | None, text: str) -> None:
    with progress("Downloading", total, unit="bytes") as bar:
        bar.advance(done)
        assert bar.count() == text


def test_a_part_of_an_item_counts_as_a_share(clock: Clock) -> None:
    with progress("Classifying videos", total=1) as bar:
        clock.now += 30
        for _ in range(3):
            bar.advance(0.1)
        assert bar.text() == "0.3 of 1 (30 %), about 1 min left"
        for _ in range(7):
            bar.advance(0.1)
        assert bar.count() == "1 of 1 (100 %)"


def test_the_total_is_the_length_if_there_is_one() -> None:
    assert list(track(iter("ab"), "Reading")) == ["a", "b"]
    assert in_words(0.4) == "0 s"
    assert in_words(59) == "1 min"
    assert in_words(3600) == "1 h"


def test_a_forked_process_leaves_the_bars_to_its_parent(clock: Clock, capsys: Out) -> None:
    with progress("Decoding videos", total=2):
        clock.now += 6
        child = os.fork()
        if not child:
            with progress("Within", total=1):
                tick()
                os._exit(0 if module._view is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        tick()
    assert lines(capsys)[0] == "Decoding videos: 0 of 2 (0 %)"


def test_parts_of_items_are_shown_as_tenths() -> None:
    with progress("Classifying videos", total=18) as bar:
        bar.advance(11.86)
        assert bar.count() == "11.8 of 18 (65 %)"
        bar.advance(0.14)
        assert bar.count() == "12 of 18 (66 %)"


def test_a_task_may_leave_its_last_line_to_the_caller(clock: Clock, capsys: Out) -> None:
    with progress("Training", total=2, last_line=False) as bar:
        clock.now += 6
        bar.advance(2)
        tick()
    assert lines(capsys) == ["Training: 2 of 2 (100 %)"]


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError])
def test_a_broken_stderr_switches_progress_off_and_the_work_continues(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise error

    done = []
    monkeypatch.setattr(sys, "stderr", Broken())
    with progress("Outer", total=2), progress("Decoding videos", total=2):
        clock.now += 6
        tick()
        done.append(1)
        assert module._view is None
        with progress("Within", total=1):
            assert module._view is None
    assert done == [1]
    show_progress()
    with progress("Decoding videos", total=2) as bar:
        bar.advance(2)
        module._view.printed.add(bar)  # type: ignore[union-attr] # its last line breaks, too
    assert (module._view, module._thread, module._bars) == (None, None, [])


@pytest.mark.parametrize("closed", [False, True])
def test_without_stderr_nothing_is_shown(clock: Clock, monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream if closed else None)
    with progress("Decoding videos"):
        clock.now += 6
        tick()
        assert module._view is None


def test_a_thread_that_is_stuck_does_not_block_the_end(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(module, "_JOIN", 0.01)
    monkeypatch.setattr(module, "_run", lambda _: release.wait(60))
    with progress("Decoding videos"):
        thread = module._thread
    assert thread is not None
    assert thread.is_alive()
    release.set()
    thread.join()
    assert clock.now == 1000


def test_a_signal_during_a_fork_leaves_the_lock_free(clock: Clock) -> None:
    """Signals that arrive while Python takes the lock raise in its function, if it is written in Python."""
    forked = []

    def raising(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename == module.__file__:
            forked.append(frame.f_code.co_name)

    sys.setprofile(raising)
    try:
        child = os.fork()
        if not child:
            os._exit(0 if forked == ["_forget_in_child", "_restore_streams"] else 1)
    finally:
        sys.setprofile(None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert forked == []
    assert clock.now == 1000


BROKEN_TERMINAL = """
import os, sys
import t3d.progress as module
from t3d.progress import progress, show_progress, tick

os.environ["FORCE_COLOR"] = "1"  # rich writes on, as to a terminal
module._TICK = 3600
show_progress()
with progress("Training", total=4) as bar:
    tick()
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 2)
    tick()
    assert module._view is None
    print("working")
assert not hasattr(sys.stdout, "rich_proxied_file")
print("done")
"""


def test_a_terminal_that_goes_away_does_not_end_the_work(tmp_path: Path) -> None:
    out = tmp_path / "out.txt"
    on_terminal(BROKEN_TERMINAL, stdout=out)
    assert out.read_text() == "working\ndone\n"


SCRIPT = """
import sys
from t3d.progress import progress, show_progress, tick
import t3d.progress as module

now = 0.0
module._clock = lambda: now
show_progress()
with progress("Training", total=4) as bar:
    for step in range(4):
        now += 10
        bar.advance(note=f"loss {step}")
        with progress("Validating", total=2) as inner:
            inner.advance()
            tick()
        print(f"epoch {step}", flush=True)
        tick()
"""


def on_terminal(script: str, *, stdout: Path | None = None) -> str:
    """Return the output of a script on a terminal, including its stdout unless that goes to a file."""
    parent, child = pty.openpty()
    with Path(stdout).open("w") if stdout else os.fdopen(os.dup(child), "w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=out, stderr=child, env=os.environ | {"TERM": "xterm"}
        )
        os.close(child)
    parts = []
    while True:
        try:
            part = os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(parent)
    assert process.wait() == 0
    return b"".join(parts).decode()


def test_a_terminal_has_bars_and_prints_appear_above_them() -> None:
    screen = on_terminal(SCRIPT)
    assert "2 of 4 (50 %), loss 1, about 20 s left" in screen
    assert "Validating" in screen
    assert "epoch 3\r\n" in screen
    assert "4 of 4 (100 %), done in 40 s" in screen
    assert screen.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_results_stay_on_stdout_if_only_stderr_is_a_terminal(tmp_path: Path) -> None:
    screen = on_terminal(SCRIPT, stdout=tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "epoch 0\nepoch 1\nepoch 2\nepoch 3\n"
    assert "epoch" not in screen
    assert "4 of 4 (100 %), done in 40 s" in screen


def test_a_task_that_is_left_open_does_not_hang_the_exit() -> None:
    script = (
        "from t3d.progress import show_progress, track\n"
        "show_progress()\n"
        "items = track(range(3), 'Decoding videos')\n"
        "next(items)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
