"""Compare the time that fits estimated while they ran with the time that they took.

    python benchmarks/fit_estimates.py FIT...

Prints a row of a Markdown table for each folder of `t3d fit`: the estimate of the whole time, divided by the
time that it took, after a quarter, a half and three quarters of it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

SHARES = (0.25, 0.5, 0.75)


def ratios(estimates: Sequence[Sequence[float]]) -> list[float]:
    """Return estimated total / actual total after each share of the time.

    Args:
        estimates: Seconds passed and estimated total, as in `result.json`.

    Example:
        >>> ratios([[0, 80], [50, 110], [100, 100]])
        [0.8, 1.1, 1.1]
    """
    total = estimates[-1][0]
    known = [[pair for pair in estimates if pair[0] <= share * total] or estimates[:1] for share in SHARES]
    return [pairs[-1][1] / total for pairs in known]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("fits", nargs="+", type=Path)
    print("| fit | videos | winner | minutes | at 25 % | at 50 % | at 75 % |")
    print("|---|---|---|---|---|---|---|")
    for fit in parser.parse_args().fits:
        result = json.loads((fit / "result.json").read_text(encoding="utf-8"))
        videos = sum(part["videos"] for part in result["lists"].values())
        cells = " | ".join(f"× {ratio:.2f}" for ratio in ratios(result["estimates"]))
        print(f"| {fit.name} | {videos} | {result['winner']} | {result['minutes']:.1f} | {cells} |")


if __name__ == "__main__":
    main()
