"""`t3d test`, `t3d probe` and `t3d predict`."""

from __future__ import annotations

import sys
from json import dumps
from typing import TYPE_CHECKING, Any, Literal, cast

from t3d.cli.options import spelled
from t3d.device import Compute
from t3d.errors import ConfigError
from t3d.workers.cluster import ONE_MACHINE, Cluster

if TYPE_CHECKING:
    from t3d.evaluation.run_test import Outcome


def evaluate(
    model: str,
    videos: str,
    *,
    root: str | None = None,
    frame_order: Literal["normal", "shuffled", "reversed", "static"] = "normal",
    tail: Literal["drop", "pad", "shift"] | None = None,
    clips: int | None = None,
    crops: int = 1,
    index: str | None = None,
    cache: str | None = None,
    max_bad: float = 0.01,
    seed: int = 0,
    out: str | None = None,
    json: bool = False,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
) -> int:
    """Test a trained model on labeled videos.

    Args:
        model: Weights file that a training run wrote.
        videos: Folder with one folder per class, `.csv` or `.jsonl` table, index, or official list.
        root: Folder that the files of a list or table are in.
        frame_order: Order of the frames in each clip. All but normal show how much of the accuracy depends on
            time.
        tail: Frames after the last whole clip, instead of the weights' own `clip.tail`.
        clips: Clips per video, spread evenly, which may overlap. Otherwise all that do not overlap.
        crops: Crops per clip: 1, 3, 5 or 10.
        index: Index of the files, written by `t3d prepare index`.
        cache: Folder for decoded frames.
        max_bad: Largest accepted share of unreadable videos.
        seed: Seed of shuffled frames.
        out: Folder for metrics.json, scores.csv and confusion.png.
        json: Print the metrics as JSON.
    """
    from t3d.evaluation.run_test import run_test

    result = run_test(
        model,
        videos,
        videos=root,
        frames=frame_order,
        tail=tail,
        clips=clips,
        crops=cast(Any, crops),
        index=index,
        cache=cache,
        max_bad=max_bad,
        seed=seed,
        **vars(compute),
    )
    return _show(result, out=out, json=json)


def _show(result: Outcome, *, out: str | None, json: bool) -> int:
    """Write and print the result of a test; 1 if some videos could not be read."""
    from t3d.report.result import print_result, write_result

    if out:
        write_result(result, out)
    if json:
        print(dumps(result.to_json(), ensure_ascii=False))
    else:
        print_result(result)
    return 1 if result.scores.bad else 0


def probe(
    train: str,
    test: str,
    *,
    model: str | None = None,
    teacher: str | None = None,
    teacher_weights: str | None = None,
    teacher_size: int | None = None,
    num_frames: int = 16,
    stride: int = 4,
    tail: Literal["drop", "pad", "shift"] = "shift",
    root: str | None = None,
    source_pattern: str | None = None,
    label_fraction: float = 1.0,
    label_seed: int = 0,
    index: str | None = None,
    cache: str | None = None,
    max_bad: float = 0.01,
    out: str | None = None,
    json: bool = False,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
) -> int:
    """Test a linear classifier on frozen features.

    Args:
        train: Labeled videos to train on: folder with one folder per class, `.csv` or `.jsonl` table, index,
            or official list.
        test: Labeled videos to test on.
        model: Weights file of a 3D model, such as a student after transfer.
        teacher: Use a 2D model instead: timm or torchvision name, or `.onnx` file.
        teacher_weights: `.safetensors` file for the teacher.
        teacher_size: Side of the square that the teacher sees, in pixels.
        num_frames: Frames per clip, with `teacher`.
        stride: Distance between frames of a clip in frames of the video, with `teacher`.
        tail: Frames after the last whole clip, with `teacher`.
        root: Folder that the files of lists and tables are in.
        source_pattern: Regular expression whose group names the source of a training video.
        label_fraction: Share of the training labels to use.
        label_seed: Seed of the choice of labels.
        index: Index of the files, written by `t3d prepare index`.
        cache: Folder for decoded frames.
        max_bad: Largest accepted share of unreadable videos.
        out: Folder for metrics.json, scores.csv and confusion.png.
        json: Print the metrics as JSON.
    """
    from t3d.transfer.probe import run_probe

    result = run_probe(
        train,
        test,
        weights=model,
        teacher=teacher,
        teacher_weights=teacher_weights,
        teacher_size=teacher_size,
        num_frames=num_frames,
        stride=stride,
        tail=tail,
        videos=root,
        source_pattern=source_pattern,
        label_fraction=label_fraction,
        label_seed=label_seed,
        index=index,
        cache=cache,
        max_bad=max_bad,
        **vars(compute),
    )
    return _show(result, out=out, json=json)


@spelled(metavars={"videos": "VIDEO"})
def predict(
    model: str,
    videos: list[str] | None = None,
    *,
    index: str | None = None,
    top: int = 3,
    out: str | None = None,
    json: bool = False,
    compute: Compute = Compute(),  # noqa: B008 (frozen)
    cluster: Cluster = ONE_MACHINE,
) -> int:
    """Classify videos.

    Prints a table or JSON, or writes a JSONL file. The exit status is 1 if some videos could not be read.

    Args:
        model: Weights file that a training run wrote.
        videos: Video files, or folders of them. Not needed with `index`.
        index: Index of the files or shards. Without VIDEO, all of its videos are classified.
        top: Number of classes to show.
        out: `.jsonl` file to write. The same command resumes an interrupted one.
        json: Print one JSON object per video.
    """
    from t3d.data.catalog import open_manifest
    from t3d.data.manifest.manifest import Manifest

    if top < 1:
        raise ConfigError(f"top is {top}; it must be at least 1")
    if index and not videos:
        paths = list(dict.fromkeys(open_manifest(index).table["path"].to_pylist()))
    else:
        paths = Manifest.from_files(videos or []).table["path"].to_pylist()
    options: dict[str, Any] = vars(compute) | {"index": index, "cluster": cluster}
    if out:
        return _into_file(model, paths, options, out=out, top=top, json=json)
    return _to_screen(model, paths, options, top=top, json=json)


def _to_screen(model: str, paths: list[str], options: dict[str, Any], *, top: int, json: bool) -> int:
    """Print a table for eyes; for other programs one line per video as soon as it is known."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from t3d.evaluation.bulk import predictions, to_line

    bad = 0
    console = Console()
    table = Table(Column("video", overflow="fold"))
    for prediction in predictions(model, paths, **options):
        if prediction.error is not None:
            bad += 1
            print(f"t3d: {prediction.path}: {prediction.error}", file=sys.stderr)
        if json:
            print(dumps(to_line(prediction, top=top), ensure_ascii=False), flush=True)
        elif prediction.error is None:
            likely = list(zip(prediction.classes, prediction.probs, strict=True))[:top]
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


def _into_file(
    model: str, paths: list[str], options: dict[str, Any], *, out: str, top: int, json: bool
) -> int:
    """Write the predictions into a file, and print how many there are."""
    from t3d.evaluation.bulk import PredictionFile, predictions
    from t3d.workers.pool import shown

    bad = 0
    with PredictionFile(out, weights=model, top=top) as file:
        todo = file.missing(paths)
        coming = predictions(model, todo, **options) if todo else iter(())
        for prediction in shown(coming, "predicting", len(todo)):
            file.add(prediction)
            if prediction.error is not None:
                bad += 1
                print(f"t3d: {prediction.path}: {prediction.error}", file=sys.stderr)
    counts = {"videos": len(set(paths)), "predicted": len(todo) - bad, "bad": bad}
    if json:
        print(dumps(counts))
    else:
        before = counts["videos"] - len(todo)
        print(
            f"{out}: {counts['videos']} videos; {counts['predicted']} predicted now, {before} already there, "
            f"{bad} could not be read"
        )
    return 1 if bad else 0
