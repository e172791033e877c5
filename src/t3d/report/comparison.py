"""Print a comparison of models."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from t3d.errors import printable
from t3d.evaluation.comparison import Comparison
from t3d.evaluation.difference import Difference
from t3d.evaluation.figures import interval_text
from t3d.report.result import say


def print_comparison(result: Comparison) -> None:
    """Print one row per model, and what the figures mean."""
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    where = threads if result.device == "cpu" else result.device
    table = Table(
        "model",
        "accuracy",
        "95% interval",
        "difference",
        "MB",
        "GMAC per clip",
        "ms per clip",
        "clips per video",
        "ms per video",
        caption=f"{result.videos:,} videos. Times are of the network alone, batch size 1, {where}. "
        "± is one standard error over groups; p is of McNemar's test",
    )
    for row in result.rows:
        cost = row.cost
        table.add_row(
            Text(printable(row.model), overflow="fold"),
            f"{row.accuracy:.1%}",
            interval_text(row.interval),
            "–" if row.difference is None else _difference(row.difference),
            f"{cost.megabytes:.1f}",
            f"{cost.gmac:.2f}",
            f"{cost.ms_per_clip:.1f}",
            f"{cost.clips_per_video:.1f}",
            f"{cost.ms_per_video:.1f}",
        )
    Console().print(table)
    say(*result.sentences(), *result.notes)


def _difference(paired: Difference) -> str:
    error = "" if paired.standard_error is None else f" ± {paired.standard_error:.1f}"
    return f"{paired.points:+.1f}{error} (p {paired.p:.2g})"
