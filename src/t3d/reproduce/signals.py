"""Whether a signal came during a run, also one that the run had no more use for."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_ASKED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noticed_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM that others handle.

    A run that is asked to stop in its very last validation ends as if it had not been, since no step is left;
    but a run of the next row would begin then. In the main thread only, as with all signals.

    Yields:
        A list, empty until the block ends; then the numbers of the signals, in order.

    Example:
        >>> from t3d.training.interrupt import caught_signals
        >>> with noticed_signals() as noticed, caught_signals():
        ...     signal.raise_signal(signal.SIGTERM)
        >>> noticed == [signal.SIGTERM]
        True
    """
    noticed: list[int] = []
    reader, writer = socket.socketpair()
    with reader, writer:
        for end in (reader, writer):
            end.setblocking(False)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield noticed
        finally:
            signal.set_wakeup_fd(before)
            with suppress(BlockingIOError):  # none came
                noticed += [number for number in reader.recv(1 << 16) if number in _ASKED]
