"""`t3d features`."""

from __future__ import annotations

import sys
from json import dumps
from signal import Signals

from t3d.cli.command_line import command_line
from t3d.cli.options import Spelling
from t3d.errors import StoppedError, printable
from t3d.training.interrupt import RaisedSignals
from t3d.transfer.features_config import FeaturesConfig


@Spelling(
    positional=("model", "videos"),
    metavars={"videos": "VIDEOS", "page": "PATH", "per": "video|clip"},
    first=(
        "out",
        "per",
        "page",
        "similar",
        "clusters",
        "teacher",
        "root",
        "index",
        "cache",
        "workers",
        "json",
    ),
)
def features(config: FeaturesConfig, *, json: bool = False) -> int:
    """Write the features of videos to a file, and show similar videos.

    The exit status is 1 if some videos could not be read.

        t3d features runs/first videos --out features.npz --page alike.html
        t3d features videos --teacher lite0 --out features.parquet

    Args:
        json: Print the result as JSON.
    """
    from t3d.transfer.embed import extract_features

    def stopped(number: int) -> StoppedError:
        message = (
            f"{Signals(number).name} stopped the command; finished parts are kept in {config.out}.parts. Run "
            "the same command again to continue"
        )
        return StoppedError(message, number)

    with RaisedSignals(stopped):
        result = extract_features(config)
    for failed in result.bad:
        print(f"t3d: {printable(str(failed))}", file=sys.stderr)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        was = " (complete already)" if result.complete else ""
        print(f"{result.out}: {result.rows:,} rows of {result.length:,} features{was}")
    if config.page is not None:
        from t3d.report.features_page import write_sheet
        from t3d.transfer.feature_table import read_features

        page = write_sheet(read_features(result.out), config, config.page, command=command_line("features"))
        if not json:
            print(f"page: {page}")
    return 1 if result.bad else 0
