"""The command line of this process."""

from __future__ import annotations

import shlex
import sys


def command_line(name: str) -> str:
    """Return the command of this process; empty if it was called in another way, such as from Python.

    Args:
        name: Name of the command, such as `test`.
    """
    return shlex.join(["t3d", *sys.argv[1:]]) if sys.argv[1:2] == [name] else ""
