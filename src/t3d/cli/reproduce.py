"""`t3d reproduce`."""

from __future__ import annotations

from t3d.cli.options import Spelling
from t3d.errors import ConfigError
from t3d.reproduce.config import SETS, Choices


@Spelling(metavars={f"data.{name}": "PATH" for name in SETS})
def reproduce(
    table: str,
    choices: Choices,
    *,
    row: list[str] = [],  # noqa: B006 (read only)
    plan: bool = False,
    rate: float | None = None,
) -> int:
    """Run one of the paper's tables, row by row.

    The table few-labels is not of the paper.

    Args:
        table: Table of the paper (table2 … table6, table8, table9 or table10), or few-labels.
        row: Rows to run. Default: all rows. `plan` prints their names.
        plan: Print the planned runs and their cost, without running them.
        rate: Training speed of the device in GFLOP/s, for `plan`. Default: measured.
    """
    from t3d.device import is_main
    from t3d.reproduce import run

    if plan:
        print(run.plan(table, choices, rows=row, rate=rate), end="")
        return 0
    if rate is not None:
        raise ConfigError("`rate` needs `plan`")
    json_file, markdown_file = run.reproduce(table, choices, rows=row)
    if is_main():  # of the processes of torchrun
        print(f"\n{markdown_file.read_text(encoding='utf-8')}")
        print(f"{markdown_file}, {json_file}")
    return 0
