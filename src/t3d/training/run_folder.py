"""The folder of a training run: made once, never overwritten unasked, read again to resume."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from t3d.data.clips.dataset import BadVideo
from t3d.data.manifest.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError
from t3d.io.files import atomic_folder, atomic_path
from t3d.training.config import RunConfig, TrainConfig

Config = TypeVar("Config", bound=RunConfig)

_MARK = "# A run of: "


class RunFolder:
    """What a run leaves behind, by name.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.classes = self.path / "classes.txt"
        self.train_csv = self.path / "train.csv"
        self.val_csv = self.path / "val.csv"
        self.bad_csv = self.path / "bad.csv"
        self.log = self.path / "log.jsonl"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.weights = self.path / "model.safetensors"
        self.best = self.path / "best.safetensors"

    def refuse_existing(self, *, overwrite: bool) -> None:
        """Make sure that a new run would delete nothing that it may not.

        Raises:
            ConfigError: The folder holds something, and `overwrite` is off or it is no run; or it is the
                current folder or one above.
        """
        if Path.cwd().is_relative_to(self.path.resolve()):
            raise ConfigError(f"--out {self.path}: not the current folder nor one above; name one within it")
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        is_run = all(file.is_file() for file in (self.config, self.classes, self.train_csv))
        if not is_run:
            raise ConfigError(
                f"{self.path} exists and holds no run (config.yaml, classes.txt, train.csv); choose another "
                "--out: only runs are ever replaced"
            )
        if not overwrite:
            raise ConfigError(
                f"{self.path} exists and is never overwritten unasked; go on with its run by "
                f"{self.command()} --resume {self.path}, choose another --out, or replace it by "
                "--overwrite true"
            )

    def start(
        self, config: RunConfig, train: Manifest, val: Manifest | None, bad: Sequence[BadVideo]
    ) -> None:
        """Make the folder, whole or not at all, and write down what the run is made of.

        Raises:
            ConfigError: See `refuse_existing`; another run may have taken the folder in the meantime.
        """
        self.refuse_existing(overwrite=config.overwrite)
        with atomic_folder(self.path.resolve(), replace=True) as temporary:
            part = RunFolder(temporary)
            train.write_csv(part.train_csv)
            if val is not None:
                val.write_csv(part.val_csv)
            part.classes.write_text("".join(f"{name}\n" for name in train.classes), encoding="utf-8")
            part.add_bad({video.path: video.reason for video in bad})
            text = yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)
            part.config.write_text(f"{_MARK}{config.command}\n{text}", encoding="utf-8")

    def command(self) -> str:
        """The command that the folder is a run of."""
        with self.config.open(encoding="utf-8") as file:
            first = file.readline().rstrip("\n")
        return first.removeprefix(_MARK) if first.startswith(_MARK) else TrainConfig.command

    def read_config(self, kind: type[Config]) -> Config:
        """The options of the run.

        Args:
            kind: What they are: `TrainConfig` for a run of `t3d train`.

        Raises:
            CheckpointError: The folder holds no run.
            ConfigError: It is a run of another command, or its config.yaml was changed into something that
                cannot work.
        """
        if not self.config.exists():
            raise CheckpointError(f"{self.path}: no config.yaml here, so there is no run to resume")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(kind)
        if self.command() != kind.command:
            raise ConfigError(
                f"{self.path} is a run of {self.command()}; go on with it by "
                f"{self.command()} --resume {self.path}"
            )
        try:
            options = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            if not isinstance(options, dict):
                raise ConfigError(f"{self.config}: no table of options, such as `seed: 0`")
            values = parser.parse_object(options)
            return kind(**vars(parser.instantiate(values)))
        except (ArgumentError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.config}: {error}") from error

    def read_videos(self) -> tuple[Manifest, Manifest | None]:
        """The run's own training and validation videos, so that a resumed run sees what it saw before."""
        classes = self.classes.read_text(encoding="utf-8").split("\n")[:-1]
        train = Manifest.from_csv(self.train_csv).with_classes(classes)
        val = Manifest.from_csv(self.val_csv).with_classes(classes) if self.val_csv.exists() else None
        return train, val

    def add_bad(self, videos: Mapping[str, str]) -> None:
        """Name videos in `bad.csv` that could not be read, by path, with the reason."""
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
        """The videos that could not be read, by path, with the reason."""
        if not self.bad_csv.exists():
            return {}
        with self.bad_csv.open(newline="", encoding="utf-8") as file:
            return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def _plain(value: object) -> object:
    """Tuples as lists, which YAML knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
