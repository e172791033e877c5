"""Time left of a fit: sums of estimates, corrected by the step that runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from t3d import progress
from t3d.fit.clock import Clock


class Hands:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def training() -> Iterator[progress.Bar]:
    """A bar of training steps that is shown."""
    bar = progress.Bar("Training", 100, unit="steps")
    progress._bars.append(bar)
    yield bar
    progress._bars.remove(bar)


def test_left_is_the_rest_of_the_step_and_all_later_ones(hands: Hands) -> None:
    clock = Clock({"frames": 60.0, "network": 300.0, "test": 40.0}, spent=25.0, clock=hands)
    assert clock.passed() == 25.0
    assert clock.left() == 400.0
    with clock.step("frames"):
        hands.now += 20
        assert clock.left() == 380.0
        hands.now += 1000  # much longer than estimated: a twentieth of the estimate is left
        assert clock.left() == 0.05 * 60 + 340
    assert clock.left() == 340.0
    with clock.step("network"):
        pass
    assert clock.left() == 40.0


def test_training_steps_give_the_time_left_themselves(
    hands: Hands, training: progress.Bar, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock({"network": 300.0, "test": 40.0}, clock=hands)
    with clock.step("network"):
        assert clock.left() == 340.0  # no step yet
        monkeypatch.setattr(progress, "_clock", lambda: training.began + 50)
        training.advance(10)  # 10 of 100 steps in 50 s
        assert clock.left() == pytest.approx(450 + 40)


def test_a_step_without_an_estimate_counts_nothing(hands: Hands) -> None:
    clock = Clock({"test": 40.0}, clock=hands)
    with clock.step("choice"):
        assert clock.left() == 40.0


def test_notes_are_seconds_apart(hands: Hands) -> None:
    clock = Clock({"test": 40.0}, clock=hands)
    for _ in range(5):
        clock.note()
        hands.now += 1
    assert clock.notes == [(0.0, 40.0), (2.0, 42.0), (4.0, 44.0)]


def test_the_bar_of_the_whole_shows_the_clock(hands: Hands) -> None:
    clock = Clock({"test": 60.0}, clock=hands)
    with clock.shown("Fit") as bar:
        assert bar is None
    from t3d.fit.clock import _Whole

    whole = _Whole("Fit", clock)
    with clock.step("test"):
        hands.now += 15
        whole.sample(0.0)
        assert whole.text() == "25 %, about 40 s left in all"
