"""Counters of a run, with a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from t3d.data.config import ReadConfig
from t3d.training import meter as module
from t3d.training.meter import EpochFigures, Meter, faster_data


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def step(meter: Meter, clock: Clock, *, waits: float, computes: float) -> None:
    with meter.waiting():
        clock.now += waits
    clock.now += computes
    meter.add(torch.tensor(2.0), clips=4)
    meter.end_step()


def test_waiting_is_counted_per_line_and_per_epoch(clock: Clock) -> None:
    meter = Meter(Accelerator(cpu=True))
    step(meter, clock, waits=3, computes=1)
    line = meter.report(meter.loss_sum())
    assert (line["waiting_for_data"], line["clips_per_second"], line["loss"]) == (0.75, 1.0, 2.0)
    step(meter, clock, waits=0, computes=4)
    assert meter.report(meter.loss_sum())["waiting_for_data"] == 0
    clock.now += 100  # a validation
    figures = meter.epoch()
    assert figures == EpochFigures(loss=2.0, seconds=8.0, waited=3.0)
    assert figures.waiting == 3 / 8
    assert str(figures) == "loss 2.000  waiting for data 38%"
    assert str(replace(figures, waited=0.3)) == "loss 2.000"
    meter.start()
    step(meter, clock, waits=1, computes=1)
    meter.report(meter.loss_sum())
    assert meter.epoch().waiting == 0.5  # the next epoch starts from zero


def test_a_resumed_run_reports_the_waiting_of_the_whole_epoch(clock: Clock) -> None:
    accelerator = Accelerator(cpu=True)
    first = Meter(accelerator)
    step(first, clock, waits=3, computes=1)
    first.report(first.loss_sum())
    state = first.state_dict(0.0)
    second = Meter(accelerator)
    second.load_state_dict(state)
    step(second, clock, waits=0, computes=2)
    second.report(second.loss_sum())
    assert second.epoch() == EpochFigures(loss=2.0, seconds=6.0, waited=3.0)
    # A checkpoint of an earlier version has no times.
    second.load_state_dict({key: state[key] for key in ("loss", "steps", "epoch_loss", "epoch_steps")})
    assert second.epoch().waiting == 0


def test_advice_names_what_the_run_does_not_use_yet() -> None:
    slow = EpochFigures(loss=1.0, seconds=100.0, waited=40.0)
    plain, cached = ReadConfig(workers=3), ReadConfig(workers=3, cache="frames")
    assert faster_data(slow, plain).startswith(
        "Training waited for data 40% of the time: decode each video once with `cache`, or use more "
        "reading processes with `workers` (now 3)."
    )
    assert "`cache`" not in faster_data(slow, cached)
    assert "`workers` (now 3)" in faster_data(slow, cached)
    assert faster_data(replace(slow, waited=20.0), plain) == ""  # a small share
    assert faster_data(replace(slow, seconds=10.0, waited=4.0), plain) == ""  # too short to say
