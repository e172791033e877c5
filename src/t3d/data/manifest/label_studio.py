"""Read videos and labels that Label Studio exported: JSON and JSON-MIN.

An annotation of a video has regions of time with labels (`TimelineLabels`), or choices for the whole video
(`Choices`). Label Studio numbers frames from 1 and counts them by the frame rate of its `Video` tag, which an
export does not have; `label_studio_times.py` turns frames into seconds, and `label_studio_files.py` finds the
videos.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.listing import absolute, is_video
from t3d.data.manifest.checks import Refuse
from t3d.data.manifest.label_studio_files import VideoFinder, stored_path
from t3d.data.manifest.label_studio_times import FrameClock
from t3d.data.manifest.labels import SEPARATOR
from t3d.data.manifest.readers import Rows
from t3d.data.manifest.tables import checked_rows
from t3d.data.manifest.text_file import read_text
from t3d.data.manifest.text_table import say
from t3d.data.paths import strings
from t3d.errors import ManifestError

Kind = Literal["timelinelabels", "choices"]

_RATES = ("fps", "frame_rate", "framerate", "frameRate")
# JSON-MIN has the answers of a task after its `id` and before these.
_AFTER_ANSWERS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time")


@dataclass(frozen=True)
class _Region:
    """Labels of a video, or of a range of its frames.

    Args:
        kind: Kind of the control that gave the labels.
        question: Name of the control.
        labels: Class names.
        ranges: First and last frame of each range, counted from 1; None for an open end. Empty for the whole
            video.
    """

    kind: Kind
    question: str
    labels: tuple[str, ...]
    ranges: tuple[tuple[int | None, int | None], ...] = ()


@dataclass
class _Task:
    """A video with the regions of one annotation.

    Args:
        name: The task in messages.
        video: The video as Label Studio stored it.
        regions: Its labels.
        rate: Frames per second that Label Studio counted, if the export says it.
        annotations: Number of annotations. One of them is used.
        unused: Number of other regions, by kind.
    """

    name: str
    video: str
    regions: list[_Region] = field(default_factory=list)
    rate: float | None = None
    annotations: int = 0
    unused: Counter[str] = field(default_factory=Counter)


def read_label_studio(file: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> Rows:
    """Read an export; see `Manifest.from_label_studio`."""
    name = os.fspath(file)
    tasks = _tasks(name)
    labeled = [task for task in tasks if task.regions]
    if not labeled:
        raise ManifestError(
            f"{name}: none of {len(tasks)} tasks has an annotation with timeline labels or choices; label "
            "some videos in Label Studio, and export them as JSON or JSON-MIN"
        )
    kind, remarks = _used_kind(name, tasks)
    base = absolute(root) if root is not None else os.path.dirname(absolute(file))  # noqa: PTH120
    used = [task for task in labeled if any(region.kind == kind for region in task.regions)]
    paths = VideoFinder(base).find_all(name, [task.video for task in used])
    rows = _Rows(name, kind)
    clock = FrameClock(name)
    for task, path in zip(used, paths, strict=True):
        rows.add(task, path, clock)
    if clock.guessed:
        remarks.append(
            f"the frame rate of each file gives the seconds of {clock.guessed} videos; if the Video tag of "
            "Label Studio has another frameRate, write it as `fps` into the data of the tasks"
        )
    if skipped := len(tasks) - len(used):
        remarks.append(f"{skipped} tasks without such labels are left out")
    result = checked_rows(name, rows.columns(), rows.refuse, root, remarks)
    say(name, ["export of Label Studio", *remarks])
    return result


def _used_kind(name: str, tasks: Sequence[_Task]) -> tuple[Kind, list[str]]:
    """Return which labels are used: those of time ranges if there are any, else those of whole videos.

    Raises:
        ManifestError: Two controls have such labels.
    """
    regions = [region for task in tasks for region in task.regions]
    kind: Kind = "timelinelabels" if any(each.kind == "timelinelabels" for each in regions) else "choices"
    questions = sorted({region.question for region in regions if region.kind == kind})
    if len(questions) > 1:
        raise ManifestError(
            f"{name}: the labels are of {len(questions)} controls, {', '.join(map(repr, questions))}, and a "
            "list has one kind of labels; remove the results of the others from the export"
        )
    remarks: list[str] = []
    unused = sum((task.unused for task in tasks), Counter[str]())
    unused["choices"] += sum(region.kind != kind for region in regions)
    if +unused:
        listed = ", ".join(f"{count} {word}" for word, count in sorted((+unused).items()))
        remarks.append(f"not used: {listed}")
    several = sum(task.annotations > 1 for task in tasks)
    if several:
        remarks.append(
            f"of {several} videos with several annotations, the ground truth or the last one is used"
        )
    return kind, remarks


class _Rows:
    """Collects the rows of a list.

    Args:
        name: The export.
        kind: The labels that are used.
    """

    def __init__(self, name: str, kind: Kind) -> None:
        self._name, self._kind = name, kind
        self._labels: dict[tuple[str, float | None, float | None], list[str]] = {}
        self._tasks: list[str] = []

    def add(self, task: _Task, path: str, clock: FrameClock) -> None:
        """Add the labels of a task; those of one and the same time are joined."""
        for region in task.regions:
            if region.kind != self._kind:
                continue
            spans: list[tuple[float | None, float | None]] = [(None, None)]
            if region.ranges:
                spans = [
                    clock.seconds(path, first, last, rate=task.rate, task=task.name)
                    for first, last in region.ranges
                ]
            for span in spans:
                key = (path, *span)
                if key not in self._labels:
                    self._labels[key] = []
                    self._tasks.append(task.name)
                self._labels[key] += [label for label in region.labels if label not in self._labels[key]]

    def columns(self) -> dict[str, pa.Array]:
        """Return the columns of a table: `label`, or `labels` if a row has several."""
        paths, starts, ends = zip(*self._labels, strict=True)
        names = list(self._labels.values())
        columns = {
            "path": strings(list(paths)),
            "start": pa.array(starts, pa.float64()),
            "end": pa.array(ends, pa.float64()),
        }
        if all(len(each) == 1 for each in names):
            return columns | {"label": strings([each[0] for each in names])}
        wrong = [label for each in names for label in each if SEPARATOR in label]
        if wrong:
            raise ManifestError(
                f"{self._name}: the label {wrong[0]!r} contains {SEPARATOR}, which separates labels; "
                "rename it"
            )
        return columns | {"labels": strings([SEPARATOR.join(each) for each in names])}

    @property
    def refuse(self) -> Refuse:
        """Function that reports the first wrong rows with their tasks."""

        def refuse(wrong: pa.Array, why: str) -> None:
            at = pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist()
            if at:
                more = f" and {len(at) - 1} more" if len(at) > 1 else ""
                raise ManifestError(f"{self._name}, {self._tasks[at[0]]}{more}: {why}")

        return refuse


# --- the two forms of exports -----------------------------------------------------------------------------


def _tasks(name: str) -> list[_Task]:
    """Return the tasks of an export.

    Raises:
        ManifestError: The file is not one, or a task has no video.
    """
    try:
        records = json.loads(read_text(name).text)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name}: cannot be read as JSON ({error})") from error
    records = [records] if isinstance(records, dict) else records
    full = isinstance(records, list) and all(
        isinstance(each, dict) and isinstance(each.get("data"), dict) for each in records
    )
    small = isinstance(records, list) and all(
        isinstance(each, dict) and "annotation_id" in each for each in records
    )
    if not records or not (full or small):
        raise ManifestError(
            f"{name}: not an export of videos from Label Studio (JSON or JSON-MIN), the only lists that are "
            "read from .json files; tables are .csv, .txt or .jsonl"
        )
    return [_of_task(name, each) for each in records] if full else _of_small(name, records)


def _of_task(name: str, record: Mapping[str, Any]) -> _Task:
    task = _new_task(name, record.get("id"), record["data"])
    annotations = [
        each
        for each in record.get("annotations") or record.get("completions") or []
        if isinstance(each, dict) and not each.get("was_cancelled")
    ]
    task.annotations = len(annotations)
    if not annotations:
        return task
    chosen = next((each for each in annotations if each.get("ground_truth")), annotations[-1])
    for item in chosen.get("result") or []:
        value = item.get("value") or {}
        if task.rate is None and value.get("framesCount") and value.get("duration"):
            task.rate = float(value["framesCount"]) / float(value["duration"])
        kind = item.get("type")
        if kind == "timelinelabels" or kind == "choices":
            task.regions += _regions(kind, str(item.get("from_name")), value)
        else:
            task.unused[str(kind)] += 1
    return task


def _of_small(name: str, records: Sequence[Mapping[str, Any]]) -> list[_Task]:
    """Return the tasks of JSON-MIN, where each record is one annotation; the last one of a task is used."""
    latest: dict[Any, Mapping[str, Any]] = {}
    for number, record in enumerate(records):
        latest[record.get("id", f"record {number + 1}")] = record
    counts = Counter(record.get("id") for record in records)
    tasks = []
    for key, record in latest.items():
        keys = list(record)
        first = keys.index("id") + 1 if "id" in record else 0
        last = min((keys.index(each) for each in _AFTER_ANSWERS if each in record), default=len(keys))
        answers = keys[first:last] if first <= last else []
        data = {each: value for each, value in record.items() if each not in answers}
        task = _new_task(name, key, data)
        task.annotations = counts[record.get("id")]
        for question in answers:
            task.regions += _answers(question, record[question])
        tasks.append(task)
    return tasks


def _answers(question: str, value: object) -> Iterator[_Region]:
    """Yield the regions of an answer in JSON-MIN: a text, an object with `choices`, or a list of ranges."""
    if isinstance(value, str):
        yield _Region("choices", question, (value,))
    elif isinstance(value, dict):
        yield from _regions("choices", question, value)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, dict):
                yield from _regions("timelinelabels", question, each)


def _regions(kind: Kind, question: str, value: Mapping[str, Any]) -> Iterator[_Region]:
    labels = tuple(str(each).strip() for each in value.get(kind) or [])
    ranges = tuple((_frame(each.get("start")), _frame(each.get("end"))) for each in value.get("ranges") or [])
    if labels and (ranges or kind == "choices"):
        yield _Region(kind, question, labels, ranges)


def _frame(value: object) -> int | None:
    return round(value) if isinstance(value, int | float) else None


def _new_task(name: str, number: object, data: Mapping[str, Any]) -> _Task:
    """Return a task without labels.

    Raises:
        ManifestError: Its data does not have a video.
    """
    where = str(number) if str(number).startswith("record ") else f"task {number}"
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    videos = [value for value in texts.values() if is_video(stored_path(value))]
    if not videos and "video" in texts:
        videos = [texts["video"]]
    if len(set(videos)) != 1:
        what = f"several videos ({', '.join(videos)})" if videos else "no video"
        raise ManifestError(f"{name}, {where}: its data has {what}; each task must have one video file")
    rate = next((data[key] for key in _RATES if key in data), None)
    try:
        return _Task(where, videos[0], rate=None if rate is None else float(rate))
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{name}, {where}: fps is {rate!r}; it must be a number above 0") from error
