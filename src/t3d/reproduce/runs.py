"""Runs of a table's row. Recipe, row, step, scale and choices become one config per run.

The name of a run folder depends on everything that affects the result. Rows and tables that share a run, such
as a model trained on Kinetics, therefore share its folder. A run with other options has another folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from t3d.errors import ConfigError, ManifestError
from t3d.recipes import read_recipe
from t3d.reproduce.config import SETS, Choices
from t3d.reproduce.sets import Part, Split, open_set, published_splits
from t3d.reproduce.tables import TARGET, PaperTable, Row, Step
from t3d.training.config import RunConfig, TrainConfig
from t3d.training.run_folder import RunFolder
from t3d.training.start import check_model
from t3d.transfer.config import TransferConfig

_LEAST_FRAMES = 4
_TEACHER = "torchvision:densenet121"  # of recipes that do not choose one
_KINDS: Mapping[str, type[TrainConfig | TransferConfig]] = {"train": TrainConfig, "transfer": TransferConfig}
# Options that affect only speed, memory and the frequency of output.
_IRRELEVANT = (
    ("out",),
    ("overwrite",),
    ("log_every",),
    ("checkpoint_minutes",),
    ("data", "workers"),
    ("data", "cache"),
    ("data", "cache_gb"),
    ("data", "index"),
    ("model", "grad_checkpointing"),
    ("teacher", "cache"),
)


@dataclass(frozen=True)
class Run:
    """One training or transfer.

    Args:
        config: All options.
        on: Data set.
        part: Videos.
    """

    config: TrainConfig | TransferConfig
    on: str
    part: Part

    @property
    def folder(self) -> RunFolder:
        """Run folder."""
        return RunFolder(self.config.out)

    @property
    def kind(self) -> Literal["train", "transfer"]:
        """Kind of the run: `train` or `transfer`."""
        return "train" if isinstance(self.config, TrainConfig) else "transfer"

    @property
    def mark(self) -> Path:
        """Path of a file that exists when the run is finished."""
        return self.folder.path / "finished"


@dataclass(frozen=True)
class Trial:
    """Row of a table on one split: the runs in order, and the test of the last weights.

    Args:
        row: Name of the row.
        on: Data set of the test.
        split: Split of the data set.
        runs: Runs in order. Each starts from the weights of the one before.
        test: Videos of the test.
    """

    row: str
    on: str
    split: int
    runs: tuple[Run, ...]
    test: Part

    @property
    def folder(self) -> Path:
        """Folder of the test result."""
        name = f"test-{self.on}-{self.split}-{self.test.fingerprint[:8]}"
        return self.runs[-1].folder.path / name

    @property
    def metrics(self) -> Path:
        """Path of the metrics file, which exists when the test is finished."""
        return self.folder / "metrics.json"


def open_sets(table: PaperTable, rows: tuple[Row, ...], choices: Choices) -> dict[str, tuple[Split, ...]]:
    """Open the data sets of some rows. Data sets that the user did not give have the published counts.

    Raises:
        ConfigError: A given data set is not the one of the paper.
        ManifestError: Its videos or lists cannot be read, or are incomplete.
    """
    opened = {}
    for on in sets_of(table, rows):
        numbers = table.results.get(on, (1,))
        given = choices.sets.get(on)
        small = choices.scale == "small"
        if given is None:
            opened[on] = published_splits(on, numbers, small=small)
        else:
            opened[on] = open_set(on, given, numbers, out=choices.out, small=small, partial=choices.partial)
    return opened


def sets_of(table: PaperTable, rows: tuple[Row, ...]) -> list[str]:
    """Return the names of the data sets that some rows use."""
    used = {step.on for row in rows for step in row.steps if step.on != TARGET}
    return [on for on in SETS if on in used or on in table.results]


def trials_of(
    table: PaperTable, row: Row, splits: Mapping[str, tuple[Split, ...]], choices: Choices
) -> tuple[Trial, ...]:
    """Return the trials of a row: one per data set and split of the table's accuracies.

    Raises:
        ConfigError: An option is invalid, such as a clip that is too small for its model.
        ManifestError: There are fewer videos than clips in a batch.
    """
    trials = []
    for on in table.results:
        for split in splits[on]:
            runs: list[Run] = []
            for step in row.steps[:-1]:
                where = on if step.on == TARGET else step.on
                part = split if step.on == TARGET else splits[where][0]
                runs.append(_run(row, step, where, part, runs[-1] if runs else None, choices))
            assert split.test is not None  # YouTube-8M is never a target
            trials.append(Trial(row.name, on, split.number, tuple(runs), split.test))
    return tuple(trials)


def _run(row: Row, step: Step, on: str, split: Split, before: Run | None, choices: Choices) -> Run:
    options = merged(read_recipe(step.recipe), {"model": {"name": row.net}, "clip": row.clip}, step.changes)
    if choices.scale == "small":
        options = shrunk(options, step.kind)
    data = {
        "root": split.train.root,
        "index": split.train.index,
        "workers": choices.workers,
        "cache": choices.cache,
    }
    if step.kind == "train":
        data |= {"train": split.train.name}
    else:
        data |= {"videos": split.train.name}
        options = merged(options, {"teacher": _teacher(options["teacher"], step, choices)})
        if step.labeled:  # those of the same list
            options = merged(options, {"labels": {"videos": split.train.name}})
    options = merged(
        options,
        {
            "out": "unnamed",
            "seed": choices.seed,
            "precision": choices.precision,
            "data": data,
            "model": {"grad_checkpointing": choices.grad_checkpointing},
            "optim": {"grad_accum_steps": choices.grad_accum_steps},
        },
    )
    if before is not None:
        options = merged(options, {"model": {"init": str(before.folder.last)}})
    where = f"{row.name}, {step.kind} on {on}"
    config = _config(step.kind, options, where)
    name = f"{step.kind}-{on}{split.number}-{row.net}-{_digest(config, split, before)}"
    _check(config, split.train, where)
    config = replace(config, out=str(choices.out / "runs" / name))
    return Run(config, on, split.train)


def _teacher(options: Mapping[str, Any], step: Step, choices: Choices) -> dict[str, Any]:
    """Return the choice of the teacher, and the folder of its features if they are stored."""
    teacher = {
        "name": choices.teacher or options.get("name", _TEACHER),
        "weights": choices.teacher_weights,
    }
    if choices.teacher_normalize is not None:
        teacher["normalize"] = choices.teacher_normalize
    if choices.scale == "small" or step.labeled:
        teacher["cache"] = str(choices.out / "features")
    return teacher


def shrunk(options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the options of a run at small scale: a smaller model, fewer frames and pixels, few epochs.

    Args:
        options: Options at full scale, as nested tables.
        kind: `train` or `transfer`.

    Example:
        >>> clip = {"num_frames": 32, "stride": 2, "size": 112, "resize": 128}
        >>> shrunk({"model": {"name": "t3d121"}, "clip": clip}, "train")["clip"]
        {'num_frames': 8, 'stride': 8, 'size': 32, 'resize': 37}
    """
    small = read_recipe("paper/small")
    clip = dict(options["clip"])
    frames = max(_LEAST_FRAMES, round(clip["num_frames"] * small["frames"]))
    clip["stride"] = round(clip["stride"] * clip["num_frames"] / frames)
    clip["num_frames"] = frames
    for name in ("size", "resize"):
        clip[name] = round(clip[name] * small["side"])
    model = small["nets"][options["model"]["name"]]
    return merged(options, {"clip": clip, "model": model}, small[kind])


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested tables. Later tables override earlier ones.

    Example:
        >>> merged({"optim": {"lr": 0.1, "epochs": 2}}, {"optim": {"lr": 0.2}})
        {'optim': {'lr': 0.2, 'epochs': 2}}
    """
    result: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            old = result.get(name)
            both = isinstance(value, Mapping) and isinstance(old, Mapping)
            result[name] = merged(old or {}, value) if both or isinstance(value, Mapping) else value
    return result


@cache
def _parser(kind: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(_KINDS[kind])
    return parser


def _config(kind: str, options: Mapping[str, Any], where: str) -> TrainConfig | TransferConfig:
    parser = _parser(kind)
    try:
        return _KINDS[kind](**vars(parser.instantiate(parser.parse_object(dict(options)))))
    except ArgumentError as error:
        raise ConfigError(f"{where}: {error}") from error


def _digest(config: RunConfig, split: Split, before: Run | None) -> str:
    options = asdict(config)
    for path in _IRRELEVANT:
        inner = options
        for name in path[:-1]:
            inner = inner.get(name, {})
        inner.pop(path[-1], None)
    for name in ("train", "videos", "root"):  # the fingerprint identifies the videos in any folder
        options["data"].pop(name, None)
    if options.get("labels", {}).get("videos"):  # the same list
        options["labels"]["videos"] = "videos"
    options["model"]["init"] = None if before is None else before.folder.path.name
    content = json.dumps([split.train.fingerprint, options], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=5).hexdigest()


def _check(config: RunConfig, part: Part, where: str) -> None:
    try:
        check_model(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    learned = learning(config, part.count)
    if learned < config.optim.batch_size:
        raise ManifestError(
            f"{where}: only about {learned} of the {part.count} videos in {part.name} are for training, "
            f"fewer than a batch has ({config.optim.batch_size}); use a data set with more videos"
        )


def learning(config: RunConfig, videos: int) -> int:
    """Return the approximate number of training videos, without held-out and unlabeled videos."""
    share = config.data.label_fraction if isinstance(config, TrainConfig) else 1.0
    return round(videos * (1 - config.data.val_fraction) * share)
