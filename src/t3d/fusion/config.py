"""Options of fusing and calibrating models. Importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from t3d.device import Compute
from t3d.errors import ConfigError
from t3d.evaluation.config import Reading


@dataclass(frozen=True)
class CalibrateConfig:
    """Options of calibrating a model.

    Args:
        model: Weights file, or folder of a finished run (its best weights, else its last).
        videos: Labeled videos that the model was not trained on: a folder with one folder per class, a table
            (.csv, .tsv, .txt, .jsonl) such as the `val.csv` of its run, or an index (.parquet). Do not use
            the videos of the final test.
        out: Weights file to write (.safetensors).
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        overwrite: Replace an existing file.
        reading: Options of finding and reading the videos.
        compute: Device, precision and batch size.

    Raises:
        ConfigError: `out` is not a .safetensors file.
    """

    model: str
    videos: str = field(kw_only=True)
    out: str = field(kw_only=True)
    allow_unfinished: bool = False
    overwrite: bool = False
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if not self.out.endswith(".safetensors"):
            raise ConfigError(f"out is {self.out}; a weights file must end in .safetensors")


@dataclass(frozen=True)
class FuseConfig:
    """Options of making one model of several.

    Args:
        models: Weights files, or folders of finished runs (their best weights, else their last).
        videos: Labeled videos that none of the models was trained on, to choose temperatures and weights: a
            folder with one folder per class, a table (.csv, .tsv, .txt, .jsonl), an index (.parquet), or an
            official list. Do not use the videos of the final test.
        out: Run folder for the fused model.
        allow_unfinished: Accept folders of unfinished runs, and use their best weights so far.
        overwrite: Delete the run in `out`, if there is one.
        reading: Options of finding and reading the videos.
        compute: Device, precision and batch size.

    Raises:
        ConfigError: There are fewer than 2 models, or one of them twice.
    """

    models: tuple[str, ...]
    videos: str = field(kw_only=True)
    out: str = field(kw_only=True)
    allow_unfinished: bool = False
    overwrite: bool = False
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        if len(self.models) < 2:
            raise ConfigError(f"models has {len(self.models)} model; give at least 2 run folders or files")
        if twice := [name for name in self.models if self.models.count(name) > 1]:
            raise ConfigError(f"models has {twice[0]} more than once; give each model once")
