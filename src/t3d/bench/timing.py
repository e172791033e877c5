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
FEWEST_ROUNDS = 3
"""Rounds that every measurement has, even if its time is over."""
MOST_ROUNDS = 200
_TURN = 0.05  # seconds that one turn lasts at least: a short call is repeated
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
class Timed:
    """Result of `alternate`.

    Args:
        times: Timing of each call that worked, by name.
        failures: Reason of each call that failed, by name.
    """

    times: dict[str, Timing]
    failures: dict[str, str]


def nothing() -> None:
    """Wait for nothing: a CPU has finished when a call returns."""


def waiting(device: str) -> Call:
    """Return the function that waits until a device has finished its work.

    Args:
        device: Name of a torch device, such as `cpu` or `cuda:0`.
    """
    if not device.startswith("cuda"):
        return nothing
    import torch

    return lambda: torch.cuda.synchronize(device)


def timed(call: Call, wait: Call = nothing) -> float:
    """Return the seconds that one call takes, until the device has finished."""
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def alternate(
    calls: Mapping[str, Call], *, seconds: float, wait: Call = nothing, most_rounds: int = MOST_ROUNDS
) -> Timed:
    """Time calls that take turns.

    Every call runs twice before the first round. In each round, every call has one turn of about 0.05 seconds
    or a single run, whichever is longer. A call that raises an error is left out from then on.

    Args:
        calls: The calls, by name.
        seconds: Time after which no further round begins, at least three rounds in all.
        wait: Function that waits for the device.
        most_rounds: Maximum number of rounds.

    Returns:
        Times of one run of each call.

    Raises:
        ConfigError: `seconds` is not above 0.
    """
    if not seconds > 0:
        raise ConfigError(f"seconds is {seconds}; it must be above 0")
    repeats: dict[str, int] = {}
    failures: dict[str, str] = {}
    for name, call in calls.items():
        try:
            timed(call, wait)
            repeats[name] = min(max(math.ceil(_TURN / max(timed(call, wait), 1e-9)), 1), 1000)
        except Exception as error:  # of torch.compile, a runtime, or memory: the other calls are measured
            failures[name] = first_line(error)
    spent: dict[str, list[float]] = {name: [] for name in repeats}
    start = time.perf_counter()
    for number in range(most_rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            break
        for name in list(repeats):
            time.sleep(_PAUSE)
            try:
                spent[name].append(_turn(calls[name], repeats[name], wait))
            except Exception as error:  # as above
                failures[name] = first_line(error)
                del repeats[name], spent[name]
    return Timed({name: Timing.of(each) for name, each in spent.items()}, failures)


def _turn(call: Call, count: int, wait: Call) -> float:
    """Return the mean seconds of a call that runs `count` times."""

    def several() -> None:
        for _ in range(count):
            call()

    return timed(several, wait) / count
