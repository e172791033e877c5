"""`t3d export`."""

from __future__ import annotations

import sys
from json import dumps
from signal import Signals
from typing import TYPE_CHECKING

from t3d.cli.options import Spelling
from t3d.errors import StoppedError
from t3d.export.config import ExportConfig
from t3d.training.interrupt import RaisedSignals

if TYPE_CHECKING:
    from t3d.export.run import ExportResult, Row


@Spelling(
    metavars={"model": "RUN", "int8": "VIDEOS"},
    first=("format", "out", "videos", "int8", "overwrite", "json"),
)
def export(config: ExportConfig, *, json: bool = False) -> int:
    """Export a model for fast inference on a CPU.

    `t3d predict` and `t3d test` accept the file, as do other programs. The exported model is checked against
    the network and measured before its file gets its name. The table compares both: size, time and
    differences; with --videos also accuracies. Needs: pip install "t3d[export]".

        t3d export runs/first --videos videos/test.csv

    Args:
        json: Print the result as JSON.
    """
    from t3d.export.run import export_model

    with RaisedSignals(_stopped):
        result = export_model(config)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        _print(result)
    for warning in result.warnings:
        print(f"t3d: {warning}", file=sys.stderr)
    return 0


def _stopped(number: int) -> StoppedError:
    return StoppedError(
        f"{Signals(number).name} stopped the export; no file was written or replaced. Run the same "
        "command again",
        number,
    )


def _print(result: ExportResult) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    clips = next((row.difference.clips for row in result.rows if row.difference is not None), 0)
    threads = f"{result.threads} thread" + ("s" if result.threads != 1 else "")
    compared = f", difference on {clips} {'real' if result.real else 'random'} clips" if clips else ""
    table = Table(
        "runtime",
        "precision",
        "MB",
        "ms per\nclip",
        "times\nfaster",
        "score\ndiff.",
        "prob.\ndiff.",
        title=f"{threads}{compared}",
        box=SIMPLE,
    )
    tested = result.rows[0].metrics is not None
    if tested:
        table.add_column("accuracy")
    for row in result.rows:
        table.add_row(*_cells(row, result.rows[0], tested=tested))
    Console().print(table)
    print("written:", *map(str, result.files))


def _cells(row: Row, first: Row, *, tested: bool) -> list[str]:
    cells = [
        row.runtime,
        row.precision,
        f"{row.megabytes:.1f}",
        f"{row.milliseconds:.1f}",
        f"{first.milliseconds / row.milliseconds:.1f}",
        "" if row.difference is None else f"{row.difference.relative:.1e}",
        "" if row.difference is None else f"{row.difference.probability:.1e}",
    ]
    return [*cells, "" if row.metrics is None else f"{row.metrics.best_by:.1%}"] if tested else cells
