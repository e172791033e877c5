"""Message about what an interrupted command keeps."""

from __future__ import annotations

from collections.abc import Callable
from signal import Signals

from t3d.errors import StoppedError
from t3d.training.interrupt import RaisedSignals


def keeping(what: str, kept: Callable[[], str]) -> RaisedSignals:
    """Report what is kept if a signal stops the block, and how to continue.

    Args:
        what: What is stopped, such as `the test`.
        kept: Function that returns what is kept, as a sentence without its period.
    """

    def stopped(number: int) -> StoppedError:
        message = f"{Signals(number).name} stopped {what}; {kept()}. Run the same command again to continue"
        return StoppedError(message, number)

    return RaisedSignals(stopped)
