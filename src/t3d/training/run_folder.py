"""Folder of a run: created at its start, replaced only with `overwrite`, read again to resume."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TypeVar, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import Probs, SoftLabels, read_soft_labels, target_probs, write_soft_labels
from t3d.errors import CheckpointError, ConfigError, Failed
from t3d.io.files import atomic_folder, atomic_path, refuse_url, sweep
from t3d.io.locks import alone_in, lock
from t3d.io.yaml_file import read_yaml
from t3d.training.config import RunConfig, TrainConfig
from t3d.training.errors import InterruptedRunError, RunExistsError, WrongCommandError
from t3d.training.old_names import refuse_old_names, with_current_values

Config = TypeVar("Config", bound=RunConfig)

_MARK = "# A run of: "


class RunFolder:
    """Files of a run.

    A run in start-up, or interrupted during it, has only its `config`. Its lists of videos are not written
    yet. During a run, only `checkpoint` has weights. `best` (if the run validates) and `last` are written
    together at the end. A finished run that is trained longer keeps them until then.

    Args:
        path: Path of the folder.

    Attributes:
        written: Whether `start` has written the run.
        replaced: Whether `start` has deleted another run for it.

    Raises:
        ConfigError: The path is a URL.
    """

    def __init__(self, path: str | Path) -> None:
        refuse_url(path)
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.classes = self.path / "classes.txt"
        self.train_csv = self.path / "train.csv"
        self.val_csv = self.path / "val.csv"
        self.val_scores_csv = self.path / "val_scores.csv"
        self.soft_csv = self.path / "soft.csv"
        self.bad_csv = self.path / "bad.csv"
        self.log = self.path / "log.jsonl"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.last = self.path / "last.safetensors"
        self.best = self.path / "best.safetensors"
        self.written = False
        self.replaced = False

    @property
    def undecided(self) -> bool:
        """True for a run in start-up, whose lists of videos are not written yet."""
        if not self.config.is_file() or not self._first_line().startswith(_MARK):
            return False
        files = (self.config, self.classes, self.val_csv, self.soft_csv, self.bad_csv)
        early = {file.name for file in files}
        return all(entry.name in early or entry.name.startswith(".") for entry in self.path.iterdir())

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Raise an error if a new run must not replace this folder.

        Raises:
            ConfigError: The folder is not empty and not a run, or it is the current folder or one above it.
            RunExistsError: The folder contains a run, and `overwrite` is off.
        """
        if Path.cwd().is_relative_to(self.path.resolve()):
            raise ConfigError(
                f"out is {self.path}, the current folder or one above it; choose a folder within it"
            )
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if self.undecided:  # nothing to lose
            return
        if not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file, not a run folder; choose another `out`")
        needed = (self.config, self.classes, self.train_csv)
        if missing := [file.name for file in needed if not file.is_file()]:
            raise ConfigError(
                f"{self.path} exists but is not a complete run (missing: {', '.join(missing)}); choose "
                "another `out`"
            )
        if not overwrite:
            raise RunExistsError(self.path, self.command())

    @contextmanager
    def starting(self, config: RunConfig) -> Iterator[None]:
        """Create the folder before the slow part of a start, and lock it until the block ends.

        The block calls `start`. If the block fails, a folder that this method created is deleted. If a signal
        interrupts it, the folder stays, and the run can be resumed. A run to replace is unchanged until
        `start`.

        Raises:
            ConfigError: See `refuse_existing`, or another run is starting in the folder or still running.
        """
        self.refuse_existing(overwrite=config.overwrite)
        known = self.undecided
        if not known and self.path.is_dir() and any(self.path.iterdir()):
            with self._unused():  # otherwise, the error would come after the slow part
                pass
            yield
            return
        with alone_in(self.log) if known else self._created(config):
            sweep(self.path)
            self._write_config(config.command, asdict(config))  # not those of another run that started here
            try:
                yield
            except InterruptedRunError:
                raise
            except Exception:
                if not known and self.undecided:
                    shutil.rmtree(self.path, ignore_errors=True)
                raise

    @contextmanager
    def _created(self, config: RunConfig) -> Iterator[None]:
        """Create the folder with only the options, and lock it until the block ends."""
        with self._new_folder() as part:
            part._write_config(config.command, asdict(config))
        held = lock(self.log, wait=True)  # another new run may hold the lock briefly, to find this folder
        assert held is not None
        with held:
            if not self.undecided:  # the other run found it early enough to start in it
                raise RunExistsError(self.path, self.command())
            yield

    def start(
        self,
        config: RunConfig,
        train: Manifest,
        val: Manifest | None,
        bad: Sequence[Failed],
        soft: Probs | None = None,
    ) -> None:
        """Write the options and videos of the run to the folder that `starting` created, or to a new one.

        Args:
            config: Options of the run.
            train: Training videos.
            val: Validation videos, or None.
            bad: Videos that could not be read.
            soft: Probability of each class for each training video, if some have soft labels.

        Raises:
            ConfigError: See `refuse_existing` (another run may have created the folder in the meantime), or
                the run to replace is still running.
        """
        self.refuse_existing(overwrite=config.overwrite)
        if self.undecided:
            self._write_videos(train, val, bad, soft)
        else:
            replaces = self.config.exists()
            with self._new_folder(replace=config.overwrite) as part:
                part._write_config(config.command, asdict(config))
                part._write_videos(train, val, bad, soft)
            self.replaced = replaces
        self.written = True

    @contextmanager
    def finished(
        self,
        command: str,
        options: Mapping[str, object],
        train: Manifest,
        bad: Sequence[Failed],
        *,
        val: Manifest | None = None,
        replace: bool = False,
    ) -> Iterator[RunFolder]:
        """Write a run that is already finished. The folder appears complete or not at all.

        Args:
            command: Command that made the run.
            options: Its options.
            train: Training videos.
            bad: Videos that could not be read.
            val: Validation videos, or None.
            replace: Replace an existing run.

        Yields:
            The folder that the block writes the other files into, such as `last`.
        """
        self.refuse_existing(overwrite=replace)
        with self._new_folder(replace=replace) as part:
            part._write_config(command, options)
            part._write_videos(train, val, bad)
            yield part

    @contextmanager
    def _new_folder(self, *, replace: bool = False) -> Iterator[RunFolder]:
        """Create the folder atomically, with everything that the block writes."""
        final = self.path.resolve()
        with suppress(
            OSError
        ):  # removes only an empty folder: another run may have created a folder in the meantime
            final.rmdir()
        with self._unused(), atomic_folder(final, replace=replace) as temporary:
            yield RunFolder(temporary)

    def _write_videos(
        self, train: Manifest, val: Manifest | None, bad: Sequence[Failed], soft: Probs | None = None
    ) -> None:
        """Write the lists of videos. The training list is written last and marks the lists as complete."""
        for file in (self.val_csv, self.soft_csv, self.bad_csv):  # left by a start that was interrupted here
            file.unlink(missing_ok=True)
        rows = ~train.labeled
        if soft is not None and rows.any():
            unlabeled = train.select(rows).without_labels()
            write_soft_labels(self.soft_csv, SoftLabels(unlabeled, train.classes, soft[rows]))
        if val is not None:
            val.write_csv(self.val_csv, extra=False)
        with atomic_path(self.classes) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in train.classes), encoding="utf-8")
        self.add_bad({video.path: video.reason for video in bad})
        train.write_csv(self.train_csv, extra=False)

    @contextmanager
    def resuming(self) -> Iterator[None]:
        """Lock the folder until the block ends, and delete incomplete files of killed processes.

        Raises:
            ConfigError: Another process is running the run, or resuming it.
        """
        with alone_in(self.log):
            sweep(self.path)
            yield

    @contextmanager
    def _unused(self) -> Iterator[None]:
        """Lock the folder against other processes during the block. A run holds the lock of its log."""
        with alone_in(self.log) if self.path.is_dir() else nullcontext():
            yield

    def command(self) -> str:
        """Return the command that started the run."""
        first = self._first_line()
        return first.removeprefix(_MARK) if first.startswith(_MARK) else TrainConfig.command

    def _first_line(self) -> str:
        with self.config.open(encoding="utf-8", errors="replace") as file:
            return file.readline().rstrip("\n")

    def read_config(self, kind: type[Config]) -> Config:
        """Read the options of the run.

        Args:
            kind: Class of the options: `TrainConfig` for a run of `t3d train`.

        Raises:
            CheckpointError: The folder does not contain a run.
            WrongCommandError: The run was started by another command.
            ConfigError: An earlier version wrote the run, or its config.yaml was changed and is invalid.
        """
        if not self.path.exists():
            raise CheckpointError(f"{self.path}: no such folder")
        if not self.config.exists():
            raise CheckpointError(f"{self.path}: no config.yaml in this folder, so there is no run to resume")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(kind)
        if self.command() != kind.command:
            raise WrongCommandError(self.path, self.command(), asked=kind.command)
        try:
            options = read_yaml(self.config)
            if not isinstance(options, dict):
                raise ConfigError(f"{self.config}: not a table of options, such as `seed: 0`")
            refuse_old_names(options, kind, where=self.config)
            if unknown := list(_unknown_options(options, kind)):
                raise ConfigError(
                    f"{self.config}: this version of t3d has no option {' or '.join(unknown)}; remove it "
                    "from the file if the run does not depend on it, or resume with the version that started "
                    "the run"
                )
            values = parser.parse_object(with_current_values(options))
            try:
                return kind(**vars(parser.instantiate(values)))
            except ConfigError as error:
                raise ConfigError(f"{self.config}: {error}") from error
        except (ArgumentError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.config}: {error}") from error

    def change_options(self, values: Mapping[str, object]) -> None:
        """Change options in config.yaml.

        Args:
            values: New values by dotted name, such as `optim.epochs`.
        """
        options = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        changed = deepcopy(options)
        for name, value in values.items():
            *groups, last = name.split(".")
            table = changed
            for group in groups:
                if not table.get(group):
                    table[group] = {}
                table = table[group]
            table[last] = value
        if changed != options:
            self._write_config(self.command(), changed)

    def _write_config(self, command: str, options: Mapping[str, object]) -> None:
        text = yaml.safe_dump(_plain(dict(options)), sort_keys=False, allow_unicode=True)
        with atomic_path(self.config) as temporary:
            temporary.write_text(f"{_MARK}{command}\n{text}", encoding="utf-8")

    def read_videos(self) -> tuple[Manifest, Manifest | None]:
        """Read the training and validation videos that the run saved at its start."""
        classes = self.classes.read_text(encoding="utf-8").split("\n")[:-1]
        train = Manifest.from_csv(self.train_csv).with_classes(classes)
        val = Manifest.from_csv(self.val_csv).with_classes(classes) if self.val_csv.exists() else None
        return train, val

    def read_soft(self, train: Manifest) -> Probs | None:
        """Read the soft labels that the run saved at its start.

        Args:
            train: Training videos, as `read_videos` returns them. Their unlabeled rows have soft labels.

        Returns:
            Probability of each class for each training video, float32 [N, K]. None if there are none.

        Raises:
            CheckpointError: The lists do not match, or the table is missing.
            ManifestError: The table of soft labels is damaged.
        """
        paths = train.select(~train.labeled).table["path"].to_pylist()
        if not self.soft_csv.exists():
            if paths and train.classes:  # a transfer without labels has no classes
                raise CheckpointError(
                    f"{self.soft_csv} is missing: the probabilities of {len(paths)} videos in "
                    f"{self.train_csv} that have no label; restore the file"
                )
            return None
        soft = read_soft_labels(self.soft_csv)
        if soft.classes != train.classes:
            raise CheckpointError(
                f"{self.soft_csv} has the classes {', '.join(soft.classes)}, but the classes of the run are "
                f"{', '.join(train.classes)}; restore the file"
            )
        if soft.videos.table["path"].to_pylist() != paths:
            raise CheckpointError(
                f"{self.soft_csv} lists {len(soft)} videos; it must list the {len(paths)} videos in "
                f"{self.train_csv} that have no label, in the same order. Restore both files"
            )
        return target_probs(train, soft.probs)

    def add_bad(self, videos: Mapping[str, str]) -> None:
        """Add videos that could not be read to `bad.csv`, by path, with the reason."""
        known = self.read_bad()
        if videos.keys() <= known.keys():
            return
        with (
            atomic_path(self.bad_csv) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            rows = csv.writer(file)
            rows.writerow(["path", "reason"])
            rows.writerows((known | dict(videos)).items())

    def read_bad(self) -> dict[str, str]:
        """Return the videos that could not be read, by path, with the reason."""
        if not self.bad_csv.exists():
            return {}
        with self.bad_csv.open(newline="", encoding="utf-8") as file:
            return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def _unknown_options(options: Mapping[str, object], kind: type) -> Iterator[str]:
    """Yield names in `options` that the dataclass `kind` does not have, with dots within its groups."""
    known = get_type_hints(kind)
    for name, value in options.items():
        if name not in known:
            yield str(name)
        elif is_dataclass(known[name]) and isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _unknown_options(value, known[name]))


def _plain(value: object) -> object:
    """Convert tuples to lists, which YAML supports."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
