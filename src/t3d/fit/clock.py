"""Time left of a fit: estimates of its steps, corrected while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from t3d.progress import Bar, in_words, open_bars, progress

_LEAST = 0.05  # share of a step's estimate that is left while it runs, however long it has taken
_EVERY = 2.0  # seconds between two notes


class Clock:
    """Time left, from the estimates of the steps and the speed of the step that runs.

    Args:
        estimates: Seconds of each step that is still to come, in order.
        spent: Seconds before the first of them.
        clock: Source of the time in seconds.

    Attributes:
        notes: Seconds passed and estimated total, every two seconds.

    Example:
        >>> now = iter([0.0, 0.0, 30.0, 30.0])
        >>> clock = Clock({"train": 60.0, "test": 20.0}, clock=lambda: next(now))
        >>> with clock.step("train"):
        ...     clock.left()
        50.0
    """

    def __init__(
        self,
        estimates: Mapping[str, float],
        *,
        spent: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._began = clock() - spent
        self._ahead = dict(estimates)
        self._running: _Step | None = None
        self.notes: list[tuple[float, float]] = []

    def passed(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._began

    def left(self) -> float:
        """Return the estimated seconds that are left."""
        return self._left(self._clock())

    def _left(self, now: float) -> float:
        running = 0.0 if self._running is None else self._running.left(now)
        return running + sum(self._ahead.values())

    @contextmanager
    def step(self, name: str, *, follows: str = "") -> Iterator[None]:
        """Run a step of the estimates.

        Args:
            name: Its name.
            follows: Title of the bar of its main part, whose own estimate is better than that of the plan.
        """
        self._running = _Step(self._clock(), self._ahead.pop(name, 0.0), follows)
        try:
            yield
        finally:
            self._running = None

    def expect(self, name: str, seconds: float) -> None:
        """Replace the estimate of a later step."""
        if name in self._ahead:
            self._ahead[name] = seconds

    @contextmanager
    def shown(self, title: str) -> Iterator[None]:
        """Show the time left above the progress of the steps.

        Args:
            title: Name of the whole task.
        """
        with progress(title, bar=_Whole(title, self)):
            yield

    def note(self) -> None:
        """Remember the present estimate, at most every two seconds."""
        now = self._clock()
        passed = now - self._began
        if not self.notes or passed - self.notes[-1][0] >= _EVERY:
            self.notes.append((round(passed, 1), round(passed + self._left(now), 1)))


@dataclass(frozen=True)
class _Step:
    """Step that runs.

    Args:
        start: Time at its start.
        estimate: Its seconds, as planned.
        follows: Title of the bar of its main part.
    """

    start: float
    estimate: float
    follows: str

    def left(self, now: float) -> float:
        """Return the estimated seconds that are left."""
        shown = (bar.seconds_left() for bar in open_bars() if bar.title == self.follows)
        known = next((seconds for seconds in shown if seconds is not None), None)
        if known is not None:
            return known
        return max(self.estimate - (now - self.start), _LEAST * self.estimate)


class _Whole(Bar):
    """Bar of the whole task, whose state is that of a clock."""

    def __init__(self, title: str, clock: Clock) -> None:
        self.clock = clock
        super().__init__(title, 100)
        self.began -= clock.passed()  # its last line tells the time of the whole task

    def sample(self, now: float) -> None:  # noqa: ARG002 (the clock has its own time)
        self.clock.note()
        passed, total = self.clock.notes[-1]
        self.move(100 * passed / max(total, passed, 1e-9), 100)

    def count(self) -> str:
        return f"{int(self.done)} %"

    def left(self) -> str:
        return f"about {in_words(self.clock.left())} left in all"
