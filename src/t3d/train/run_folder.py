"""The folder of a training run: made once, never overwritten unasked, read again to resume."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from t3d.data.dataset import BadVideo
from t3d.data.manifest import Manifest
from t3d.errors import CheckpointError, ConfigError
from t3d.files import atomic_path
from t3d.train.config import TrainConfig


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
            ConfigError: The folder holds something, and `overwrite` is off or it is no run.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not overwrite:
            raise ConfigError(
                f"{self.path} exists and is never overwritten unasked; go on with its run by "
                f"t3d train --resume {self.path}, choose another --out, or replace it by --overwrite true"
            )
        if not self.config.exists():
            raise ConfigError(f"{self.path} holds no run (no config.yaml); --overwrite replaces only runs")

    def start(
        self, config: TrainConfig, train: Manifest, val: Manifest | None, bad: Sequence[BadVideo]
    ) -> None:
        """Make the folder and write down what the run is made of."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        train.write_csv(self.train_csv)
        if val is not None:
            val.write_csv(self.val_csv)
        with atomic_path(self.classes) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in train.classes), encoding="utf-8")
        if bad:
            with (
                atomic_path(self.bad_csv) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                rows = csv.writer(file)
                rows.writerow(["path", "reason"])
                rows.writerows([video.path, video.reason] for video in bad)
        # Last: a folder with a configuration is a whole run.
        with atomic_path(self.config) as temporary:
            text = yaml.safe_dump(_plain(asdict(config)), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")

    def read_config(self) -> TrainConfig:
        """The options of the run.

        Raises:
            CheckpointError: The folder holds no run.
            ConfigError: Its config.yaml was changed into something that cannot work.
        """
        if not self.config.exists():
            raise CheckpointError(f"{self.path}: no config.yaml here, so there is no run to resume")
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(TrainConfig)
        try:
            values = parser.parse_object(yaml.safe_load(self.config.read_text(encoding="utf-8")))
            return TrainConfig(**vars(parser.instantiate_classes(values)))
        except (ArgumentError, yaml.YAMLError) as error:
            raise ConfigError(f"{self.config}: {error}") from error

    def read_videos(self) -> tuple[Manifest, Manifest | None]:
        """The run's own training and validation videos, so that a resumed run sees what it saw before."""
        classes = self.classes.read_text(encoding="utf-8").splitlines()
        train = Manifest.from_csv(self.train_csv).with_classes(classes)
        val = Manifest.from_csv(self.val_csv).with_classes(classes) if self.val_csv.exists() else None
        return train, val

    def read_bad(self) -> int:
        """How many videos the run left out as unreadable."""
        if not self.bad_csv.exists():
            return 0
        with self.bad_csv.open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.reader(file)) - 1


def _plain(value: object) -> object:
    """Tuples as lists, which YAML knows."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
