"""Calls take turns, and each round gives one time per call."""

from __future__ import annotations

import pytest

from t3d import timing
from t3d.errors import ConfigError
from t3d.timing import Rounds, Timing, alternate, timed


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_PAUSE", 0.0)


class Machine:
    """A clock, and calls that move it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.names = ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name: str, *seconds: float) -> timing.Call:
        """Return a call that takes these seconds in turn, and the last of them from then on."""
        left = list(seconds)

        def run() -> None:
            self.names += name
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_quartiles_are_those_of_the_rounds() -> None:
    assert Timing.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)
    assert Timing(3.0, 2.0, 4.0, 5).scaled(0.5) == Timing(1.5, 1.0, 2.0, 5)


def test_calls_take_turns_after_their_warm_ups(machine: Machine) -> None:
    waits: list[str] = []
    calls = {"a": machine.call("a", 9.0, 1.0), "b": machine.call("b", 7.0, 2.0)}
    result = alternate(calls, Rounds(warm_ups=2, seconds=1e-9), wait=lambda: waits.append(machine.names))
    assert machine.names == "aabb" + "ab" * 3
    assert result.seconds == {"a": [1.0] * 3, "b": [2.0] * 3}  # without the warm-ups
    assert waits[:4] == ["", "a", "a", "aa"]  # the device has finished before and after each call


@pytest.mark.parametrize(("seconds", "rounds"), [(0.5, 2), (3.5, 4), (100.0, 5)])
def test_rounds_end_with_their_time_but_not_before_the_fewest(
    machine: Machine, seconds: float, rounds: int
) -> None:
    result = alternate({"a": machine.call("a", 1.0)}, Rounds(fewest=2, most=5, seconds=seconds))
    assert len(result.seconds["a"]) == rounds


def test_a_short_call_runs_several_times_in_a_turn(machine: Machine) -> None:
    calls = {"short": machine.call("s", 0.25), "long": machine.call("l", 4.0)}
    result = alternate(calls, Rounds(most=1, turn=1.0))
    assert machine.names == "sl" + "ssss" + "l"
    assert result.seconds == {"short": [0.25], "long": [4.0]}


def test_a_hopeless_call_runs_once(machine: Machine) -> None:
    calls = {"a": machine.call("a", 1.0), "b": machine.call("b", 2.0), "c": machine.call("c", 2.25)}
    result = alternate(calls, Rounds(fewest=3, most=3, warm_ups=0, hopeless=2.0))
    assert machine.names == "abcabab"
    assert result.seconds["c"] == [2.25]


def test_the_median_and_the_fastest_round_are_reported(machine: Machine) -> None:
    result = alternate({"a": machine.call("a", 3.0, 1.0, 2.0)}, Rounds(most=3, warm_ups=0))
    assert result.times["a"].median == 2.0
    assert result.fastest == {"a": 1.0}


def test_a_call_that_fails_is_left_out_and_the_others_are_measured() -> None:
    runs: list[None] = []

    def later() -> None:
        runs.append(None)
        if len(runs) > 3:
            raise RuntimeError("no memory\nat all")

    def never() -> None:
        raise ValueError

    calls = {"later": later, "never": never, "works": timing.nothing}
    result = alternate(calls, Rounds(fewest=3, most=3, warm_ups=2, keep_failures=True))
    assert set(result.times) == {"works"}
    assert result.failures == {"later": "no memory", "never": "ValueError"}
    with pytest.raises(ValueError):
        alternate({"never": never}, Rounds())


def test_no_calls_take_no_time() -> None:
    assert alternate({}, Rounds()).times == {}
    assert timed(timing.nothing) >= 0


def test_time_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="seconds is 0; it must be above 0"):
        Rounds.of_benchmark(0)
