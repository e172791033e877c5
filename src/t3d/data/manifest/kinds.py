"""The two kinds of labels: each video shows one class, or any number of them.

A manifest holds one `Labels`, which answers every question whose answer depends on the kind.

Legend: N rows, M labels of all rows together, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.clip import Targets
from t3d.data.manifest.labels import join_names, label_pairs, mapped, multi_hot
from t3d.data.manifest.split import label_share, source_share
from t3d.errors import ManifestError


@dataclass(frozen=True)
class Labels(ABC):
    """The labels of the rows of a manifest.

    Args:
        column: Index of the class of each row, int32 [N], or of all classes of each row, list<int32> [N].
        classes: Class names, K.
    """

    column: pa.Array
    classes: tuple[str, ...]

    targets: ClassVar[Targets]
    name: ClassVar[str]
    """The column of tables."""
    description: ClassVar[str]
    min_classes: ClassVar[int]
    """Fewest classes that a model can learn to tell apart."""
    every_class_needed: ClassVar[bool]
    """True if each class must have a video in every part of a split."""

    @classmethod
    def of(cls, column: pa.Array, classes: tuple[str, ...]) -> Labels:
        """Return the labels in a column of either kind."""
        return (SeveralLabels if pa.types.is_list(column.type) else OneLabel)(column, classes)

    def fits(self, targets: Targets) -> bool:
        """Return whether these labels are of a kind."""
        return self.targets == targets

    @abstractmethod
    def entry(self, row: int) -> tuple[int | None, tuple[int, ...] | None]:
        """Return the fields `label` and `labels` of a manifest's entry."""

    @abstractmethod
    def one_each(self) -> npt.NDArray[np.int64]:
        """Return the class of each row, -1 where there is none, int64 [N].

        Raises:
            ManifestError: The videos have several labels each.
        """

    @abstractmethod
    def vector(self, row: int) -> int | npt.NDArray[np.float32]:
        """Return what a model learns of a row.

        One class: its index, or -1. Several: float32 [K], 1 where a class applies, else 0; NaN if the row is
        unlabeled.
        """

    @abstractmethod
    def renumbered(self, new: pa.Array) -> pa.Array:
        """Return the column with class i as `new[i]`, int32 [K]."""

    @abstractmethod
    def names(self) -> pa.Array:
        """Return the class names of each row: string [N], or list<string> [N]."""

    @abstractmethod
    def text(self) -> pa.Array:
        """Return the class names of each row as a table holds them, string [N]."""

    @abstractmethod
    def share(self, sources: pa.Array, *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
        """Draw a share of the rows as whole sources, as if no more had been labeled, bool [N].

        Args:
            sources: The source of each row, string [N].
            fraction: Share, above 0, up to 1.
            seed: Seed of the draw, not negative.
        """

    def pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return each label of each row, and -1 once for a row without: rows and labels, int64 [M] each."""
        return label_pairs(self.column)

    def multi_hot(self) -> npt.NDArray[np.int8]:
        """Return 1 where a class applies, else 0; -1 in unlabeled rows; int8 [N, K]."""
        return multi_hot(self.column, len(self.classes))


class OneLabel(Labels):
    """Each video shows one class out of all."""

    targets = "single"
    name = "label"
    description = "one label per video (column label)"
    min_classes = 2
    every_class_needed = True

    def fits(self, targets: Targets) -> bool:
        """Return whether these labels are of a kind; a column without labels is of both."""
        return super().fits(targets) or self.column.null_count == len(self.column)

    def entry(self, row: int) -> tuple[int | None, tuple[int, ...] | None]:
        """Return the class of a row, and None."""
        return self.column[row].as_py(), None

    def one_each(self) -> npt.NDArray[np.int64]:
        """Return the class of each row, -1 where there is none, int64 [N]."""
        return np.array(pc.fill_null(self.column, -1).cast(pa.int64()).to_numpy())

    def vector(self, row: int) -> int | npt.NDArray[np.float32]:
        """Return the class of a row, or -1."""
        label, _ = self.entry(row)
        return -1 if label is None else label

    def renumbered(self, new: pa.Array) -> pa.Array:
        """Return the column with class i as `new[i]`, int32 [N]."""
        return new.take(self.column)

    def names(self) -> pa.Array:
        """Return the class name of each row, string [N]."""
        return pa.array(self.classes, pa.string()).take(self.column)

    def text(self) -> pa.Array:
        """Return the class name of each row, string [N]."""
        return self.names()

    def share(self, sources: pa.Array, *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
        """Draw a share of each class, see `label_share`."""
        return label_share(self.one_each(), sources, fraction=fraction, seed=seed)


class SeveralLabels(Labels):
    """Any number of classes may apply to a video."""

    targets = "multi"
    name = "labels"
    description = "several labels per video (column labels)"
    min_classes = 1  # whether one tag applies is a question, too
    every_class_needed = False  # a rare class may have too few videos for that

    def entry(self, row: int) -> tuple[int | None, tuple[int, ...] | None]:
        """Return None, and the classes of a row in order."""
        labels = self.column[row].as_py()
        return None, None if labels is None else tuple(labels)

    def one_each(self) -> npt.NDArray[np.int64]:
        """Refuse.

        Raises:
            ManifestError: Always.
        """
        raise ManifestError(
            "these videos have several labels each (column labels of their list), but one label per video is "
            "needed here; give a list with a column label"
        )

    def vector(self, row: int) -> int | npt.NDArray[np.float32]:
        """Return for each class whether it applies, float32 [K]; NaN if the row is unlabeled."""
        _, labels = self.entry(row)
        if labels is None:
            return np.full(len(self.classes), np.nan, np.float32)
        applies = np.zeros(len(self.classes), np.float32)
        applies[list(labels)] = 1.0
        return applies

    def renumbered(self, new: pa.Array) -> pa.Array:
        """Return the column with class i as `new[i]`, list<int32> [N]."""
        return mapped(self.column, new)

    def names(self) -> pa.Array:
        """Return the class names of each row, list<string> [N]."""
        return mapped(self.column, pa.array(self.classes, pa.string()))

    def text(self) -> pa.Array:
        """Return the class names of each row with a separator between them, string [N]."""
        return join_names(self.names())

    def share(self, sources: pa.Array, *, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
        """Draw a share of all rows, see `source_share`."""
        rows, labels = self.pairs()
        return source_share(rows, labels, sources, fraction=fraction, seed=seed)


KINDS: dict[Targets, type[Labels]] = {kind.targets: kind for kind in (OneLabel, SeveralLabels)}
