"""`t3d timeline`."""

from __future__ import annotations

import sys

from t3d.cli.options import Spelling
from t3d.errors import ConfigError, Failed, printable
from t3d.evaluation.config import FindConfig


@Spelling(
    positional=("videos",),
    metavars={"videos": "VIDEO", "save": "FILE"},
    first=("save", "window", "threshold", "background", "min_length", "max_gap", "json"),
)
def timeline(config: FindConfig, *, json: bool = False) -> int:
    """Find when classes happen in long videos.

    Cuts each video into clips, averages their scores over a window of time, and joins neighboring clips of a
    class into segments. Prints a table, or writes a table, JSON, subtitles or a picture. The exit status is 1
    if some videos could not be read.

        t3d timeline runs/first match.mp4 --background nothing --save match.srt

    Args:
        json: Print one JSON object per video.
    """
    from t3d.evaluation.parts import parts_of
    from t3d.evaluation.predictor import Predictor
    from t3d.report.timeline import check_ending, print_timeline, write_timeline

    paths = parts_of(config.videos)
    if config.save is not None:
        check_ending(config.save)
        if len(paths) != 1:
            raise ConfigError(
                f"`save` is {config.save}, and {len(paths)} videos are given; one file holds the segments of "
                "one video: give one video, or print all of them with `json`"
            )
    predictor = Predictor(
        config.model,
        compute=config.compute,
        allow_unfinished=config.allow_unfinished,
        limits=config.limits,
        image_fps=config.image_fps,
        runtime=config.runtime,
    )
    bad = 0
    for result in predictor.timelines(paths, config.rules):
        if isinstance(result, Failed):
            bad += 1
            print(f"t3d: {printable(str(result))}", file=sys.stderr)
            continue
        if config.save is not None:
            write_timeline(result, config.save)
        if json:
            print(result.to_json(), flush=True)
        elif config.save is None:
            print_timeline(result)
        else:
            segments = "1 segment" if len(result.segments) == 1 else f"{len(result.segments)} segments"
            print(f"{config.save}: {segments}")
    return 1 if bad else 0
