"""`t3d predict`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from json import dumps
from signal import Signals
from typing import TYPE_CHECKING

from t3d.cli.interruption import keeping
from t3d.cli.options import Spelling
from t3d.errors import Failed, StoppedError, printable
from t3d.evaluation.config import PredictConfig
from t3d.training.interrupt import RaisedSignals

if TYPE_CHECKING:
    from t3d.evaluation.parts import Part
    from t3d.evaluation.result import ClipPrediction, Prediction

_TOP = 3
"""Classes that are printed per video by default."""


@Spelling(positional=("videos",), metavars={"videos": "VIDEO", "save": "FILE"})
def predict(config: PredictConfig, *, json: bool = False) -> int:
    """Classify videos.

    Prints a table or JSON, writes a JSONL or CSV file, or draws the classes into videos. The exit status is 1
    if some videos could not be read.

        t3d predict runs/first match.mp4 --save annotated.mp4

    Args:
        json: Print one JSON object per video.
    """
    from t3d.evaluation.bulk import listed_videos

    unreadable: list[Failed] = []
    paths = listed_videos(config, unreadable)
    for failed in unreadable:
        print(f"t3d: {failed}", file=sys.stderr)
    if config.out:
        status = _into_file(config, config.out, paths, json=json)
    elif config.save:
        status = _annotate(config, config.save, paths, json=json)
    else:
        status = _to_screen(config, paths, json=json)
    return 1 if unreadable else status


def _annotate(config: PredictConfig, save: str, paths: list[Part], *, json: bool) -> int:
    """Write annotated videos, and print the predictions. Files exist only when they are complete."""
    from t3d.data.catalog import open_index
    from t3d.errors import VideoError
    from t3d.evaluation.bulk import index_of
    from t3d.report.annotated import annotated_files, write_annotated

    index = open_index(index_of(config))
    files = annotated_files(save, paths, overwrite=config.overwrite, index=index)
    written = 0

    def write(prediction: Prediction) -> Prediction:
        nonlocal written
        if prediction.error is not None:
            return prediction
        file = files[prediction.path]
        try:
            done = write_annotated(
                prediction,
                file,
                index=index,
                limits=config.limits,
                image_fps=config.image_fps,
                threshold=config.threshold,
            )
        except VideoError as error:
            return replace(prediction, error=error.reason)
        written += 1
        for remark in done.remarks:
            print(f"t3d: {file}: {remark}", file=sys.stderr)
        if not json:
            frames = "1 frame" if done.frames == 1 else f"{done.frames} frames"
            print(f"t3d: {file}: {frames}, {done.sound_phrase()}", file=sys.stderr)
        return prediction if config.per_clip else replace(prediction, per_clip=None)

    def stopped(number: int) -> StoppedError:
        message = f"{Signals(number).name} stopped the command; {written} of {len(files)} videos are written"
        return StoppedError(message, number)

    with RaisedSignals(stopped):
        return _to_screen(replace(config, per_clip=True), paths, json=json, write=write)


def _to_screen(
    config: PredictConfig,
    paths: list[Part],
    *,
    json: bool,
    write: Callable[[Prediction], Prediction] | None = None,
) -> int:
    """Print a table in a terminal. Otherwise print one line per video, as soon as it is classified.

    Args:
        config: The options.
        paths: The videos.
        json: Print one JSON object per video.
        write: Called with each prediction; returns the one to print.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from t3d.evaluation.bulk import GivenPaths, predictions, to_line

    given = GivenPaths(config.videos)
    top = config.top or _TOP
    bad = 0
    console = Console()
    table = Table(Column("video", overflow="fold"))
    made = predictions(config, paths)
    for prediction in map(given.of, made if write is None else map(write, made)):
        if prediction.error is not None:
            bad += 1
            _print_bad(prediction)
        if json:
            line = to_line(prediction, top=top, threshold=config.threshold or 0.0)
            print(dumps(line, ensure_ascii=False), flush=True)
        elif prediction.error is None:
            for cells in _cells(prediction, top, config.threshold):
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


def _print_bad(prediction: Prediction) -> None:
    error = prediction.error or ""  # that of a download names the URL itself
    text = error if error.startswith(prediction.path) else f"{prediction.path}: {error}"
    print(f"t3d: {printable(text)}", file=sys.stderr)


def _cells(prediction: Prediction, top: int, threshold: float | None) -> Iterator[list[str]]:
    """Yield the row of a video, and those of its clips if they were asked for."""
    yield [prediction.name, *_shares(prediction, top, threshold)]
    for clip in prediction.per_clip or ():
        yield [f"  {clip.start:.3f} to {clip.end:.3f} s", *_shares(clip, top, threshold)]


def _shares(result: Prediction | ClipPrediction, top: int, threshold: float | None) -> list[str]:
    """Return the most probable classes with their probabilities in percent."""
    pairs = result.top(top, threshold=threshold or 0.0)
    shares = [f"{label} {prob:.1%}" for label, prob in pairs]
    return shares or [f"none above {100 * (threshold or 0):g} %"]


def _into_file(config: PredictConfig, out: str, paths: list[Part], *, json: bool) -> int:
    """Write the predictions to a file, and print their number."""
    from t3d.evaluation.bulk import GivenPaths, PredictionFile, predictions

    given = GivenPaths(config.videos)
    earlier = predicted = bad = 0
    count = len(set(paths))
    file = PredictionFile(
        out,
        model=config.model,
        top=config.top,
        allow_unfinished=config.allow_unfinished,
        per_clip=config.per_clip,
    )
    kept = keeping("the predictions", lambda: f"{earlier + predicted} of {count} are kept in {out}")
    with file, kept:
        todo = file.missing(paths)
        earlier = count - len(todo)
        for prediction in predictions(config, todo) if todo else iter(()):
            file.add(prediction)
            if prediction.error is None:
                predicted += 1
            else:
                bad += 1
                _print_bad(given.of(prediction))
    if json:
        print(dumps({"videos": count, "predicted": predicted, "bad": bad}))
    else:
        print(f"{out}: {count} videos; {predicted} predicted now, {earlier} earlier, {bad} could not be read")
    return 1 if bad else 0
