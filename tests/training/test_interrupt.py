"""Signals that stop a run, and further ones during the stop."""

from __future__ import annotations

import math
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from t3d.training import interrupt
from t3d.training.interrupt import CaughtSignals, RaisedSignals, deferred_signals

Run = Callable[..., subprocess.CompletedProcess[str]]
Patch = pytest.MonkeyPatch
BOTH = (signal.SIGINT, signal.SIGTERM)

STOPPED_TWICE = """
import atexit, os, signal, sys
import t3d.progress
from t3d.cli import main as cli
from t3d.data.clips.frames import FrameStore
from t3d.training.trainer import Trainer

first, place, *words = sys.argv[1:]
t3d.progress._clock = lambda: 0.0  # a busy machine prints no lines about progress either

def both():
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)

def stop(*_, **__):
    try:
        os.kill(os.getpid(), int(first))
    finally:
        if place == "start-up":
            both()

def with_both(function):
    def wrapped(*arguments):
        both()
        return function(*arguments)
    return wrapped

def with_stop(function):
    def wrapped(*arguments, **options):
        function(*arguments, **options)
        stop()
    return wrapped

if place == "start-up":
    FrameStore.prepare = stop
else:
    Trainer.take_step = with_stop(Trainer.take_step)
    Trainer._stop = with_both(Trainer._stop)
cli.in_options = with_both(cli.in_options)  # while the command reports the error
atexit.register(both)
sys.argv = ["t3d", *words]
sys.exit(cli.run_process())
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in BOTH}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in its background jobs
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("place", "first"), [("start-up", signal.SIGINT), ("training", signal.SIGTERM)])
def test_signals_during_a_stop_do_not_change_how_the_process_ends(
    run_with_torch: Run, colors: Path, tmp_path: Path, place: str, first: signal.Signals
) -> None:
    words = ["train", "--videos", str(colors / "train.csv"), "--out", str(tmp_path / "run"), "--workers", "0"]
    words += ["--model", "t3d_tiny", "--epochs", "1", "--batch-size", "4", "--optim.schedule", "constant"]
    words += ["--clip.num_frames", "8", "--clip.size", "32", "--clip.resize", "32"]
    words += ["--cache", str(tmp_path / "cache")]
    ended = run_with_torch(STOPPED_TWICE, str(int(first)), place, *words)
    assert ended.returncode == 128 + first, ended.stderr
    stopped, resume = ended.stderr.splitlines()
    assert f"{first.name} stopped the run" in stopped
    assert resume == f"  Resume it with: t3d train --resume {tmp_path / 'run'}"


def test_a_second_signal_does_not_interrupt_the_clean_up() -> None:
    before = {number: signal.getsignal(number) for number in BOTH}
    cleaned = []

    def stopped() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            for number in BOTH:
                os.kill(os.getpid(), number)
            cleaned.append(True)

    with pytest.raises(ValueError, match="2"), RaisedSignals(lambda number: ValueError(number)):
        stopped()
    assert cleaned
    assert before == {number: signal.getsignal(number) for number in BOTH}


def test_a_stop_that_takes_long_can_be_interrupted(monkeypatch: Patch) -> None:
    monkeypatch.setattr(interrupt, "_STOPPING", -1.0)

    def stopped() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), RaisedSignals(lambda number: ValueError(number)):
        stopped()


def test_signals_are_ignored_until_the_process_ends(monkeypatch: Patch) -> None:
    monkeypatch.setattr(interrupt, "_process_ends", True)
    with pytest.raises(ValueError, match="15"), RaisedSignals(lambda number: ValueError(number)):
        os.kill(os.getpid(), signal.SIGTERM)
    for number in BOTH:
        os.kill(os.getpid(), number)


def test_a_block_without_a_signal_restores_the_handlers_in_every_case(monkeypatch: Patch) -> None:
    monkeypatch.setattr(interrupt, "_process_ends", True)
    before = {number: signal.getsignal(number) for number in BOTH}
    with pytest.raises(ZeroDivisionError), CaughtSignals():
        raise ZeroDivisionError
    with CaughtSignals():  # the signal stopped nothing
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == {number: signal.getsignal(number) for number in BOTH}


def test_the_copy_of_a_signal_does_not_stop_immediately(monkeypatch: Patch) -> None:
    monkeypatch.setattr(interrupt, "_REPEATED", math.inf)
    with CaughtSignals() as signals:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals.numbers == [signal.SIGINT] * 2


def test_a_second_ctrl_c_stops_immediately_and_a_third_changes_nothing(monkeypatch: Patch) -> None:
    monkeypatch.setattr(interrupt, "_REPEATED", -1.0)
    cleaned = []

    def stopped(signals: CaughtSignals) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # only a second SIGINT stops immediately
        assert signals.numbers == [signal.SIGINT, signal.SIGTERM]
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), CaughtSignals() as signals:
        stopped(signals)
    assert cleaned


def test_deferred_signals_wait_for_the_end_of_the_block() -> None:
    done = []

    def deferred() -> None:
        with deferred_signals():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("block")
        done.append("too late")

    with pytest.raises(ValueError, match="15"), RaisedSignals(lambda number: ValueError(number)):
        deferred()
    assert done == ["block"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_ends_the_block_anyway() -> None:
    done = []

    class Discards:
        def __del__(self) -> None:  # Python discards exceptions of destructors
            os.kill(os.getpid(), signal.SIGTERM)

    def lose() -> None:
        with RaisedSignals(lambda number: ValueError(number)):
            Discards()
            done.append("block")

    with pytest.raises(ValueError, match="15"):
        lose()
    assert done == ["block"]


def test_an_error_that_follows_a_signal_is_reported_as_the_signal() -> None:
    def stopped() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException as error:
            raise RuntimeError("a library converts every exception") from error

    with pytest.raises(ValueError, match="2") as caught, RaisedSignals(lambda number: ValueError(number)):
        stopped()
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_stop_within_recorded_signals_restores_all_handlers() -> None:
    before = {number: signal.getsignal(number) for number in BOTH}
    signals = CaughtSignals()
    with pytest.raises(ValueError, match="15"), signals, RaisedSignals(lambda number: ValueError(number)):
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == {number: signal.getsignal(number) for number in BOTH}
    assert signals.numbers == []


def test_a_stop_within_recorded_signals_ignores_further_ones_until_the_process_ends(
    monkeypatch: Patch,
) -> None:
    monkeypatch.setattr(interrupt, "_process_ends", True)
    signals = CaughtSignals()
    with pytest.raises(ValueError, match="15"), signals, RaisedSignals(lambda number: ValueError(number)):
        os.kill(os.getpid(), signal.SIGTERM)
    for number in BOTH:
        os.kill(os.getpid(), number)
    assert signals.numbers == []


def test_a_long_stop_within_recorded_signals_can_be_interrupted(monkeypatch: Patch) -> None:
    monkeypatch.setattr(interrupt, "_STOPPING", -1.0)
    signals = CaughtSignals()

    def stopped() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), signals, RaisedSignals(lambda number: ValueError(number)):
        stopped()
    assert signals.numbers == []


def test_recorded_signals_may_be_entered_again() -> None:
    before = {number: signal.getsignal(number) for number in BOTH}
    with CaughtSignals() as signals:
        with signals:
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.numbers == [signal.SIGTERM] * 2
    assert before == {number: signal.getsignal(number) for number in BOTH}
