"""Table of videos with labels, time spans and sources: its contents, and selections of its rows.

`t3d.data.manifest.manifest` reads one from files and folders.

Legend: N rows, K classes, M labels of all rows together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.clip import Targets
from t3d.data.manifest.kinds import Labels
from t3d.data.manifest.labels import SEPARATOR, checked_labels
from t3d.data.manifest.split import hold_out
from t3d.errors import ManifestError

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
        pa.field("source", pa.string(), nullable=False),
    ]
)
LABEL = SCHEMA.get_field_index("label")
MULTI_SCHEMA = SCHEMA.set(LABEL, pa.field("labels", pa.list_(pa.int32())))


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a manifest.

    Args:
        path: The video file.
        label: Its class as an index into the manifest's `classes`; None if unlabeled, or if the manifest has
            several labels per video.
        start: Start of the row's time span, in seconds; None for the file's beginning.
        end: End of the time span, in seconds; None for the file's end.
        source: Recording that the clip was cut from. Clips of one source are never separated.
        labels: Where the manifest has several labels per video: its classes in order, empty if none applies;
            None if unlabeled.
    """

    path: Path
    label: int | None
    start: float | None
    end: float | None
    source: str
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True, repr=False)
class VideoTable:
    """A table of videos and their labels; columnar, immutable, cheap to pickle.

    Args:
        classes: Class names; a label is an index into them.
        table: Columns `path` string, `label` int32 (null: unlabeled), `start` and `end` float64 seconds
            (null: the file's beginning, its end), `source` string; N rows. With several labels per video
            `labels`, list<int32>, replaces `label`: an empty list means that no class applies, null that the
            row is unlabeled. Labels are sorted by class.
        skipped: Number of files that a reader skipped, by reason (`hidden`, or an ending such as `.txt`).
        missing: Number of videos of an official list that are missing from the folder, by class.
        extra: Further columns of a list, N rows; None if it has none. They are not pickled.

    Raises:
        ManifestError: A class name is repeated or empty, the columns differ from those above, or a label has
            no class or is repeated within a row.
    """

    classes: tuple[str, ...]
    table: pa.Table
    skipped: Mapping[str, int] = field(default_factory=dict, compare=False)
    missing: Mapping[str, int] = field(default_factory=dict, compare=False)
    extra: pa.Table | None = field(default=None, compare=False)
    _columns: tuple[pa.Array, ...] = field(init=False, compare=False)
    _labels: Labels = field(init=False, compare=False)

    def __post_init__(self) -> None:
        classes = tuple(self.classes)
        if len(set(classes)) < len(classes) or "" in classes:
            raise ManifestError(
                f"class names must differ and not be empty; got {', '.join(map(repr, classes))}"
            )
        try:
            schema = MULTI_SCHEMA if "labels" in self.table.schema.names else SCHEMA
            table = self.table.cast(schema).combine_chunks()
        except (ValueError, pa.ArrowException) as error:
            raise ManifestError(
                f"a manifest's columns are {', '.join(f'{f.name} {f.type}' for f in SCHEMA)}, in this order, "
                f"with a path and a source in every row ({MULTI_SCHEMA.field(LABEL)} instead of label "
                f"if videos have several); got {self.table.schema.names} ({error})"
            ) from error
        if schema is MULTI_SCHEMA and (bad := [name for name in classes if SEPARATOR in name]):
            raise ManifestError(
                f"the class name {bad[0]!r} contains {SEPARATOR}, which separates labels; rename it"
            )
        checked = checked_labels(table.column(LABEL).combine_chunks(), len(classes))
        table = table.set_column(LABEL, schema.field(LABEL), checked)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "table", table)
        # One array per column: a table's own columns are chunked, and slow to take single rows from.
        object.__setattr__(self, "_columns", tuple(column.combine_chunks() for column in table.columns))
        object.__setattr__(self, "_labels", Labels.of(self._columns[LABEL], classes))

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Pickle the table once."""
        return type(self), (self.classes, self.table, dict(self.skipped), dict(self.missing))

    def __len__(self) -> int:
        """Count the rows."""
        return self.table.num_rows

    def __getitem__(self, i: int) -> Entry:
        """Return row `i`; negative indices count from the end."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of a manifest with {len(self)} rows")
        path, start, end, source = (c[i].as_py() for at, c in enumerate(self._columns) if at != LABEL)
        label, labels = self._labels.entry(i)
        return Entry(Path(path), label, start, end, source, labels)

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the rows in order."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        counts = ((len(self), "video"), (len(self.classes), "class"), (len(self.sources()), "source"))
        plural = {"video": "videos", "class": "classes", "source": "sources"}
        parts = ", ".join(f"{n} {noun if n == 1 else plural[noun]}" for n, noun in counts)
        return f"{type(self).__name__}({parts})"

    @property
    def label_column(self) -> Labels:
        """Labels of all rows."""
        return self._labels

    @property
    def targets(self) -> Targets:
        """Return `single` for one label per video, `multi` for several."""
        return self._labels.targets

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Return the label of each row, -1 if it has none, int64 [N].

        Raises:
            ManifestError: The videos have several labels each.
        """
        return self._labels.one_each()

    @property
    def labeled(self) -> npt.NDArray[np.bool_]:
        """Return the rows that are labeled, also with no class, bool [N]."""
        return np.array(pc.is_valid(self.table.column(LABEL)).to_numpy())

    def label_pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return each label of each row, and -1 once for a row without labels.

        Returns:
            The row, ascending, int64 [M], and the label, int64 [M].
        """
        return self._labels.pairs()

    def multi_hot(self) -> npt.NDArray[np.int8]:
        """Return 1 for each row and class that applies, else 0; -1 in unlabeled rows; int8 [N, K]."""
        return self._labels.multi_hot()

    def class_counts(self) -> dict[str, int]:
        """Count the rows of each class, in class order; unlabeled rows are not counted."""
        _, labels = self.label_pairs()
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def sources(self) -> list[str]:
        """List the distinct sources, sorted; the source of each row is in `table["source"]`."""
        return sorted(pc.unique(self.table["source"]).to_pylist())

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Self:
        """Select rows, in the given order; the classes do not change.

        Args:
            indices: Rows, repeats allowed, negative ones counted from the end; or a mask, bool [N].

        Raises:
            IndexError: A row outside, or a mask of another length.
        """
        picked = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else np.int64)]
        extra = None if self.extra is None else self.extra.take(pa.array(picked))
        return type(self)(self.classes, self.table.take(pa.array(picked)), extra=extra)

    def with_classes(self, classes: Sequence[str], *, name: str = "", owner: str = "the model") -> Self:
        """Number the labels by another list of classes, matched by name.

        Args:
            classes: Class names, such as those a model was trained with. It may have more than the manifest;
                classes of the manifest without any row may be absent from it.
            name: Name of the manifest in the message.
            owner: What has these classes, in the message.

        Raises:
            ManifestError: A class with rows is not among them.
        """
        known = {name: index for index, name in enumerate(classes)}
        unknown = [name for name, count in self.class_counts().items() if count and name not in known]
        if unknown:
            raise ManifestError((f"{name}: " if name else "") + not_classes_of(owner, unknown, classes))
        new = pa.array([known.get(name) for name in self.classes], pa.int32())
        table = self.table.set_column(LABEL, self._labels.name, self._labels.renumbered(new))
        return type(self)(tuple(classes), table, self.skipped, self.missing, self.extra)

    def followed_by(self, other: Self) -> Self:
        """Return these rows and then those of another table, with the classes of this one.

        Raises:
            ManifestError: The other table has a class with rows that this one does not have.
        """
        rest = other.with_classes(self.classes, owner="the first table")
        return type(self)(self.classes, pa.concat_tables([self.table, rest.table]))

    def without_labels(self) -> Self:
        """Return the same rows without classes and labels."""
        table = self.table.set_column(LABEL, "label", pa.nulls(len(self), pa.int32()))
        return type(self)((), table, self.skipped, self.missing, self.extra)

    def split_by_source(self, fraction: float, *, seed: int) -> tuple[Self, Self]:
        """Hold out a share of the videos as whole sources, with every class in both parts.

        The draw depends on the seed and on which sources and labels there are, not on the order of rows. In
        each class the held-out share differs from `fraction` by at most its largest source, unless the class
        has too few sources, or sources span classes (see
        `t3d.data.manifest.split.hold_out`).

        Args:
            fraction: Share to hold out, between 0 and 1.
            seed: Seed of the draw, not negative.

        Returns:
            The rest, and the part held out; both with all classes, rows in the order they had.

        Raises:
            ConfigError: `fraction` is not between 0 and 1.
            ManifestError: A class has only one source; with several labels per video, only a warning.
        """
        held = self.held_out(fraction, seed=seed)
        return self.select(~held), self.select(held)

    def held_out(self, fraction: float, *, seed: int) -> npt.NDArray[np.bool_]:
        """Return which rows `split_by_source` holds out, bool [N].

        Args:
            fraction: Share to hold out, between 0 and 1.
            seed: Seed of the draw, not negative.

        Raises:
            ConfigError: `fraction` is not between 0 and 1.
            ManifestError: A class has only one source; with several labels per video, only a warning.
        """
        rows, labels = self.label_pairs()
        sources = self.table["source"].combine_chunks().take(pa.array(rows))
        held = np.zeros(len(self), np.bool_)
        held[rows] = hold_out(  # alike for all labels of a row, which share its source
            labels,
            sources,
            classes=self.classes,
            fraction=fraction,
            seed=seed,
            refuse_lone=self._labels.every_class_needed,
        )
        return held

    def label_subset(self, fraction: float, *, seed: int) -> Self:
        """Keep a share of each class as whole sources, as if no more had been labeled.

        With the same seed, a smaller share is part of a larger one (see
        `t3d.data.manifest.split.label_share`). With several labels per video it is a share of all rows, and
        at least one source of each class (`t3d.data.manifest.split.source_share`).

        Args:
            fraction: Share of each class, above 0, up to 1.
            seed: Seed of the draw, not negative.

        Raises:
            ConfigError: `fraction` is not above 0 or is above 1.
        """
        if fraction == 1:
            return self
        sources = self.table["source"].combine_chunks()
        return self.select(self._labels.share(sources, fraction=fraction, seed=seed))

    def label_names(self) -> pa.Array:
        """Return the class names of each row: string [N], or list<string> [N] with several labels."""
        return self._labels.names()


def not_classes_of(owner: str, unknown: Sequence[str], classes: Sequence[str]) -> str:
    """Say that some classes do not exist in a model or list, and how to correct it.

    Args:
        owner: What has the classes, such as "the model".
        unknown: The class names that it does not have.
        classes: Its class names.
    """
    shown = [repr(name) for name in unknown[:10]]
    if len(unknown) > 10:
        shown.append(f"{len(unknown) - 10} more")
    known = ", ".join(classes[:20]) + (f", … ({len(classes)} in all)" if len(classes) > 20 else "")
    if all(name.isdecimal() for name in unknown) and not any(name.isdecimal() for name in classes):
        numbers = f"numbers {', '.join(shown)}" if len(unknown) > 1 else f"number {shown[0]}"
        return (
            f"the list has the class {numbers}, but the classes of {owner} have names ({known}); give the "
            "file that names the numbers with `classes`"
        )
    if len(unknown) == 1:
        folded = {name.casefold(): name for name in classes}
        near = difflib.get_close_matches(unknown[0].casefold(), folded, n=1, cutoff=0.8)
        remedy = f"did you mean {folded[near[0]]!r}? Rename or remove it" if near else "rename or remove it"
        return f"the class {shown[0]} is not a class of {owner} ({known}); {remedy}"
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"the classes {listed} are not classes of {owner} ({known}); rename or remove them"
