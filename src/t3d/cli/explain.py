"""`t3d explain`."""

from __future__ import annotations

import sys
from json import dumps
from signal import Signals

from t3d.cli.command_line import command_line
from t3d.cli.options import Spelling
from t3d.errors import StoppedError, printable
from t3d.explanation.config import ExplainConfig
from t3d.training.interrupt import RaisedSignals


@Spelling(
    positional=("videos",),
    metavars={"videos": "VIDEO", "label": "NAME", "stage": "NAME"},
    first=("out", "label", "detailed", "most_clips", "stage", "overwrite", "root", "device", "json"),
)
def explain(config: ExplainConfig, *, json: bool = False) -> int:
    """Show why a model decides: places, frames and temporal depths.

    Writes a page, and for each video a contact sheet and a video with heat. With several videos, the page has
    a table of the temporal depths per class. The exit status is 1 if some videos could not be read.

        t3d explain runs/first match.mp4 --out why
        t3d explain runs/first test.csv --out why --detailed 4

    Args:
        json: Print one JSON object per video.
    """
    from t3d.evaluation.parts import Part, parts_of
    from t3d.explanation.result import Explanation
    from t3d.report.explain_files import write_explanations
    from t3d.report.explain_folder import check_out

    check_out(config)
    listed: dict[Part, tuple[str, ...]] = {}
    parts = parts_of(config.videos, root=config.root, labels=listed)
    check_out(config, parts)
    from t3d.explanation.explainer import Explainer

    explainer = Explainer(
        config.model,
        compute=config.compute,
        options=config.options,
        index=config.index,
        allow_unfinished=config.allow_unfinished,
        limits=config.limits,
        image_fps=config.image_fps,
    )

    def shown(explanation: Explanation) -> None:
        if json:
            print(dumps(explanation.to_dict(), ensure_ascii=False), flush=True)
        else:
            print(explanation, flush=True)

    def stopped(number: int) -> StoppedError:
        return StoppedError(f"{Signals(number).name} stopped the command; run it again", number)

    with RaisedSignals(stopped):
        results = explainer.many(parts, label=config.label, detailed=config.detailed, listed=listed)
        written = write_explanations(
            results, config, explainer.card, command=command_line("explain"), shown=shown
        )
    for failed in written.bad:
        print(f"t3d: {printable(str(failed))}", file=sys.stderr)
    if written.videos == 0:
        print("t3d: no video could be explained", file=sys.stderr)
    elif not json:
        print(f"page: {written.page}")
    return 1 if written.bad else 0
