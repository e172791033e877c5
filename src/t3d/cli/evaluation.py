"""`t3d test`, `t3d probe` and `t3d predict`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from json import dumps
from typing import TYPE_CHECKING

from t3d.cli.options import Spelling
from t3d.errors import printable
from t3d.evaluation.config import PredictConfig, TestConfig
from t3d.io.files import writable_folder
from t3d.io.locks import alone_in
from t3d.transfer.probe_config import ProbeConfig

if TYPE_CHECKING:
    from t3d.evaluation.run_test import TestResult


def evaluate(config: TestConfig, *, out: str | None = None, json: bool = False) -> int:
    """Test a trained model on labeled videos.

    The exit status is 1 if some videos could not be read.

    Args:
        out: Folder for metrics.json, scores.csv and confusion.png.
        json: Print the metrics as JSON.
    """
    from t3d.evaluation.run_test import run_test

    with _only_writer(out):
        return _show(run_test(config), out=out, json=json)


def probe(config: ProbeConfig, *, out: str | None = None, json: bool = False) -> int:
    """Test a linear classifier on frozen features.

    The exit status is 1 if some videos could not be read.

    Args:
        out: Folder for metrics.json, scores.csv and confusion.png.
        json: Print the metrics as JSON.
    """
    from t3d.transfer.probe import run_probe

    with _only_writer(out):
        return _show(run_probe(config), out=out, json=json)


def _only_writer(out: str | None) -> AbstractContextManager[None]:
    """Lock the output folder, so that results of two commands are not mixed.

    Raises:
        ConfigError: It is not writable, or another command uses it. Raised before the model runs.
    """
    return alone_in(writable_folder(out, name="out")) if out else nullcontext()


def _show(result: TestResult, *, out: str | None, json: bool) -> int:
    """Write and print the result of a test. Return 1 if some videos could not be read."""
    from t3d.report.result import print_result, write_result

    if out:
        write_result(result, out)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        print_result(result)
    return 1 if result.scores.bad else 0


@Spelling(positional=("videos",), metavars={"videos": "VIDEO"})
def predict(config: PredictConfig, *, json: bool = False) -> int:
    """Classify videos.

    Prints a table or JSON, or writes a JSONL file. The exit status is 1 if some videos could not be read.

    Args:
        json: Print one JSON object per video.
    """
    from t3d.evaluation.bulk import listed_videos

    paths = listed_videos(config)
    if config.out:
        return _into_file(config, config.out, paths, json=json)
    return _to_screen(config, paths, json=json)


def _to_screen(config: PredictConfig, paths: list[str], *, json: bool) -> int:
    """Print a table in a terminal. Otherwise print one line per video, as soon as it is classified."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from t3d.evaluation.bulk import predictions, to_line

    bad = 0
    console = Console()
    table = Table(Column("video", overflow="fold"))
    for prediction in predictions(config, paths):
        if prediction.error is not None:
            bad += 1
            print(printable(f"t3d: {prediction.path}: {prediction.error}"), file=sys.stderr)
        if json:
            print(dumps(to_line(prediction, top=config.top), ensure_ascii=False), flush=True)
        elif prediction.error is None:
            likely = list(zip(prediction.classes, prediction.probs, strict=True))[: config.top]
            cells = [prediction.path, *(f"{name} {prob:.1%}" for name, prob in likely)]
            cells = list(map(printable, cells))
            if console.is_terminal:
                for rank in range(len(table.columns), len(cells)):
                    table.add_column(f"top-{rank}")
                if prediction.targets == "multi":
                    table.caption = "independent probabilities: several classes may apply"
                table.add_row(*map(escape, cells))
            else:
                print(*cells, sep="\t", flush=True)
    if table.row_count:
        console.print(table)
    if bad:
        print(f"t3d: {bad} of {len(paths)} videos could not be read", file=sys.stderr)
    return 1 if bad else 0


def _into_file(config: PredictConfig, out: str, paths: list[str], *, json: bool) -> int:
    """Write the predictions to a file, and print their number."""
    from t3d.evaluation.bulk import PredictionFile, predictions

    bad = 0
    unfinished = config.allow_unfinished
    with PredictionFile(out, model=config.model, top=config.top, allow_unfinished=unfinished) as file:
        todo = file.missing(paths)
        for prediction in predictions(config, todo) if todo else iter(()):
            file.add(prediction)
            if prediction.error is not None:
                bad += 1
                print(printable(f"t3d: {prediction.path}: {prediction.error}"), file=sys.stderr)
    counts = {"videos": len(set(paths)), "predicted": len(todo) - bad, "bad": bad}
    if json:
        print(dumps(counts))
    else:
        before = counts["videos"] - len(todo)
        print(
            f"{out}: {counts['videos']} videos; {counts['predicted']} predicted now, {before} earlier, "
            f"{bad} could not be read"
        )
    return 1 if bad else 0
