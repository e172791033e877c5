"""Waiting times between attempts to connect: each is twice as long as the one before, up to a limit."""

from __future__ import annotations

from dataclasses import dataclass

_STABLE = 10.0  # seconds of frames after which a connection was a success


@dataclass
class Backoff:
    """Waiting times before the next attempts to connect.

    A source that connects and fails again within seconds does not begin again at the shortest time.

    Args:
        retries: Attempts in a row after which there are no more.
        first: Seconds before the first retry.
        most: Maximum seconds before a retry.
        failed: Attempts in a row that have failed.

    Example:
        >>> backoff = Backoff(retries=4, first=1, most=5)
        >>> [backoff.after_failure() for _ in range(5)]
        [1, 2, 4, 5, None]
    """

    retries: int
    first: float = 1.0
    most: float = 30.0
    failed: int = 0

    def after_failure(self, seconds: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt; None if there is no further one.

        Args:
            seconds: Seconds for which the failed connection delivered frames.
        """
        if seconds >= _STABLE:
            self.failed = 0
        self.failed += 1
        if self.failed > self.retries:
            return None
        # The exponent is limited, since 2 to the power of many retries is not a float.
        return min(self.first * 2 ** min(self.failed - 1, 60), self.most)
