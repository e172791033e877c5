from __future__ import annotations

import pytest

from t3d.bench.peaks import Peaks, measure_peaks
from t3d.bench.timing import FEWEST_ROUNDS, Timing, alternate
from t3d.errors import ConfigError


def test_quartiles_are_those_of_the_rounds() -> None:
    assert Timing.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)
    assert Timing(3.0, 2.0, 4.0, 5).scaled(0.5) == Timing(1.5, 1.0, 2.0, 5)


def test_calls_take_turns_after_two_warm_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    waits: list[int] = []
    calls = {"a": lambda: names.append("a"), "b": lambda: names.append("b")}
    monkeypatch.setattr("t3d.bench.timing._TURN", 0.0)
    timed = alternate(calls, seconds=1e-9, wait=lambda: waits.append(len(names)))
    assert "".join(names) == "aabb" + "ab" * FEWEST_ROUNDS
    assert {name: each.rounds for name, each in timed.times.items()} == {"a": 3, "b": 3}
    assert waits[:4] == [0, 1, 1, 2]  # the device has finished before and after each call


def test_a_call_that_fails_is_left_out_and_the_others_are_measured() -> None:
    runs: list[None] = []

    def later() -> None:
        runs.append(None)
        if len(runs) > 3:
            raise RuntimeError("no memory\nat all")

    def never() -> None:
        raise ValueError

    timed = alternate({"later": later, "never": never, "works": lambda: None}, seconds=1e-9)
    assert set(timed.times) == {"works"}
    assert timed.failures == {"later": "no memory", "never": "ValueError"}


def test_time_must_be_above_zero() -> None:
    with pytest.raises(ConfigError, match="seconds is 0; it must be above 0"):
        alternate({}, seconds=0)


def test_the_least_time_is_limited_by_arithmetic_or_by_traffic() -> None:
    peaks = Peaks({"fp32": 10.0}, 5.0)
    assert peaks.least_seconds(20, 1, "fp32") == 4
    assert peaks.least_seconds(20, 100, "fp32") == 20
    assert peaks.least_seconds(20, 100, "bf16") is None


def test_peaks_are_measured_for_the_precisions_that_can_be() -> None:
    import torch

    peaks = measure_peaks(torch.device("cpu"), ("fp32", "bf16"), sizes=(32, 64))
    assert set(peaks.flops) == {"fp32", "bf16"}
    assert all(rate > 1e6 for rate in (*peaks.flops.values(), peaks.bytes))


def test_an_operation_that_does_not_run_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fails(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(torch, "_int_mm", fails)
    monkeypatch.setattr("t3d.bench.peaks.find_spec", lambda _: None)  # OpenVINO is not installed
    assert "int8" not in measure_peaks(torch.device("cpu"), ("int8",), sizes=(32,)).flops
