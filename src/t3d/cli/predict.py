"""The words behind `t3d predict`."""

from __future__ import annotations

import json
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from t3d.cli.parser import add_cluster, add_computing


def fill_predict(sub: ArgumentParser) -> None:
    """The options of `t3d predict`."""
    sub.add_argument("weights", help="weights file that a training run wrote")
    sub.add_argument("inputs", nargs="*", metavar="VIDEO", help="video files, or folders of them")
    sub.add_argument("--index", help="of the files or shards; without VIDEO, all that it names are meant")
    sub.add_argument("--top", type=PositiveInt, default=3, help="classes to show")
    sub.add_argument("--out", help=".jsonl file to write instead; the same command goes on after a kill")
    sub.add_argument("--json", action="store_true", help="print one JSON object a video")
    add_computing(sub)
    add_cluster(sub)


def run_predict(chosen: Namespace) -> int:
    """Say what videos show. 1: some could not be read."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from t3d.data.catalog import open_manifest
    from t3d.data.manifest.manifest import Manifest
    from t3d.evaluation.bulk import predictions, to_line
    from t3d.workers.cluster import Cluster

    if chosen.index and not chosen.inputs:
        paths = list(dict.fromkeys(open_manifest(chosen.index).table["path"].to_pylist()))
    else:
        paths = Manifest.from_files(chosen.inputs).table["path"].to_pylist()
    names = ("device", "precision", "batch_size", "workers", "index")
    options: dict[str, Any] = {name: chosen[name] for name in names}
    options["cluster"] = Cluster(chosen.cluster, chosen.ray_address)
    if chosen.out:
        return _into(chosen, paths, options)
    bad = 0
    # A table for eyes; for other programs a line a video as soon as it is known.
    console = Console()
    table = Table(Column("video", overflow="fold"))
    for prediction in predictions(chosen.weights, paths, **options):
        if prediction.error is not None:
            bad += 1
            print(f"t3d: {prediction.path}: {prediction.error}", file=sys.stderr)
        if chosen.json:
            print(json.dumps(to_line(prediction, top=chosen.top), ensure_ascii=False), flush=True)
        elif prediction.error is None:
            likely = list(zip(prediction.classes, prediction.probs, strict=True))[: chosen.top]
            cells = [prediction.path, *(f"{name} {prob:.1%}" for name, prob in likely)]
            if console.is_terminal:
                for rank in range(len(table.columns), len(cells)):
                    table.add_column(f"top-{rank}")
                if prediction.targets == "multi":
                    table.caption = "each class by itself: several may apply"
                table.add_row(*map(escape, cells))
            else:
                print(*cells, sep="\t", flush=True)
    if table.row_count:
        console.print(table)
    if bad:
        print(f"t3d: {bad} of {len(paths)} videos could not be read", file=sys.stderr)
    return 1 if bad else 0


def _into(chosen: Namespace, paths: list[str], options: dict[str, Any]) -> int:
    """Write the predictions into a file."""
    from t3d.evaluation.bulk import PredictionFile, predictions
    from t3d.workers.pool import shown

    bad = 0
    with PredictionFile(chosen.out, weights=chosen.weights, top=chosen.top) as file:
        todo = file.missing(paths)
        coming = predictions(chosen.weights, todo, **options) if todo else iter(())
        for prediction in shown(coming, "predicting", len(todo)):
            file.add(prediction)
            if prediction.error is not None:
                bad += 1
                print(f"t3d: {prediction.path}: {prediction.error}", file=sys.stderr)
    counts = {"videos": len(set(paths)), "predicted": len(todo) - bad, "bad": bad}
    if chosen.json:
        print(json.dumps(counts))
    else:
        before = counts["videos"] - len(todo)
        told = f"{counts['predicted']} predicted now, {before} there before, {bad} could not be read"
        print(f"{chosen.out}: {counts['videos']} videos; {told}")
    return 1 if bad else 0
