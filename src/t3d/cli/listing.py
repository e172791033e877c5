"""Shorten long lists for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 10  # lines of each list; --json has them all


def print_list(title: str, lines: Sequence[str]) -> None:
    """Print how many lines there are, and the first of them; nothing if there is none."""
    if lines:
        more = [f"… and {len(lines) - _SHOWN} more (--json has all)"] if len(lines) > _SHOWN else []
        print(f"{len(lines)} {title}:", *lines[:_SHOWN], *more, sep="\n  ")
