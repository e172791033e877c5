"""Options of a probe. This module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from t3d.clip import TimePooling
from t3d.device import Compute
from t3d.errors import ConfigError, at_least
from t3d.evaluation.config import Reading
from t3d.transfer.teacher_clips import TeacherClips


@dataclass(frozen=True)
class ProbeConfig(TeacherClips):
    """Options of a linear classifier on the frozen features of a 3D model or of a 2D teacher.

    Args:
        train: Labeled videos to train on: a folder with one folder per class, a table (.csv, .tsv,
            .txt, .jsonl), an index (.parquet), or an official list.
        test: Labeled videos to test on, in any of the same forms. Classes are matched by name. Default: no
            test.
        soft: Table of class probabilities of more training videos, such as `soft.csv` of a transfer, or what
            `t3d predict` wrote. The classifier is fitted on labels and probabilities. Default: labels only.
        out: Run folder for the model, which `t3d test` and `t3d predict` accept, and for metrics.json,
            scores.csv and confusion.png. Default: nothing is written.
        model: Weights file of the 3D model, or the folder of a finished training run (its best weights, else
            its last). Set either `model` or `teacher`.
        source_pattern: Regular expression, searched in the path of each training video without its ending.
            The part in parentheses is the name of the recording or scene that the video was cut from: its
            group (column `source`). Default: the group in file names of known data sets, else each file is a
            group.
        label_fraction: Share of the training labels to use, above 0 and up to 1. Whole groups are drawn from
            each class.
        label_seed: Seed of the draw of labels.
        allow_unfinished: Accept the folder of an unfinished run, and use its best weights so far.
        overwrite: Delete the run in `out`, if there is one.
        reading: Options of finding and reading the videos.
        compute: Device, precision and batch size.

    Raises:
        ConfigError: A value is invalid, not exactly one of `model` and `teacher` is set, or an option of a
            teacher is set for a 3D model.
    """

    train: str
    test: str | None = None
    soft: str | None = None
    out: str | None = None
    model: str | None = None
    pooling: TimePooling = field(default="mean_std", kw_only=True)
    source_pattern: str | None = None
    label_fraction: float = 1.0
    label_seed: int = 0
    allow_unfinished: bool = False
    overwrite: bool = False
    reading: Reading = field(default_factory=Reading)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if (self.model is None) == (self.teacher is None):
            raise ConfigError("set either `model` (the weights file of a 3D model) or `teacher` (a 2D model)")
        if self.model is not None and (changed := self._changed_teacher_options()):
            raise ConfigError(
                f"{', '.join(f'`{name}`' for name in changed)} would have no effect: only a probe of a "
                "`teacher` uses this, and a 3D model has its own clip. Remove it, or set `teacher` instead "
                "of `model`"
            )
        super().__post_init__()
        if not 0 < self.label_fraction <= 1:
            raise ConfigError(
                f"label_fraction is {self.label_fraction}; it must be above 0 and at most 1, such as 0.1"
            )
        if self.out is None and self.test is None:
            raise ConfigError("set `test` (videos to test on), `out` (a folder for the model), or both")
        at_least("label_seed", self.label_seed, 0)

    def _changed_teacher_options(self) -> list[str]:
        """Return the names of the options that only a teacher uses, if they are not the defaults."""
        return [
            each.name
            for each in fields(self)
            if each.name in TeacherClips.__dataclass_fields__ and getattr(self, each.name) != each.default
        ]
