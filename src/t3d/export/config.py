"""Options of `t3d export`. Importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from t3d.errors import ConfigError, at_least, one_of
from t3d.evaluation.config import Reading
from t3d.runtime.formats import ENDINGS, FORMATS, Format

MIN_CALIBRATION = 32
"""Minimum number of videos to calibrate int8 with."""
MAX_CALIBRATION = 128
"""Maximum number of videos that are used to calibrate int8. More do not change the result much."""


@dataclass(frozen=True)
class ExportConfig:
    """Export of a model.

    Args:
        model: Weights file, or the folder of a finished training run (its best weights, else its last).
        format: `openvino` writes an .xml file with a .bin file next to it, `onnx` one .onnx file, `torch` a
            .pt2 file of torch.export.
        out: File to write. Default: next to the weights file, such as `best.xml`, or `best-int8.xml`.
        videos: Labeled videos, as in `t3d test`. The exported model is checked and tested on them. By default
            it is checked on clips of the run's training videos if they are there, else on random clips.
        int8: Videos to calibrate a model of 8-bit integers with: a list or folder of at least 32 videos,
            labeled or not. Use training videos. By default the model computes floating-point numbers.
        overwrite: Replace an existing file.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        workers: Processes that read videos. 0 reads them in this process.
        reading: How the videos are found and read.

    Raises:
        ConfigError: A value that cannot work.
    """

    model: str
    format: Format = "openvino"
    out: str | None = None
    videos: str | None = None
    int8: str | None = None
    overwrite: bool = False
    allow_unfinished: bool = False
    workers: int = 2
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        one_of("format", self.format, FORMATS)
        at_least("workers", self.workers, 0)
        if self.int8 is not None and self.format != "openvino":
            raise ConfigError(
                f"`int8` is set and `format` is {self.format}; only OpenVINO files can be int8: remove "
                "`int8`, or use format openvino"
            )
        if self.out is not None and Path(self.out).suffix.lower() != ENDINGS[self.format]:
            raise ConfigError(
                f"out is {self.out}; a file of format {self.format} must end in {ENDINGS[self.format]}"
            )
