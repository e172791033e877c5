"""Timing of calls that take turns, so that a change of the machine's speed reaches all of them.

One clock measures CPUs and GPUs: the process waits for the GPU before it reads the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

from t3d.errors import ConfigError, first_line

Call = Callable[[], object]
TURN = 0.05
"""Seconds of a turn in which a short call is repeated, long enough for an exact mean."""
_PAUSE = 0.002  # seconds between two turns, in which the threads of the last library fall asleep


@dataclass(frozen=True)
class Timing:
    """Time of a call over several rounds, in seconds.

    Args:
        median: Median of the rounds.
        low: First quartile.
        high: Third quartile.
        rounds: Number of rounds.

    Example:
        >>> Timing.of([1.0, 2.0, 3.0])
        Timing(median=2.0, low=1.5, high=2.5, rounds=3)
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarize the seconds of each round, at least one."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0], 1)
        low, middle, high = quantiles(seconds, n=4, method="inclusive")
        return cls(middle, low, high, len(seconds))

    def scaled(self, factor: float) -> Timing:
        """Return the same timing with every time multiplied by a factor."""
        return Timing(self.median * factor, self.low * factor, self.high * factor, self.rounds)


@dataclass(frozen=True)
class Rounds:
    """Number and length of the rounds in which calls take turns.

    Args:
        fewest: Rounds of every measurement, even if its time is over.
        most: Maximum number of rounds.
        seconds: Time after which no further round begins.
        warm_ups: Runs of each call before the first round.
        turn: Minimum time of a turn, in seconds. A short call is repeated. It needs a warm-up.
        hopeless: A call that takes this many times as long as the fastest in the first round has no other
            round.
        keep_failures: Leave out a call that raises an error, and report the reason. Otherwise the error is
            raised.

    Raises:
        ConfigError: `seconds` is not above 0.
    """

    fewest: int = 3
    most: int = 200
    seconds: float = math.inf
    warm_ups: int = 1
    turn: float = 0.0
    hopeless: float = math.inf
    keep_failures: bool = False

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds:g}; it must be above 0")

    @classmethod
    def of_benchmark(cls, seconds: float) -> Rounds:
        """Return the rounds of a benchmark, in which some calls may fail.

        Args:
            seconds: See `Rounds`.
        """
        return cls(seconds=seconds, warm_ups=2, turn=TURN, keep_failures=True)


@dataclass(frozen=True)
class Timed:
    """Result of `alternate`.

    Args:
        seconds: Seconds of a run in each round, of each call that worked, by name.
        failures: Reason of each call that failed, by name.
    """

    seconds: dict[str, list[float]]
    failures: dict[str, str]

    @property
    def times(self) -> dict[str, Timing]:
        """Timing of each call that worked, by name."""
        return {name: Timing.of(each) for name, each in self.seconds.items()}

    @property
    def fastest(self) -> dict[str, float]:
        """Least seconds of each call that worked, by name. Other work on a machine only adds time."""
        return {name: min(each) for name, each in self.seconds.items()}


def nothing() -> None:
    """Wait for nothing: a CPU has finished when a call returns."""


def waiting(device: object) -> Call:
    """Return the function that waits until a device has finished its work.

    Args:
        device: A torch device, or its name, such as `cpu` or `cuda:0`.
    """
    name = str(device)
    if not name.startswith("cuda"):
        return nothing
    import torch

    return lambda: torch.cuda.synchronize(name)


def timed(call: Call, wait: Call = nothing) -> float:
    """Return the seconds that one call takes, until the device has finished."""
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def alternate(calls: Mapping[str, Call], rounds: Rounds, *, wait: Call = nothing) -> Timed:
    """Time calls that take turns.

    In each round, every call has one turn.

    Args:
        calls: The calls, by name.
        rounds: How often they take turns.
        wait: Function that waits for the device.

    Returns:
        Times of one run of each call.

    Example:
        >>> timed = alternate({"sum": lambda: sum(range(10)), "nothing": nothing}, Rounds(most=3))
        >>> timed.times["sum"].rounds
        3
    """
    runs: dict[str, int] = {}
    failures: dict[str, str] = {}

    def tried(name: str, call: Callable[[], float]) -> float | None:
        try:
            return call()
        except Exception as error:  # of torch.compile, a runtime, or memory
            if not rounds.keep_failures:
                raise
            failures[name] = first_line(error)
            return None

    for name, call in calls.items():
        count = tried(name, lambda call=call: _repeats(call, rounds, wait))  # type: ignore[misc]
        if count is not None:
            runs[name] = int(count)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for number in range(rounds.most):
        if number >= rounds.fewest and time.perf_counter() - start > rounds.seconds:
            break
        if number == 1:
            limit = rounds.hopeless * min((seconds[0] for seconds in spent.values()), default=0.0)
        for name in list(spent):
            if number and spent[name][0] > limit:
                continue
            time.sleep(_PAUSE)
            seconds = tried(name, lambda name=name: _turn(calls[name], runs[name], wait))  # type: ignore[misc]
            if seconds is None:
                del spent[name]
            else:
                spent[name].append(seconds)
    return Timed(spent, failures)


def _repeats(call: Call, rounds: Rounds, wait: Call) -> int:
    """Run the warm-ups of a call; return how many runs a turn has."""
    seconds = math.inf
    for _ in range(rounds.warm_ups):
        seconds = timed(call, wait)
    return min(max(math.ceil(rounds.turn / max(seconds, 1e-9)), 1), 1000)


def _turn(call: Call, count: int, wait: Call) -> float:
    """Return the mean seconds of a call that runs `count` times."""

    def several() -> None:
        for _ in range(count):
            call()

    return timed(several, wait) / count
