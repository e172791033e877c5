"""From a row of a table to the runs that it takes: recipe, row, step, scale and choices in one config.

The folder of a run is named by everything that its result depends on. Rows, and tables, that share a run (a
net trained on Kinetics) therefore share its folder, and a run with other options never takes its place.
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
from t3d.reproduce.config import SETS, Choices
from t3d.reproduce.sets import Part, Split, open_set, published_splits
from t3d.reproduce.tables import TARGET, PaperTable, Row, Step, read_recipe
from t3d.training.config import RunConfig, TrainConfig
from t3d.training.run_folder import RunFolder
from t3d.training.start import check_model
from t3d.transfer.config import TransferConfig

_LEAST_FRAMES = 4
_KINDS: Mapping[str, type[TrainConfig | TransferConfig]] = {"train": TrainConfig, "transfer": TransferConfig}
# What changes nothing but speed, memory and how often is written.
_NO_MATTER = (
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
        config: All its options.
        on: Its data set.
        part: Its videos.
    """

    config: TrainConfig | TransferConfig
    on: str
    part: Part

    @property
    def folder(self) -> RunFolder:
        """Where it is."""
        return RunFolder(self.config.out)

    @property
    def kind(self) -> Literal["train", "transfer"]:
        """What it is."""
        return "train" if isinstance(self.config, TrainConfig) else "transfer"

    @property
    def mark(self) -> Path:
        """A file that is there when the run is done."""
        return self.folder.path / "finished"


@dataclass(frozen=True)
class Trial:
    """A row on one split: runs in order, and the test of the last one's weights.

    Args:
        row: The row's name.
        on: Data set of the test.
        split: Its split.
        runs: In order; each starts from the weights of the one before.
        test: The videos of the test.
    """

    row: str
    on: str
    split: int
    runs: tuple[Run, ...]
    test: Part

    @property
    def folder(self) -> Path:
        """Where the test's result is."""
        name = f"test-{self.on}-{self.split}-{self.test.fingerprint[:8]}"
        return self.runs[-1].folder.path / name

    @property
    def metrics(self) -> Path:
        """A file that is there when the test is done."""
        return self.folder / "metrics.json"


def open_sets(table: PaperTable, rows: tuple[Row, ...], choices: Choices) -> dict[str, tuple[Split, ...]]:
    """Open every named data set that some rows use; of the others there are the published counts.

    Raises:
        ConfigError: A named set is not the paper's.
        ManifestError: Its videos or lists cannot be read, or are not whole.
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
    """The data sets that some rows use."""
    used = {step.on for row in rows for step in row.steps if step.on != TARGET}
    return [on for on in SETS if on in used or on in table.results]


def trials_of(
    table: PaperTable, row: Row, splits: Mapping[str, tuple[Split, ...]], choices: Choices
) -> tuple[Trial, ...]:
    """What a row takes: a trial for each data set and split of the table's accuracies.

    Raises:
        ConfigError: An option cannot work: a clip too small for its net, fewer videos than a batch has.
        ManifestError: The same.
    """
    trials = []
    for on in table.results:
        for split in splits[on]:
            runs: list[Run] = []
            for step in row.steps[:-1]:
                where = on if step.on == TARGET else step.on
                which = split if step.on == TARGET else splits[where][0]
                runs.append(_run(row, step, where, which, runs[-1] if runs else None, choices))
            assert split.test is not None  # YouTube-8M is no target
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
        teacher = {"name": choices.teacher, "weights": choices.teacher_weights}
        if choices.scale == "small":
            teacher["cache"] = str(choices.out / "features")
        options = merged(options, {"teacher": teacher})
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


def shrunk(options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A run's options at the small scale: another net of the family, fewer frames and pixels, few epochs.

    Args:
        options: Of the whole run, as nested tables.
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
    """Nested tables laid over one another; what comes later wins.

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
    for path in _NO_MATTER:
        inner = options
        for name in path[:-1]:
            inner = inner.get(name, {})
        inner.pop(path[-1], None)
    for name in ("train", "videos", "root"):  # the fingerprint stands for the videos, wherever they lie
        options["data"].pop(name, None)
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
            f"{where}: about {learned} of the {part.count} videos in {part.name} would be learned from, "
            f"fewer than a batch has ({config.optim.batch_size}); name a set with more videos"
        )


def learning(config: RunConfig, videos: int) -> int:
    """About how many videos are learned from, behind what is held out or unlabeled."""
    share = config.data.label_fraction if isinstance(config, TrainConfig) else 1.0
    return round(videos * (1 - config.data.val_fraction) * share)
