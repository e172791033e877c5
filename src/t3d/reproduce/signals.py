"""Record of the signals that arrive during a run, including those that the run does not act on."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_RECORDED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def noticed_signals() -> Iterator[list[int]]:
    """Record SIGINT and SIGTERM, which other code handles.

    A signal during the last validation of a run has no effect on this run, because no step is left. The run
    of the next row must still not start. As with all signals, this works only in the main thread.

    Yields:
        List of the signal numbers, in order. It is empty until the block ends.

    Example:
        >>> from t3d.training.interrupt import CaughtSignals
        >>> with noticed_signals() as noticed, CaughtSignals():
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
            with suppress(BlockingIOError):  # no signal arrived
                noticed += [number for number in reader.recv(1 << 16) if number in _RECORDED]
