"""Messages about processes that were killed or crashed, with the likely cause and what to do."""

from __future__ import annotations

import signal

from t3d.errors import LostReaderError

_CAUSES = {
    "SIGKILL": ("probably because the machine ran out of memory", "Free memory, or lower `workers`"),
    "SIGBUS": (
        "probably because shared memory (/dev/shm) is full",
        "Enlarge it (`docker run --shm-size=8g`), or lower `workers`",
    ),
}
_CRASH = (
    "so a library crashed, perhaps on a damaged video",
    "Find the video with `t3d prepare index`, which reports such files, and remove it",
)

_SCRIPT = (
    "A script that reads videos in other processes must keep its main code under "
    '`if __name__ == "__main__":`, or set `workers` to 0'
)


def death_of(process: str, exit_code: int | None) -> LostReaderError:
    """Return the error for a process that died while it read videos.

    Args:
        process: The process, as the start of a sentence.
        exit_code: Exit status: negative for the number of a signal. None if it is unknown.

    Example:
        >>> print(death_of("Reading process 1 of 2", -9).problem)
        Reading process 1 of 2 was killed by SIGKILL, probably because the machine ran out of memory
    """
    if exit_code is None or exit_code >= 0:
        if exit_code == 1:  # of an uncaught Python error, printed above
            return LostReaderError(f"{process} ended with exit status 1, with the error above", _SCRIPT)
        status = "unexpectedly" if exit_code is None else f"with exit status {exit_code}"
        return LostReaderError(f"{process} ended {status}, {_CRASH[0]}", _CRASH[1])
    number = -exit_code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    cause, remedy = _CAUSES.get(name, _CRASH)
    return LostReaderError(f"{process} was killed by {name}, {cause}", remedy, number)
