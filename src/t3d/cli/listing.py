"""Shortened lists for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from t3d.errors import printable

_SHOWN = 10  # lines per list; --json has all


def print_list(title: str, lines: Sequence[str]) -> None:
    """Print the number of lines and the first of them. Print nothing for an empty list."""
    if lines:
        more = [f"… and {len(lines) - _SHOWN} more (--json has all)"] if len(lines) > _SHOWN else []
        print(f"{len(lines)} {title}:", *map(printable, lines[:_SHOWN]), *more, sep="\n  ")
