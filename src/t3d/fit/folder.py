"""Folder of a fit: where everything is, and what a second call of the same fit reuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError
from t3d.fit.config import FitConfig
from t3d.io.files import atomic_path, refuse_url, sweep, writable_folder
from t3d.io.locks import alone_in
from t3d.training.run_folder import RunFolder

_FREE = ("minutes", "export", "overwrite", "compute")
"""Options that a second call may change: they decide how, not what."""


class FitFolder:
    """Files of a fit.

    Args:
        path: Path of the folder.

    Raises:
        ConfigError: The path is a URL.
    """

    def __init__(self, path: str | Path) -> None:
        refuse_url(path)
        self.path = Path(path)
        self.options = self.path / "fit.json"
        self.plan = self.path / "plan.json"
        self.result = self.path / "result.json"
        self.report = self.path / "report.html"
        self.indexes = self.path / "index"
        self.cache = self.path / "cache"
        self.model = RunFolder(self.path / "model")
        self.test = self.path / "test"
        self.held_csv = self.path / "held_out.csv"

    @property
    def index(self) -> str:
        """Pattern of all indexes of the fit."""
        return str(self.indexes / "*.parquet")

    def candidate(self, name: str) -> RunFolder:
        """Return the run folder of a candidate."""
        return RunFolder(self.path / "candidates" / name)

    def list_of(self, part: str) -> Path:
        """Return the list of the videos of a part: `train`, `val` or `test`."""
        return self.path / f"{part}.csv"

    def read_lists(self, classes: tuple[str, ...]) -> dict[str, Manifest]:
        """Read the lists of an earlier call. Empty if it was interrupted before they were written."""
        files = {part: self.list_of(part) for part in ("train", "val", "test")}
        return {
            part: Manifest.from_csv(file).with_classes(classes)
            for part, file in files.items()
            if file.is_file()
        }

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
            if self.options.is_file():
                self._continue(config)
            sweep(self.path)
            with atomic_path(self.options) as temporary:
                temporary.write_text(json.dumps(asdict(config), indent=2, ensure_ascii=False), "utf-8")
            yield

    def _continue(self, config: FitConfig) -> None:
        """Delete the fit in the folder, or check that it is the same one.

        Options may change until it has a plan.
        """
        if config.overwrite:
            for entry in self.path.iterdir():
                if not entry.name.startswith("."):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            return
        before: dict[str, Any] = json.loads(self.options.read_text(encoding="utf-8"))
        now = json.loads(json.dumps(asdict(config)))
        changed = [name for name in now if name not in _FREE and now[name] != before.get(name)]
        if changed and self.plan.is_file():
            raise ConfigError(
                f"{self.path} holds a fit with other options: {changed[0]} was {before.get(changed[0])}, now "
                f"{now[changed[0]]}. Choose another `out`, or set `overwrite` to delete that fit"
            )
