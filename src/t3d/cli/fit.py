"""`t3d fit`."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from json import dumps
from typing import TYPE_CHECKING, Any

from t3d.cli.command_line import command_line
from t3d.cli.options import Spelling, options_of
from t3d.fit.config import FitConfig
from t3d.training.interrupt import RaisedSignals

if TYPE_CHECKING:
    from t3d.fit.result import FitResult


_SAID = ("seed", "teacher", "student", "val_fraction", "test_fraction", "candidates")
"""Options that `same_again` always writes."""


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
    from t3d.fit.folder import FitFolder
    from t3d.fit.run import run_fit, stopped_fit
    from t3d.report.fit_page import write_fit
    from t3d.report.result import say

    done = None if config.overwrite else FitFolder(config.out).finished(config)
    if done is not None:
        if json:
            print(dumps(done, ensure_ascii=False))
        else:
            report = FitFolder(config.out).report
            print(f"{config.out}: this fit is finished. Report: {report}. --overwrite starts again")
        return 1 if done["bad"] or done["test"]["bad"] else 0
    with (
        RaisedSignals(lambda number: stopped_fit(config, number)),
        redirect_stdout(sys.stderr) if json else nullcontext(),
    ):
        result = run_fit(config, say=lambda sentence: print(sentence, flush=True))
        write_fit(result, command=command_line("fit"), again=same_again(result))
    if json:
        print(dumps(result.to_json() | {"again": same_again(result)}, ensure_ascii=False))
    else:
        say(*result.sentences())
    bad = len(result.looked.bad) + len(result.test.scores.bad)
    if bad:
        files = "1 file was" if bad == 1 else f"{bad} files were"
        print(f"t3d: {files} left out, see above: exit status 1", file=sys.stderr)
    return 1 if bad else 0


def same_again(result: FitResult) -> str:
    """Return a command with every choice written out, which makes the same models again."""
    from t3d.fit.plan import CLIP_FRAMES

    config, plan = result.config, result.plan
    config = replace(
        config, out=f"{config.out.rstrip('/')}-again", overwrite=False, candidates=plan.candidates
    )
    if plan.epochs:
        config = replace(config, epochs=plan.epochs, clip_seconds=CLIP_FRAMES / plan.clip_fps)
    words = ["t3d", "fit"]
    for option in options_of(fit):
        value: Any = config
        if option.path[0] != "config":
            continue
        for name in option.path[1:]:
            value = getattr(value, name)
        if option.positional:
            words.append(value)
        elif option.is_flag and value != option.default:
            words.append(option.full if value else option.off)
        elif not option.is_flag and value is not None and (value != option.default or option.key in _SAID):
            words += _words(option.full, value)
    return shlex.join(words)


def _words(flag: str, value: object) -> list[str]:
    """Return an option with its value, as words of a command."""
    if isinstance(value, tuple):
        return [flag, *map(str, value)]
    text = repr(value) if isinstance(value, float) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]
