"""Times as text."""

from __future__ import annotations


def clock(seconds: float, *, mark: str = ".") -> str:
    """Return a time as hours, minutes, seconds and milliseconds.

    Example:
        >>> clock(3725.0404)
        '1:02:05.040'
        >>> clock(59.9996)
        '1:00.000'
    """
    minutes, milli = divmod(round(1000 * seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{milli // 1000:02d}{mark}{milli % 1000:03d}"
    return f"{hours}:{minutes:02d}:{rest}" if hours else f"{minutes}:{rest}"
