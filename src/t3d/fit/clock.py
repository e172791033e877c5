"""Time left of a fit: estimates of its steps, corrected while they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

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
        self._running = ("", 0.0, 0.0)  # name, start, estimate
        self.notes: list[tuple[float, float]] = []

    def passed(self) -> float:
        """Return the seconds since the start."""
        return self._clock() - self._began

    def left(self) -> float:
        """Return the estimated seconds that are left."""
        return self._left(self._clock())

    def _left(self, now: float) -> float:
        name, start, estimate = self._running
        running = 0.0
        if name:
            shown = next((bar.seconds_left() for bar in open_bars() if bar.unit == "steps"), None)
            running = max(estimate - (now - start), _LEAST * estimate) if shown is None else shown
        return running + sum(self._ahead.values())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step of the estimates.

        Args:
            name: Its name.
        """
        self._running = (name, self._clock(), self._ahead.pop(name, 0.0))
        try:
            yield
        finally:
            self._running = ("", 0.0, 0.0)

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


class _Whole(Bar):
    """Bar of the whole task, whose state is that of a clock."""

    def __init__(self, title: str, clock: Clock) -> None:
        self.clock = clock
        super().__init__(title, 100)

    def sample(self, now: float) -> None:  # noqa: ARG002 (the clock has its own time)
        self.clock.note()
        passed, total = self.clock.notes[-1]
        self.move(100 * passed / max(total, passed, 1e-9), 100)

    def count(self) -> str:
        return f"{int(self.done)} %"

    def left(self) -> str:
        return f"about {in_words(self.clock.left())} left in all"
