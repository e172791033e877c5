"""`t3d fit`."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from json import dumps
from signal import Signals
from typing import TYPE_CHECKING

from t3d.cli.command_line import command_line
from t3d.cli.options import Spelling
from t3d.errors import StoppedError
from t3d.fit.config import FitConfig
from t3d.training.interrupt import RaisedSignals

if TYPE_CHECKING:
    from t3d.fit.result import FitResult


@Spelling(
    metavars={"videos": "FOLDER", "unlabeled_videos": "VIDEOS", "test": "VIDEOS", "candidates": "NAME"},
    first=(
        "out",
        "minutes",
        "unlabeled_videos",
        "test",
        "mirror",
        "candidates",
        "source_pattern",
        "export",
        "json",
    ),
)
def fit(config: FitConfig, *, json: bool = False) -> int:
    """Make a classifier of labeled videos: look, train, choose, test, export.

    Give a folder with one folder of videos per class. Trains models for the minutes given, chooses one on
    held-out videos, tests it once on others, exports it and writes a report. The same command continues an
    interrupted fit. The exit status is 1 if some videos could not be read.

        t3d fit clips --minutes 20

    Args:
        json: Print the result as JSON.
    """
    from t3d.fit.run import run_fit
    from t3d.report.fit_page import write_fit
    from t3d.report.result import say

    def stopped(number: int) -> StoppedError:
        return StoppedError(
            f"{Signals(number).name} stopped the fit; what is finished is kept in {config.out}. Run the same "
            "command again to continue",
            number,
        )

    with RaisedSignals(stopped), redirect_stdout(sys.stderr) if json else nullcontext():
        result = run_fit(config, say=lambda sentence: print(sentence, flush=True))
        write_fit(result, command=command_line("fit"), again=same_again(result))
    if json:
        print(dumps(result.to_json() | {"again": same_again(result)}, ensure_ascii=False))
    else:
        say(*result.sentences())
    return 1 if result.looked.bad else 0


def same_again(result: FitResult) -> str:
    """Return a command with every choice written out, which makes the same models again."""
    from t3d.fit.plan import CLIP_FRAMES

    config, plan, shares = result.config, result.plan, result.config.shares
    words = ["t3d", "fit", config.videos, "--out", f"{config.out}-again"]
    for name in ("test", "unlabeled_videos", "source_pattern"):
        if (value := getattr(config, name)) is not None:
            words += [f"--{name.replace('_', '-')}", value]
    if config.reading.root is not None:
        words += ["--root", config.reading.root]
    words += ["--candidates", *plan.candidates, "--teacher", config.teacher, "--student", config.student]
    if plan.epochs:
        words += ["--epochs", str(plan.epochs), "--clip-seconds", f"{CLIP_FRAMES / plan.clip_fps:.6g}"]
        words += ["--size", str(config.size), *(() if config.mirror else ("--no-mirror",))]
    words += ["--val-fraction", f"{shares.val_fraction:g}", "--test-fraction", f"{shares.test_fraction:g}"]
    return shlex.join([*words, "--seed", str(shares.seed)])
