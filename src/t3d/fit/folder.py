"""Folder of a fit: where everything is, and what a second call of the same fit reuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from glob import escape
from pathlib import Path
from typing import Any

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError
from t3d.fit.config import FitConfig
from t3d.io.files import atomic_path, refuse_url, sweep, writable_folder
from t3d.io.locks import alone_in
from t3d.training.run_folder import RunFolder

_FREE = ("minutes", "export", "overwrite", "compute", "cache")
"""Options that a second call may change: they decide how, not what."""
PARTS = ("train", "val", "test", "unlabeled", "held_out")
"""Lists of a fit, `NAME.csv`. `held_out` has the videos of `val` and `test`."""


class FitFolder:
    """Files of a fit.

    Args:
        path: Path of the folder.

    Attributes:
        replaces: Whether the fit in the folder is deleted when `start_over` is called.

    Raises:
        ConfigError: The path is a URL.
    """

    def __init__(self, path: str | Path) -> None:
        refuse_url(path)
        self.path = Path(path)
        self.options = self.path / "fit.json"
        self.plan = self.path / "plan.json"
        self.time = self.path / "time.json"
        self.result = self.path / "result.json"
        self.report = self.path / "report.html"
        self.indexes = self.path / "index"
        self.cache = self.path / "cache"
        self.candidates = self.path / "candidates"
        self.model = RunFolder(self.path / "model")
        self.replaces = False

    @property
    def index(self) -> str:
        """Pattern of all indexes of the fit."""
        return f"{escape(str(self.indexes))}/*.parquet"

    @property
    def trains(self) -> bool:
        """Return whether the training of a candidate has started."""
        return self.candidates.is_dir() and any(self.candidates.iterdir())

    def candidate(self, name: str) -> RunFolder:
        """Return the run folder of a candidate."""
        return RunFolder(self.candidates / name)

    def list_of(self, part: str) -> Path:
        """Return the list of the videos of a part."""
        return self.path / f"{part}.csv"

    def read_lists(self, classes: tuple[str, ...]) -> dict[str, Manifest]:
        """Read the lists of training, validation and test videos; empty if they are not written."""
        files = {part: self.list_of(part) for part in PARTS[:3]}
        return {
            part: Manifest.from_csv(file).with_classes(classes)
            for part, file in files.items()
            if file.is_file()
        }

    def write_lists(self, lists: Mapping[str, Manifest]) -> None:
        """Write lists of videos by part, all or none."""
        with ExitStack() as all_or_none:
            for part, videos in lists.items():
                videos.write_csv(all_or_none.enter_context(atomic_path(self.list_of(part))))

    def forget_lists(self) -> None:
        """Delete the lists, before another plan is written."""
        for part in PARTS:
            self.list_of(part).unlink(missing_ok=True)

    def seconds(self) -> float:
        """Return the seconds that earlier calls of this fit took."""
        return float(json.loads(self.time.read_text(encoding="utf-8"))) if self.time.is_file() else 0.0

    def add_seconds(self, seconds: float) -> None:
        """Add the seconds of a call."""
        total = self.seconds() + seconds
        with atomic_path(self.time) as temporary:
            temporary.write_text(json.dumps(round(total, 1)), encoding="utf-8")

    def finished(self, config: FitConfig) -> dict[str, Any] | None:
        """Return the result of a finished fit with the same options; None if there is none.

        Args:
            config: Options of the fit.
        """
        if not (self.result.is_file() and self.report.is_file() and self.options.is_file()):
            return None
        if self._changed(config):
            return None
        result: dict[str, Any] = json.loads(self.result.read_text(encoding="utf-8"))
        return result

    @contextmanager
    def opened(self, config: FitConfig) -> Iterator[None]:
        """Create the folder, or continue the fit in it, alone until the block ends.

        Raises:
            ConfigError: It holds other files, or a fit with other options.
        """
        if Path.cwd().is_relative_to(self.path.resolve()):
            raise ConfigError(
                f"out is {self.path}, the current folder or one above it; choose a folder within it"
            )
        writable_folder(self.path, name="out")
        with alone_in(self.options):
            others = [entry for entry in self.path.iterdir() if not entry.name.startswith(".")]
            if others and not self.options.is_file():
                raise ConfigError(
                    f"{self.path} holds {others[0].name} and other files that no fit wrote; choose another "
                    "`out`"
                )
            changed = self._changed(config) if self.options.is_file() else []
            self.replaces = config.overwrite and (bool(changed) or self.result.is_file())
            if changed and not config.overwrite and self.plan.is_file():
                name, before, now = changed[0]
                raise ConfigError(
                    f"{self.path} holds a fit with other options: {name} was {before}, now {now}. Choose "
                    "another `out`, or set `overwrite` to delete that fit"
                )
            sweep(self.path)
            if not self.replaces:
                self._write_options(config)
            yield

    def start_over(self, config: FitConfig) -> None:
        """Delete the fit that is replaced, except what is known about files."""
        if not self.replaces:
            return
        for entry in (self.result, self.report, self.plan, self.time, *map(self.list_of, PARTS)):
            entry.unlink(missing_ok=True)
        for folder in (self.model.path, self.candidates, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
        self._write_options(config)

    def _write_options(self, config: FitConfig) -> None:
        with atomic_path(self.options) as temporary:
            temporary.write_text(json.dumps(asdict(config), indent=2, ensure_ascii=False), "utf-8")

    def _changed(self, config: FitConfig) -> list[tuple[str, object, object]]:
        """Return the options that differ from those of the fit in the folder: name, before and now."""
        before: dict[str, Any] = json.loads(self.options.read_text(encoding="utf-8"))
        now: dict[str, Any] = json.loads(json.dumps(asdict(config)))
        return [
            (name, before.get(name), value)
            for name, value in now.items()
            if name not in _FREE and value != before.get(name)
        ]
