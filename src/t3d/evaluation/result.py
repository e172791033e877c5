"""Predictions of videos, as values that print, convert and show themselves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from t3d.clip import Targets
from t3d.errors import ConfigError, Failed, printable
from t3d.evaluation.timeline import Timeline

_SHOWN = 3  # classes in the text of a prediction
_BARS = 5  # classes with a bar in a notebook


@dataclass(frozen=True)
class ClipPrediction:
    """Classes and probabilities of one clip.

    Args:
        start: Time of its first frame, in seconds from the first frame of the file.
        end: Time at which its last frame ends.
        classes: Every class name, most probable first.
        probs: Their probabilities.
    """

    start: float
    end: float
    classes: tuple[str, ...]
    probs: tuple[float, ...]

    def top(self, k: int, *, threshold: float = 0.0) -> list[tuple[str, float]]:
        """Return the most probable classes, see `Prediction.top`."""
        return _top(self.classes, self.probs, k, threshold)


@dataclass(frozen=True, repr=False)
class Prediction:
    """Classes and probabilities of a video.

    `print(prediction)` shows the most probable classes. In a notebook, a prediction shows a picture of the
    video and bars.

    Args:
        path: The file, from the root.
        classes: Every class name, most probable first.
        probs: Their probabilities, mean over the clips.
        clips: Clips the video was cut into.
        targets: `single`: the probabilities sum to 1. `multi`: each is of that class alone.
        error: Why the video could not be read; then the other fields are empty.
        start: Start of the time span that was classified, in seconds; None for the file's beginning.
        end: End of the time span; None for the file's end.
        per_clip: The clips in their order; None if they were not asked for.

    Example:
        >>> prediction = Prediction("a.mp4", ("run", "jump"), (0.75, 0.25), clips=2)
        >>> prediction.label, prediction.probability
        ('run', 0.75)
        >>> prediction
        Prediction('a.mp4': run 75.0%, jump 25.0%)
        >>> print(prediction)
        a.mp4
          run   75.0%
          jump  25.0%
    """

    path: str
    classes: tuple[str, ...] = ()
    probs: tuple[float, ...] = ()
    clips: int = 0
    targets: Targets = "single"
    error: str | None = None
    start: float | None = None
    end: float | None = None
    per_clip: tuple[ClipPrediction, ...] | None = None

    @property
    def label(self) -> str:
        """The most probable class; empty if the video could not be read."""
        return self.classes[0] if self.classes else ""

    @property
    def probability(self) -> float:
        """Probability of the most probable class; NaN if the video could not be read."""
        return self.probs[0] if self.probs else math.nan

    @property
    def span(self) -> tuple[float | None, float | None] | None:
        """Return start and end of the time span; None for a whole file."""
        return None if self.start is None and self.end is None else (self.start, self.end)

    @property
    def name(self) -> str:
        """The file, and the time span if there is one."""
        if self.span is None:
            return self.path
        end = "" if self.end is None else f" to {self.end:g} s"
        return f"{self.path} from {self.start or 0:g} s{end}"

    def top(self, k: int, *, threshold: float = 0.0) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities.

        Args:
            k: Largest number of classes.
            threshold: Smallest probability of a class.
        """
        return _top(self.classes, self.probs, k, threshold)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values. The keys are the same for every prediction, so that a list makes a table.

        `per_clip` is missing if the clips were not asked for.
        """
        read = self.error is None
        values: dict[str, Any] = {
            "path": self.path,
            "start": self.start,
            "end": self.end,
            "label": self.label if read else None,
            "probability": self.probability if read else None,
            "clips": self.clips,
            "targets": self.targets,
            "classes": dict(zip(self.classes, self.probs, strict=True)),
            "error": self.error,
        }
        if self.per_clip is not None:
            values["per_clip"] = [
                {
                    "start": round(clip.start, 6),
                    "end": round(clip.end, 6),
                    "classes": dict(clip.top(len(clip.classes))),
                }
                for clip in self.per_clip
            ]
        return values

    def to_json(self) -> str:
        """Return `to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __str__(self) -> str:
        """Return the file and its most probable classes, one per line."""
        if self.error is not None:
            return f"{printable(self.name)}: {printable(self.error)}"
        rows = [(printable(name), f"{prob:.1%}") for name, prob in self.top(_SHOWN)]
        names, probs = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
        lines = [f"  {name:{names}}  {prob:>{probs}}" for name, prob in rows]
        return "\n".join([printable(self.name), *lines])

    def __repr__(self) -> str:
        """Return the file and its most probable classes on one line."""
        shown = ", ".join(f"{name} {prob:.1%}" for name, prob in self.top(_SHOWN))
        more = ", …" if len(self.classes) > _SHOWN else ""
        return f"Prediction({self.name!r}: {self.error or shown}{more})"

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: a picture of the video, and bars."""
        from t3d.evaluation.notebook import bars_html, frame_uri, text_html, titled

        if self.error is not None:
            return titled(self.name, text_html(self.error))
        note = "independent probabilities: several classes may apply" if self.targets == "multi" else ""
        picture = frame_uri(self.path, self.start, self.end)
        return titled(self.name, bars_html(self.top(_BARS), note=note, picture=picture))


def _top(classes: Sequence[str], probs: Sequence[float], k: int, threshold: float) -> list[tuple[str, float]]:
    pairs = zip(classes[:k], probs[:k], strict=True)
    return [(name, prob) for name, prob in pairs if prob >= threshold]


def to_table(results: Sequence[Prediction] | Sequence[Timeline | Failed]) -> pa.Table:
    """Return results as a table; its `to_pandas()` is a data frame.

    Args:
        results: Predictions, or timelines. Videos that could not be read have only their `error`.

    Returns:
        For predictions one row per video: `path`, `start`, `end`, `label`, `probability`, `clips`, `error`,
        and the probability of each class, named by the class. A class with the name of another column, such
        as `path`, has the column `class path`. For timelines one row per segment: `path`, `start`, `end`,
        `label`, `score`, `error`.

    Raises:
        ConfigError: Neither predictions nor timelines, or predictions of models with different classes.

    Example:
        >>> table = to_table([Prediction("a.mp4", ("run", "jump"), (0.75, 0.25), clips=2)])
        >>> table.column_names
        ['path', 'start', 'end', 'label', 'probability', 'clips', 'error', 'jump', 'run']
    """
    predictions = [each for each in results if isinstance(each, Prediction)]
    if len(predictions) == len(results):
        return _table_of_predictions(predictions)
    timelines = [each for each in results if isinstance(each, Timeline | Failed)]
    if len(timelines) < len(results):
        kinds = sorted({type(each).__name__ for each in results})
        raise ConfigError(
            f"got {', '.join(kinds)}; give a list of predictions, such as `Predictor.predict` returns, or a "
            "list of timelines"
        )
    rows: list[dict[str, Any]] = []
    for each in timelines:
        if isinstance(each, Failed):
            rows.append({"path": each.path, "error": each.reason})
        else:
            rows += [{"path": each.path, **vars(segment)} for segment in each.segments]
    return pa.Table.from_pylist(rows, schema=_SEGMENTS)


_TEXT, _NUMBER = pa.string(), pa.float64()
_SEGMENTS = pa.schema(
    {"path": _TEXT, "start": _NUMBER, "end": _NUMBER, "label": _TEXT, "score": _NUMBER, "error": _TEXT}
)
_PREDICTIONS = {
    "path": _TEXT,
    "start": _NUMBER,
    "end": _NUMBER,
    "label": _TEXT,
    "probability": _NUMBER,
    "clips": pa.int64(),
    "error": _TEXT,
}


def _table_of_predictions(predictions: Sequence[Prediction]) -> pa.Table:
    kinds = {tuple(sorted(each.classes)) for each in predictions if each.error is None}
    if len(kinds) > 1:
        first, second = sorted(kinds)[:2]
        raise ConfigError(
            f"the predictions are of models with different classes ({len(first)} and {len(second)} classes); "
            "make one table per model"
        )
    classes = next(iter(kinds), ())
    values = [each.to_dict() for each in predictions]
    columns = {name: pa.array([row[name] for row in values], kind) for name, kind in _PREDICTIONS.items()}
    for name in classes:
        column = f"class {name}" if name in _PREDICTIONS else name
        columns[column] = pa.array([row["classes"].get(name) for row in values], _NUMBER)
    return pa.table(columns)
