"""Predictions as rows of CSV, which a killed run resumes: one row per video, with all classes.

The columns are `path`, `start`, `end`, `prediction` (for several labels per video `predictions`), `clips`,
`weights` (digest of the weights file), `error`, and one per class. A video that could not be read has only
its reason in `error`. `t3d.data.soft_labels.read_soft_labels` reads these tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from t3d.clip import Targets
from t3d.data.manifest.labels import SEPARATOR
from t3d.errors import CheckpointError, ConfigError
from t3d.evaluation.scores import THRESHOLD
from t3d.evaluation.task import TASKS
from t3d.io.journal import JsonLines


class PredictionRows(JsonLines):
    r"""Form of a journal of predictions: CSV, one line per video.

    Args:
        classes: Class names of the model.
        targets: `single` for one label per video, `multi` for several.

    Raises:
        CheckpointError: A class name has a line break.

    Example:
        >>> rows = PredictionRows(("Jump", "Run"), "single")
        >>> classes = {"Run": 0.75, "Jump": 0.25}
        >>> rows.encode({"path": "a.mp4", "clips": 2, "classes": classes, "weights": "f"})
        b'a.mp4,,,Run,2,f,,0.25,0.75\n'
    """

    description = "a prediction"

    def __init__(self, classes: Sequence[str], targets: Targets) -> None:
        if wrong := [name for name in classes if _breaks(name)]:
            raise CheckpointError(
                f"the class name {wrong[0]!r} has a line break, which predictions as CSV cannot have; write "
                "a .jsonl file"
            )
        self.classes = tuple(classes)
        self.targets = targets
        prediction = TASKS[targets].columns[1]
        self.columns = ("path", "start", "end", prediction, "clips", "weights", "error", *classes)
        self.header = _line(self.columns)

    def refuse_breaks(self, paths: Iterable[str]) -> None:
        """Refuse paths with a line break, which would take two lines.

        Raises:
            ConfigError: A path has one.
        """
        if (wrong := next(filter(_breaks, paths), None)) is not None:
            raise ConfigError(
                f"{wrong!r} has a line break, which predictions as CSV cannot have; rename the file, or "
                "write a .jsonl file"
            )

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """Return the line of a record, as `t3d.evaluation.bulk.to_line` gives it, with its weights."""
        row = [record["path"], record.get("start"), record.get("end")]
        if "error" in record:
            reason = " ".join(record["error"].split()) or "unknown"
            return _line([*row, "", 0, record["weights"], reason, *[""] * len(self.classes)])
        probs: Mapping[str, float] = record["classes"]
        row += [self._predicted(probs), record["clips"], record["weights"], ""]
        return _line([*row, *(str(np.float32(probs[name])) for name in self.classes)])

    def decode(self, line: bytes) -> dict[str, Any] | None:
        """Return the record of a line; None if it has another form."""
        try:
            (row,) = csv.reader([line.decode()], strict=True)
            path, start, end, _, clips, weights, error, *shares = row
            record: dict[str, Any] = {"path": path, "weights": weights}
            record |= {name: float(time) for name, time in (("start", start), ("end", end)) if time}
            if error:
                return record | {"error": error}
            classes = dict(zip(self.classes, map(float, shares), strict=True))
            return record | {"clips": int(clips), "classes": classes}
        except (ValueError, csv.Error):
            return None

    def may_begin(self, line: bytes) -> bool:  # noqa: ARG002 (any text may begin a row)
        """Return whether an unfinished line may be the begin of a record: always, after the right header."""
        return True

    def _predicted(self, probs: Mapping[str, float]) -> str:
        if self.targets == "single":
            return max(probs, key=lambda name: probs[name])
        return SEPARATOR.join(name for name in self.classes if probs[name] >= THRESHOLD) or SEPARATOR


def _line(row: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue().encode()


def _breaks(text: str) -> bool:
    return "\n" in text or "\r" in text
