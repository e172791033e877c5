"""Page of a training run: one self-contained HTML file in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.scores import Scores
from t3d.evaluation.scores_table import read_scores
from t3d.evaluation.task import measure
from t3d.io.files import content_digest
from t3d.report.pages import headline_figures, write_page
from t3d.report.pictures import Camera
from t3d.report.plots import validated_by
from t3d.report.sections import (
    MOST_CELLS,
    Bar,
    ResultSection,
    clip_text,
    curve_drawings,
    listed,
    made_of,
    result_section,
)
from t3d.training.config import TrainConfig
from t3d.training.logging import read_log
from t3d.training.run_folder import RunFolder
from t3d.transfer.config import TransferConfig
from t3d.transfer.metrics import held_out_text

_MOST_BAD = 50  # unreadable videos listed


def write_training(folder: str | Path, *, command: str = "") -> Path:
    """Write the page of a finished run of `t3d train` or `t3d transfer`.

    It shows the videos, the curves, the best validation with its confusion matrix and wrong answers, and how
    the run was made.

    Args:
        folder: The run folder.
        command: Command that made the run.

    Returns:
        The page: `report.html` in the folder.

    Raises:
        CheckpointError: The folder does not contain a run.
        ConfigError: An earlier version wrote the run.
        WriteError: The page cannot be written.
    """
    run = RunFolder(folder)
    if not run.config.is_file():
        raise CheckpointError(f"{run.path}: no config.yaml in this folder, so there is no run to show")
    transfer = run.command() == TransferConfig.command
    config: TrainConfig | TransferConfig
    config = run.read_config(TransferConfig) if transfer else run.read_config(TrainConfig)
    train, val = run.read_videos()
    log = read_log(run.log)
    bad = run.read_bad()
    scores = None
    if val is not None and run.val_scores_csv.exists() and not transfer:
        scores = read_scores(run.val_scores_csv, val, targets=train.targets)
    metrics = None if scores is None else measure(scores)
    headline, remarks = _headline(metrics, log, transfer=transfer)
    counts = train.class_counts() if train.classes else {}
    return write_page(
        run.path / "report.html",
        "training.html",
        title=f"{config.model.name} {'taught' if transfer else 'trained'} on {_name(config)}",
        headline=headline,
        remarks=remarks,
        figures=_figures(train, log, metrics),
        curves=curve_drawings(log, chance=None if metrics is None else metrics.chance),
        lists=_lists(train, val, bad),
        counts=_count_bars(counts),
        more_classes=max(0, len(counts) - MOST_CELLS),
        section=_section(metrics, scores, config),
        bad=[f"{path}: {reason}" for path, reason in list(bad.items())[:_MOST_BAD]]
        + ([f"… and {len(bad) - _MOST_BAD} more, see bad.csv"] if len(bad) > _MOST_BAD else []),
        made=made_of(command, _facts(run, config)),
        config=run.config.read_text(encoding="utf-8"),
    )


def _name(config: TrainConfig | TransferConfig) -> str:
    return Path(config.data.train if isinstance(config, TrainConfig) else config.data.videos).name


def _headline(
    metrics: Metrics | MultiMetrics | None, log: Sequence[dict[str, Any]], *, transfer: bool
) -> tuple[str, list[str]]:
    """Return the best validation in a sentence, and remarks about it."""
    lines = [line for line in log if line["kind"] == "val"]
    name = validated_by(lines)
    if transfer and lines:
        return f"Held-out videos at the end: {held_out_text(lines[-1])}.", []
    if not lines or name is None:
        return "There was no validation: test the model on videos that it has not seen.", []
    best = max(lines, key=lambda line: line[name])  # the first of equal ones, as the run chooses it
    note = (
        "These videos chose the epoch, so the figure is a little too high. Test the model on videos that it "
        "has not seen."
    )
    if metrics is None:
        return f"Best validation: epoch {best.get('epoch', '?')}, {best[name]:.1%}.", [note]
    return (
        f"Best validation, after epoch {best.get('epoch', '?')}: {metrics.headline()}",
        [*metrics.remarks(), note],
    )


def _figures(
    train: Manifest, log: Sequence[dict[str, Any]], metrics: Metrics | MultiMetrics | None
) -> list[tuple[str, str]]:
    figures = [] if metrics is None else headline_figures(metrics, clips=False)
    figures += [("training videos", f"{len(train):,}"), ("groups", f"{len(train.sources()):,}")]
    if train.classes:
        figures.append(("classes", f"{len(train.classes):,}"))
    epochs = [line["epoch"] for line in log if "epoch" in line]
    return [*figures, ("epochs", f"{max(epochs)}")] if epochs else figures


def _lists(train: Manifest, val: Manifest | None, bad: Mapping[str, str]) -> list[str]:
    """Say which videos the run used."""
    parts = {"training": train} | ({} if val is None else {"validation": val})
    sentences = [
        f"{len(part):,} {name} videos of {len(part.sources()):,} groups" for name, part in parts.items()
    ]
    unlabeled = int((~train.labeled).sum())
    if unlabeled:
        sentences[0] += f", {unlabeled:,} of them without a label"
    return [*sentences, f"{len(bad):,} that could not be read"] if bad else sentences


def _count_bars(counts: Mapping[str, int]) -> list[Bar]:
    """Return the number of training videos of each class, as bars."""
    most = max([*counts.values(), 1])
    bars = [Bar(name, count / most, f"{count:,}") for name, count in counts.items()]
    return bars[:MOST_CELLS]


def _section(
    metrics: Metrics | MultiMetrics | None, scores: Scores | None, config: TrainConfig | TransferConfig
) -> ResultSection | None:
    if metrics is None or scores is None:
        return None
    return result_section(metrics, scores, Camera(config.data.limits, config.data.image_fps))


def _facts(run: RunFolder, config: TrainConfig | TransferConfig) -> dict[str, object]:
    """Return what the run was made of: model, videos, clip, optimizer and digests."""
    optim, videos = config.optim, config.data.train if isinstance(config, TrainConfig) else config.data.videos
    lists = [file for file in (run.train_csv, run.val_csv, run.soft_csv) if file.exists()]
    weights = [file for file in (run.best, run.last) if file.exists()]
    facts: dict[str, object] = {
        "model": config.model.name,
        "initial weights": config.model.init or "random",
        "training list": listed(videos),
        "clip": clip_text(config.clip),
        "optimizer": (
            f"{optim.name}, peak rate {optim.lr:g}, {optim.schedule} schedule, {optim.epochs} epochs, batch "
            f"size {optim.batch_size}"
        ),
        "precision": config.precision,
        "seed": str(config.seed),
    }
    if isinstance(config, TransferConfig):
        facts |= {"teacher": config.teacher.name, "objective": config.pairs.objective}
        more = {"labels": config.labels.videos, "excluded": config.data.exclude}
    else:
        more = {"validation list": config.data.val, "soft labels": config.data.soft}
    facts |= {name: listed(path) for name, path in more.items() if path}
    return facts | {file.name: f"digest {content_digest(file)}" for file in (*lists, *weights)}
