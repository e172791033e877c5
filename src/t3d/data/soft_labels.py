"""Soft labels: the probability of each class, per video, as an ordinary table.

`t3d predict` and `t3d test` write such tables, and `t3d train` and `t3d probe` learn from them.

Legend: N videos, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import LABEL, not_classes_of
from t3d.data.manifest.tables import checked_rows
from t3d.data.manifest.text_table import refusing, say
from t3d.data.paths import relative_to
from t3d.data.soft_tables import SoftTable, read_csv, read_jsonl
from t3d.errors import ManifestError
from t3d.io.files import atomic_path

Probs = npt.NDArray[np.float32]

TOLERANCE = 1e-3
"""Largest difference of a sum of probabilities from 1. A table may hold rounded probabilities."""
_EXACT = 1e-6  # a sum of float32 values this near to 1 is not changed, so that tables are read back exactly


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Videos with a probability for each class.

    Args:
        videos: The videos, without labels, N rows.
        classes: Class names, K.
        probs: Probabilities, [N, K]. Rows sum to 1 within 1e-3, and are then made to sum to 1. Stored as
            float32, read-only.
        failed: Number of videos that the table names without probabilities, because they could not be read.
        grouped: Whether the table itself names the group (`source`) of its videos.

    Raises:
        ManifestError: The shapes do not match, a class name is repeated, the videos have labels, or a row is
            not a distribution over the classes.

    Example:
        >>> soft = SoftLabels(Manifest.from_files(["a.mp4"]), ("Jump", "Run"), np.array([[0.25, 0.75]]))
        >>> soft
        SoftLabels(1 video, 2 classes)
    """

    videos: Manifest
    classes: tuple[str, ...]
    probs: Probs
    failed: int = 0
    grouped: bool = False

    def __post_init__(self) -> None:
        classes, probs = tuple(self.classes), np.array(self.probs, dtype=np.float64)
        if probs.shape != (len(self.videos), len(classes)):
            raise ManifestError(
                f"{len(self.videos)} videos and {len(classes)} classes need probabilities of shape "
                f"[{len(self.videos)}, {len(classes)}]; got {list(probs.shape)}"
            )
        if len(set(classes)) < len(classes):
            raise ManifestError(f"class names must differ; got {', '.join(map(repr, classes))}")
        if self.videos.labeled.any():
            raise ManifestError("videos with soft labels must not have labels; call without_labels() first")
        if (wrong := wrong_row(probs, classes)) is not None:
            raise ManifestError(f"row {wrong[0]}: {wrong[1]}")
        sums = probs.sum(axis=1, keepdims=True)
        rounded = np.where(np.abs(sums - 1) > _EXACT, probs / sums, probs).astype(np.float32)
        rounded.flags.writeable = False
        object.__setattr__(self, "videos", self.videos.without_labels())
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "probs", rounded)

    def __len__(self) -> int:
        """Count the videos."""
        return len(self.videos)

    def __repr__(self) -> str:
        videos = "1 video" if len(self) == 1 else f"{len(self)} videos"
        return f"SoftLabels({videos}, {len(self.classes)} class{'' if len(self.classes) == 1 else 'es'})"

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> SoftLabels:
        """Select videos, as `Manifest.select` does.

        Args:
            indices: Rows in the wanted order, or a mask, bool [N].
        """
        picked = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else np.int64)]
        return replace(self, videos=self.videos.select(picked), probs=self.probs[picked])

    def with_classes(self, classes: Sequence[str], *, name: str = "", owner: str = "the model") -> SoftLabels:
        """Order the probabilities by another list of classes, matched by name. Added classes get 0.

        Args:
            classes: Class names, such as those of a model.
            name: Name of the table in the message.
            owner: What has these classes, in the message.

        Raises:
            ManifestError: The table has a class that is not among them.
        """
        column = {label: number for number, label in enumerate(classes)}
        if unknown := [label for label in self.classes if label not in column]:
            raise ManifestError((f"{name}: " if name else "") + not_classes_of(owner, unknown, classes))
        probs = np.zeros((len(self), len(classes)), np.float32)
        probs[:, [column[label] for label in self.classes]] = self.probs
        return replace(self, classes=tuple(classes), probs=probs)


def wrong_row(probs: npt.NDArray[np.float64], classes: Sequence[str]) -> tuple[int, str] | None:
    """Find the first row that is not a distribution over the classes.

    Args:
        probs: Probabilities, [N, K].
        classes: Class names, K.

    Returns:
        The row and what is wrong with it. None if all rows are right.
    """
    sums = probs.sum(axis=1)
    with np.errstate(invalid="ignore"):
        cells = ~np.isfinite(probs) | (probs < 0) | (probs > 1 + TOLERANCE)
        wrong = cells.any(axis=1) | ~(np.abs(sums - 1) <= TOLERANCE)
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    if cells[row].any():
        column = int(cells[row].argmax())
        value = float(probs[row, column])
        shown = "missing or not a number" if not np.isfinite(value) else f"{value:g}"
        percent = "; divide percentages by 100" if 1 < value <= 100 else ""
        return row, f"the probability of {classes[column]!r} is {shown}; it must be from 0 to 1{percent}"
    return row, (
        f"the probabilities of the {len(classes)} classes sum to {sums[row]:.6g}; they must sum to 1. If the "
        "table has only the most probable classes, write all of them: run t3d predict again with a new file "
        "and without `top`"
    )


def read_soft_labels(
    file: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
) -> SoftLabels:
    """Read a table of class probabilities per video.

    Tables with these forms are read. Videos that could not be read are passed over, and counted in `failed`.

    - the JSON Lines or CSV file that `t3d predict` wrote, with all classes
    - scores.csv, which `t3d test` wrote
    - any CSV with a column `path`, if wanted `start`, `end` (seconds) and `source`, and one column of
      probabilities per class. The columns `label`, `prediction`, `clips`, `weights` and `error` are not
      classes and are not used.

    Args:
        file: The table. If its name ends in `.jsonl`, it is JSON Lines, else CSV.
        root: Folder that relative paths start from; without it, the table's own folder.

    Raises:
        ManifestError: With the line: a wrong path, span or probability, a repeated video, other classes than
            on other lines, or several labels per video. The table has no column of a class, or no row.

    Example:
        >>> read_soft_labels("pool.jsonl")  # doctest: +SKIP
        SoftLabels(831 videos, 11 classes)
    """
    name = os.fspath(file)
    table = (read_jsonl if Path(name).suffix.lower() == ".jsonl" else read_csv)(name)
    refuse = refusing(name, lambda: ((line, {}) for line in table.lines()))
    _refuse_wrong(name, table)
    remarks: list[str] = []
    rows = checked_rows(name, dict(table.columns), refuse, root, remarks)
    say(name, remarks)
    return SoftLabels(
        Manifest.from_rows(rows),
        table.classes,
        table.probs.astype(np.float32),
        failed=table.failed,
        grouped="source" in table.columns,
    )


def _refuse_wrong(name: str, table: SoftTable) -> None:
    """Raise an error with the line of the first row that is not a distribution over the classes."""
    if (wrong := wrong_row(table.probs, table.classes)) is None:
        return
    row, reason = wrong
    line = next(line for number, line in enumerate(table.lines()) if number == row)
    raise ManifestError(f"{name}, line {line}: {reason}")


def write_soft_labels(path: str | os.PathLike[str], soft: SoftLabels) -> None:
    """Write a CSV table that `read_soft_labels` reads back with the same float32 values.

    The columns are `path`, `start`, `end`, `source` and one per class. Files below the table's folder are
    written relative to it. The table is written completely or not at all.

    Args:
        path: The table to write; an existing one is replaced.
        soft: The videos and their probabilities.

    Raises:
        WriteError: It cannot be written, since the disk is full for example.
    """
    target = Path(path).absolute()
    rows = soft.videos.table
    columns = [relative_to(rows["path"].combine_chunks(), str(target.parent))]
    columns += [rows[name] for name in ("start", "end", "source")]
    columns += [pa.array(soft.probs[:, number]) for number in range(len(soft.classes))]
    table = pa.Table.from_arrays(columns, names=["path", "start", "end", "source", *soft.classes])
    with atomic_path(target) as temporary, temporary.open("wb") as stream:
        pyarrow.csv.write_csv(table, stream)


def joined_with(labeled: Manifest, soft: SoftLabels) -> tuple[Manifest, Probs]:
    """Join labeled videos with videos that have soft labels. A labeled video keeps its label.

    Args:
        labeled: Videos with one label each.
        soft: Videos with soft labels, of the same classes or some of them. Those with the same path and time
            span as a labeled one are left out.

    Returns:
        The labeled videos, followed by the others, unlabeled, with the classes of `labeled`; and the
        probabilities of all of them, float32 [N, K], 1 for the class of a labeled video.

    Raises:
        ManifestError: A row of `labeled` is unlabeled, the videos may have several labels each, or the soft
            labels have other classes.
    """
    if not labeled.labeled.all():
        raise ManifestError(f"row {int(labeled.labeled.argmin())} of the labeled videos has no label")
    classes = labeled.classes
    soft = soft.with_classes(classes, name="soft labels", owner="the labeled videos")
    known = set(video_keys(labeled))
    soft = soft.select(np.array([key not in known for key in video_keys(soft.videos)], dtype=np.bool_))
    unlabeled = soft.videos.table.set_column(
        LABEL, labeled.table.schema.field(LABEL), pa.nulls(len(soft), pa.int32())
    )
    videos = Manifest(classes, pa.concat_tables([labeled.table, unlabeled]))
    return videos, target_probs(videos, soft.probs)


def target_probs(videos: Manifest, probs: Probs) -> Probs:
    """Return the probabilities of all rows: 1 for the class of a labeled row, else those given.

    Args:
        videos: Videos with one label each or none, N rows.
        probs: Probabilities of the unlabeled rows, in their order.

    Returns:
        float32 [N, K].

    Raises:
        ManifestError: The videos may have several labels each.
    """
    labels = videos.labels
    targets = np.zeros((len(videos), len(videos.classes)), np.float32)
    targets[labels < 0] = probs
    targets[np.flatnonzero(labels >= 0), labels[labels >= 0]] = 1
    return targets


def video_keys(videos: Manifest) -> list[tuple[str, float | None, float | None]]:
    """Return path, start and end of each row."""
    return list(zip(*(videos.table[name].to_pylist() for name in ("path", "start", "end")), strict=True))
