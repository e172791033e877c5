"""`t3d test`, `t3d compare`, `t3d probe`, `t3d calibrate` and `t3d fuse`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from t3d.cli.command_line import command_line
from t3d.cli.interruption import keeping
from t3d.cli.options import Spelling
from t3d.errors import ConfigError, printable
from t3d.evaluation.config import CompareConfig, Reading, TestConfig
from t3d.fusion.config import CalibrateConfig, FuseConfig
from t3d.io.files import writable_folder
from t3d.io.locks import alone_in
from t3d.transfer.probe_config import ProbeConfig

if TYPE_CHECKING:
    from t3d.evaluation.frame_orders import FrameOrders
    from t3d.evaluation.run_test import TestResult
    from t3d.fusion.result import FusionResult


def evaluate(
    config: TestConfig,
    *,
    out: str | None = None,
    frame_orders: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Test a trained model on labeled videos.

    The exit status is 1 if some videos could not be read.

        t3d test runs/first test.csv --out test --frame-orders shuffled static

    Args:
        out: Folder for report.html (a page to send to others), metrics.json, scores.csv and confusion.png.
        frame_orders: Other orders of frames to compare with the normal one, such as `shuffled static`. Says
            whether the model uses the order of frames. Each order takes as long as the test.
        json: Print the metrics as JSON.
    """
    from t3d.evaluation.frame_orders import check_orders, frame_order_study
    from t3d.evaluation.run_test import run_test

    with _only_writer(out):
        with _keeping_frames("the test", config.reading):
            if frame_orders:
                check_orders(config, frame_orders)
            result = run_test(config)
            orders = frame_order_study(config, result, frame_orders) if frame_orders else None
        status = _show(result, orders, out=out, json=json)
        if out:
            from t3d.report.evaluation_page import write_evaluation

            page = write_evaluation(
                result, Path(out) / "report.html", config, orders=orders, command=command_line("test")
            )
            if not json:
                print(f"report: {page}")
        return status


@Spelling(positional=("models",), metavars={"models": "MODEL"})
def compare(config: CompareConfig, *, out: str | None = None, json: bool = False) -> int:
    """Compare models on the same labeled videos: accuracy, size and speed.

    The exit status is 1 if some videos could not be read.

        t3d compare runs/task runs/task/teacher.safetensors --videos test_videos

    Args:
        out: Page (.html) to write the comparison to.
        json: Print the comparison as JSON.
    """
    from t3d.evaluation.comparison import compare as run
    from t3d.report.comparison import print_comparison

    if out is not None and not out.lower().endswith((".html", ".htm")):
        raise ConfigError(f"out is {out}; the comparison is written as a page, so it must end in .html")
    if out is not None:
        writable_folder(Path(out).parent, name="out")  # before the models run
    with _keeping_frames("the comparison", config.reading):
        result = run(config)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        print_comparison(result)
    if out is not None:
        from t3d.report.comparison_page import write_comparison

        page = write_comparison(result, out, config, command=command_line("compare"))
        if not json:
            print(f"report: {page}")
    return 1 if result.bad else 0


@Spelling(positional=("test",))
def probe(config: ProbeConfig, *, json: bool = False) -> int:
    """Train a linear classifier on frozen features, and test it.

    Compare transfer and fine-tuning with it. With --out, the classifier and its frozen network are written as
    a model that `t3d test` and `t3d predict` accept. The exit status is 1 if some videos could not be read.

    Args:
        json: Print the metrics as JSON.
    """
    from t3d.transfer.probe import run_probe

    with _keeping_frames("the probe", config.reading):
        result = run_probe(config)
    for video in result.bad:
        print(f"t3d: left out of the training: {printable(str(video))}", file=sys.stderr)
    if config.out and not json:
        print(f"model: {config.out}")
    status = 0 if result.test is None else _show(result.test, out=config.out, json=json)
    return 1 if result.bad else status


@Spelling(metavars={"model": "RUN"})
def calibrate(config: CalibrateConfig, *, json: bool = False) -> int:
    """Calibrate the probabilities of a model on labeled videos.

    Chooses a temperature that fits the probabilities to the share of right answers, and writes the model with
    it. The exit status is 1 if some videos could not be read.

        t3d calibrate runs/first --videos runs/first/val.csv --out new.safetensors

    Args:
        json: Print the result as JSON.
    """
    from t3d.fusion.calibrate import run_calibrate
    from t3d.report.result import say

    with _keeping_frames("the calibration", config.reading):
        result = run_calibrate(config)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        say(*result.sentences())
    return 1 if result.bad else 0


@Spelling(metavars={"models": "RUN"})
def fuse(config: FuseConfig, *, json: bool = False) -> int:
    """Make one model that averages the probabilities of several models.

    Labeled videos choose a temperature for each model and the weights. The result is a run folder that
    `t3d test`, `t3d predict` and `t3d probe --model` accept. Prints the accuracy of each model and of the
    fused one, and whether fusion pays. The exit status is 1 if some videos could not be read.

    Args:
        json: Print the figures as JSON.
    """
    from t3d.fusion.run import run_fuse

    with _keeping_frames("the fusion", config.reading):
        result = run_fuse(config)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        _print_fusion(result, config.out)
    return 1 if result.bad else 0


def _print_fusion(result: FusionResult, out: str) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from t3d.evaluation.figures import interval_text
    from t3d.report.result import say

    table = Table(
        Column("model", overflow="fold", min_width=12),
        *("accuracy", "95% interval", "NLL", "calibrated NLL", "T", "weight"),
        caption="T: temperature. Calibrated NLL and accuracy are cross-validated.",
    )
    for each in result.members:
        weight = f"{each.weight:.2f}" if each.weight else "left out"
        name, share = Text(printable(each.name)), f"{each.accuracy:.2%}"
        losses = f"{each.raw_loss:.3f}", f"{each.loss:.3f}"
        table.add_row(name, share, interval_text(each.interval), *losses, f"{each.temperature:.2f}", weight)
    fused = result.fused
    table.add_row("fused", f"{fused.accuracy:.2%}", interval_text(fused.interval), "", f"{fused.loss:.3f}")
    Console().print(table)
    say(*result.sentences(), f"model: {out}")


def _keeping_frames(what: str, reading: Reading) -> AbstractContextManager[None]:
    """Report what is kept if a signal stops the block: the cache. Without a cache, nothing is."""
    kept = f"the decoded frames in {reading.cache} are kept and reused"
    return keeping(what, lambda: kept) if reading.cache else nullcontext()


def _only_writer(out: str | None) -> AbstractContextManager[None]:
    """Lock the output folder, so that results of two commands are not mixed.

    Raises:
        ConfigError: It is not writable, or another command uses it. Raised before the model runs.
    """
    return alone_in(writable_folder(out, name="out")) if out else nullcontext()


def _show(result: TestResult, orders: FrameOrders | None = None, *, out: str | None, json: bool) -> int:
    """Write and print the result of a test. Return 1 if some videos could not be read."""
    from t3d.report.result import print_result, say, write_result

    if out:
        write_result(result, out, orders)
    if json:
        print(dumps(result.to_json() | ({} if orders is None else orders.to_json()), ensure_ascii=False))
    else:
        print_result(result)
        if orders is not None:
            say(*orders.sentences())
    return 1 if result.scores.bad else 0
