"""A manifest: the table of a data set's videos, their labels, spans and sources, checked where it is made.

The videos themselves are neither opened nor looked for: a row that names no readable video is found when the
clip is read, or by `Manifest.check_exists`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.hmdb51 import Part, read_hmdb51
from t3d.data.kinetics import read_kinetics
from t3d.data.labels import (
    SEPARATOR,
    Targets,
    checked_labels,
    join_names,
    label_pairs,
    mapped,
    multi_hot,
    numbered,
)
from t3d.data.listed import OfficialList, find_videos
from t3d.data.manifest_readers import Rows, occurring, read_files, read_folder
from t3d.data.manifest_tables import read_csv, read_jsonl, write_csv
from t3d.data.split import hold_out, label_share, source_share
from t3d.data.ucf101 import read_ucf101
from t3d.data.video_index import read_table
from t3d.errors import ManifestError, did_you_mean

SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("start", pa.float64()),
        pa.field("end", pa.float64()),
        pa.field("source", pa.string(), nullable=False),
    ]
)
_LABEL = SCHEMA.get_field_index("label")
MULTI_SCHEMA = SCHEMA.set(_LABEL, pa.field("labels", pa.list_(pa.int32())))


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a manifest.

    Args:
        path: The video file.
        label: Its class as an index into the manifest's `classes`; None if unlabelled, or if the manifest has
            several labels a video.
        start: Where the row's part of the file begins, in seconds; None for the file's beginning.
        end: Where it ends, in seconds; None for the file's end.
        source: What the clip was cut from: clips of one source are never separated.
        labels: Where the manifest has several labels a video: its classes in order, empty if none applies;
            None if unlabelled.
    """

    path: Path
    label: int | None
    start: float | None
    end: float | None
    source: str
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True, repr=False)
class Manifest:
    """A table of videos and their labels; columnar, immutable, cheap to pickle.

    Make one with `from_folder`, `from_files`, `from_csv` or `from_jsonl`, or from an official list with
    `from_ucf101`, `from_hmdb51` or `from_kinetics`. Classes are in name order regardless of case unless said
    otherwise (UCF101's own order is that one too), and class names are brought into Unicode's composed form,
    since some file systems take it apart.

    A row's source is, unless the set says otherwise, what the file's name tells if it is one of UCF101's,
    HMDB51's or Kinetics' (see `t3d.data.sources.default_sources`); else the file itself, as its path relative
    to the set's root without the ending.

    Args:
        classes: Class names; a label is an index into them.
        table: Columns `path` string, `label` int32 (null: unlabelled), `start` and `end` float64 seconds
            (null: the file's beginning, its end), `source` string; N rows. With several labels a video
            `labels`, list<int32>, stands in the place of `label`: an empty list says that no class applies,
            null that the row is unlabelled. They are brought into the order of the classes.
        skipped: What a reader passed over, as counts by reason (`hidden`, or an ending such as `.txt`).
        missing: Videos that a list names and the folder lacks, as counts by class.

    Raises:
        ManifestError: A class name is repeated or empty, the columns differ from those above, or a label has
            no class or is there twice in a row.

    Example:
        >>> table = pa.table({"path": ["a.mp4"], "label": [0], "start": [0.0], "end": [9], "source": ["a"]})
        >>> manifest = Manifest(("Jump",), table)
        >>> manifest
        Manifest(1 video, 1 class, 1 source)
        >>> manifest[0].source
        'a'
    """

    classes: tuple[str, ...]
    table: pa.Table
    skipped: Mapping[str, int] = field(default_factory=dict, compare=False)
    missing: Mapping[str, int] = field(default_factory=dict, compare=False)
    _columns: tuple[pa.Array, ...] = field(init=False, compare=False)

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
                f"with a path and a source in every row ({MULTI_SCHEMA.field(_LABEL)} in the place of label "
                f"where videos have several); got {self.table.schema.names} ({error})"
            ) from error
        if schema is MULTI_SCHEMA and (bad := [name for name in classes if SEPARATOR in name]):
            raise ManifestError(f"the class name {bad[0]!r} holds {SEPARATOR}, which tables need; rename it")
        checked = checked_labels(table.column(_LABEL).combine_chunks(), len(classes))
        table = table.set_column(_LABEL, schema.field(_LABEL), checked)
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "table", table)
        # One array a column: a table's own columns are chunked, and slow to take single rows from.
        object.__setattr__(self, "_columns", tuple(column.combine_chunks() for column in table.columns))

    def __reduce__(self) -> tuple[type[Manifest], tuple[object, ...]]:
        """Pickle the table once."""
        return type(self), (self.classes, self.table, dict(self.skipped), dict(self.missing))

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str], *, source_pattern: str | None = None) -> Manifest:
        r"""Read a folder that holds one folder of videos per class.

        A class is named as its folder; videos in its subfolders belong to it. Videos are known by their
        endings, in any case. Hidden files and those that are no videos are counted in `skipped`.

        Args:
            root: The folder that holds the class folders.
            source_pattern: Regular expression, searched in each file's path relative to `root`, forward
                slashes, without ending; its one group, or the group named `source`, is the source.
                For names as `Jump/Jump_11_2.mp4` (class, scene, clip): `_(\d+)_\d+$`.

        Raises:
            ManifestError: No class folder; a class folder without video; videos directly in `root`; folders
                that are parts of a data set (train, test), not classes; files that do not match the pattern.
            ConfigError: The pattern is no regular expression or lacks its group.
        """
        return cls._of(read_folder(root, source_pattern))

    @classmethod
    def from_files(
        cls, paths: Sequence[str | os.PathLike[str]], *, source_pattern: str | None = None
    ) -> Manifest:
        """Take files, and the videos in folders, without labels.

        Args:
            paths: Files, kept in this order whatever their endings and whether they exist or not, and
                folders, whose videos are found by their endings and taken in name order.
            source_pattern: As in `from_folder`; the path is relative to the deepest folder that holds all.

        Raises:
            ManifestError: No path is given, or a folder holds no video.
        """
        return cls._of(read_files(paths, source_pattern))

    @classmethod
    def from_ucf101(
        cls,
        videos: str | os.PathLike[str],
        split_list: str | os.PathLike[str],
        *,
        class_index: str | os.PathLike[str] | None = None,
    ) -> Manifest:
        """Read one of UCF101's official split lists, such as `trainlist01.txt`; see `from_list`.

        Args:
            videos: Folder with the videos, at any depth.
            split_list: Lines `Class/v_Class_g01_c01.avi`, with or without a number behind.
            class_index: `classInd.txt`, lines `1 ApplyEyeMakeup`, for its order; without it, name order.
        """
        return cls.from_list(videos, read_ucf101(split_list, class_index))

    @classmethod
    def from_hmdb51(
        cls, videos: str | os.PathLike[str], splits: str | os.PathLike[str], *, split: int, part: Part
    ) -> Manifest:
        """Read one part of one of HMDB51's splits from the official split files; see `from_list`.

        Args:
            videos: Folder with the videos, at any depth.
            splits: The folder of the split files, `testTrainMulti_7030_splits`.
            split: 1, 2 or 3.
            part: `train` or `test`.

        Raises:
            ConfigError: There is no such split or part.
        """
        return cls.from_list(videos, read_hmdb51(splits, split=split, part=part))

    @classmethod
    def from_kinetics(cls, videos: str | os.PathLike[str], file: str | os.PathLike[str]) -> Manifest:
        """Read one of Kinetics' official lists, or any list in its columns; see `from_list`.

        Args:
            videos: Folder with the videos, at any depth.
            file: CSV with the columns `youtube_id` (needed), `label` (or `labels`, as in `from_csv`),
                `time_start`, `time_end`, `split`, `is_cc`; where a label is absent or empty, the video has
                none.
        """
        return cls.from_list(videos, read_kinetics(file))

    @classmethod
    def from_list(
        cls, videos: str | os.PathLike[str], listed: OfficialList, *, source_pattern: str | None = None
    ) -> Manifest:
        """Find the videos of an official list.

        Files are matched by name without ending, so transcoded files, and any folder layout, will do. Classes
        are those of the list with at least one video in `videos`, of this list or, in UCF101 and HMDB51, of
        another: the training and the test list then give the same classes in the same order. Listed files
        that are absent are counted in `missing` and reported as a warning; other files are ignored.

        A clip of Kinetics is a file `ID_000010_000020.mp4` (whole seconds). Where there is none, `ID.mp4` is
        taken to be the long video, and the listed part of it is used; without times, all of it.

        Args:
            videos: Folder with the videos, at any depth.
            listed: The list, from `t3d.data.official.read_official`.
            source_pattern: As in `from_folder`, searched in `Class/name` as listed.

        Raises:
            ManifestError: A list cannot be read, nothing matches, or several files have one name.
            ConfigError: The pattern is no regular expression or lacks its group.
        """
        return cls._of(find_videos(listed, videos, source_pattern))

    @classmethod
    def from_csv(
        cls, file: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
    ) -> Manifest:
        """Read a CSV table whose first line names the columns.

        Columns: `path` (needed), `label` (class name; empty: unlabelled), `start` and `end` (seconds),
        `source`. Other columns are refused. UTF-8, with or without byte-order mark, any line ends.

        Several labels a video stand in a column `labels` instead of `label`: class names with `|` between
        them, a lone `|` where no class applies.

        Args:
            file: The table.
            root: Folder that relative paths start from; without it, the table's own folder.

        Raises:
            ManifestError: With the line: an unknown column, a wrong value, `end` not behind `start`, a row
                repeated (same path, start and end), the same video with two labels, or `label` and `labels`
                in one table.
        """
        return cls._of(read_csv(file, root))

    @classmethod
    def from_jsonl(
        cls, file: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
    ) -> Manifest:
        """Read JSON Lines: one object a line, with the fields that are `from_csv`'s columns.

        `labels` is a list of class names, empty where no class applies.

        Args:
            file: The table, UTF-8.
            root: Folder that relative paths start from; without it, the table's own folder.

        Raises:
            ManifestError: As in `from_csv`.
        """
        return cls._of(read_jsonl(file, root))

    @classmethod
    def from_index(
        cls, *files: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
    ) -> Manifest:
        """Read the videos that `t3d prepare index` looked at, those that cannot be read included.

        Args:
            files: One index or several, Parquet files.
            root: Folder that relative paths start from; without it, each index's own folder.

        Raises:
            ManifestError: One of them is missing, damaged or no index.
        """
        names = ["path", "label", "source", "start", "end", "labels"]
        table = pa.concat_tables([read_table(file, root=root, columns=names) for file in files])
        path, label, source, start, end, several = (table[name].combine_chunks() for name in names)
        rows = Rows(paths=path, names=label, sources=source, start=start, end=end)
        return cls._of(rows if several.null_count == len(several) else replace(rows, several=several))

    @classmethod
    def _of(cls, rows: Rows) -> Manifest:
        names = rows.names if rows.several is None else rows.several.flatten()
        classes = occurring(names) if rows.classes is None else rows.classes
        known = pa.array(classes, pa.string())
        seconds = pa.nulls(len(rows.paths), pa.float64())
        if rows.several is None:
            label, numbers = "label", pc.index_in(rows.names, value_set=known, skip_nulls=True)
        else:
            label, numbers = "labels", numbered(rows.several, known)
        columns = {
            "path": rows.paths,
            label: numbers,
            "start": seconds if rows.start is None else rows.start,
            "end": seconds if rows.end is None else rows.end,
            "source": rows.sources,
        }
        return cls(tuple(classes), pa.table(columns), rows.skipped, rows.missing)

    def __len__(self) -> int:
        """Count the rows."""
        return self.table.num_rows

    def __getitem__(self, i: int) -> Entry:
        """Give row `i`; IndexError outside, negative indices count from the end."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of a manifest with {len(self)} rows")
        path, label, start, end, source = (column[i].as_py() for column in self._columns)
        if self.targets == "single":
            return Entry(Path(path), label, start, end, source)
        return Entry(Path(path), None, start, end, source, None if label is None else tuple(label))

    def __iter__(self) -> Iterator[Entry]:
        """Go through the rows in order."""
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        counts = ((len(self), "video"), (len(self.classes), "class"), (len(self.sources()), "source"))
        plural = {"video": "videos", "class": "classes", "source": "sources"}
        return f"Manifest({', '.join(f'{n} {what if n == 1 else plural[what]}' for n, what in counts)})"

    @property
    def targets(self) -> Targets:
        """Whether a video has one label or several."""
        return "multi" if pa.types.is_list(self._columns[_LABEL].type) else "single"

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The label of each row, -1 where there is none, int64 [N].

        Raises:
            ManifestError: The videos have several labels each.
        """
        if self.targets == "multi":
            raise ManifestError(
                "these videos have several labels each (column labels of their list), and one is needed "
                "here: give a list with a column label"
            )
        column = pc.fill_null(self.table["label"], -1).cast(pa.int64())
        return np.array(column.to_numpy())

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        """Which rows are labelled, be it that no class applies, bool [N]."""
        return np.array(pc.is_valid(self.table.column(_LABEL)).to_numpy())

    def label_pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Each label of each row, and -1 once for a row that has none.

        Returns:
            The row, ascending, int64 [M], and the label, int64 [M].
        """
        return label_pairs(self._columns[_LABEL])

    def multi_hot(self) -> npt.NDArray[np.int8]:
        """For each row and class 1 if the class applies, else 0; -1 in unlabelled rows; int8 [N, K]."""
        return multi_hot(self._columns[_LABEL], len(self.classes))

    def class_counts(self) -> dict[str, int]:
        """Count the rows of each class, in class order; unlabelled rows count nowhere."""
        _, labels = self.label_pairs()
        counts = np.bincount(labels[labels >= 0], minlength=len(self.classes))
        return dict(zip(self.classes, counts.tolist(), strict=True))

    def sources(self) -> list[str]:
        """List the distinct sources, sorted; the source of each row is in `table["source"]`."""
        return sorted(pc.unique(self.table["source"]).to_pylist())

    def check_exists(self) -> list[Path]:
        """Look for every file, and list those that are not there; one look a file."""
        paths = pc.unique(self.table["path"]).to_pylist()
        return [Path(path) for path in paths if not Path(path).is_file()]

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Manifest:
        """Take some rows, in the order given; classes stay as they are.

        Args:
            indices: Rows, repeats allowed, negative ones counted from the end; or a mask, bool [N].

        Raises:
            IndexError: A row outside, or a mask of another length.
        """
        picked = np.arange(len(self))[np.asarray(indices, dtype=None if len(indices) else np.int64)]
        return Manifest(self.classes, self.table.take(pa.array(picked)))

    def with_classes(self, classes: Sequence[str]) -> Manifest:
        """Number the labels by another list of classes, matched by name.

        Args:
            classes: Class names, such as those a model was trained with. It may have more than the manifest;
                classes of the manifest without any row may be absent from it.

        Raises:
            ManifestError: A class with rows is not among them.
        """
        known = {name: index for index, name in enumerate(classes)}
        unknown = [name for name, count in self.class_counts().items() if count and name not in known]
        if unknown:
            more = f" (and {len(unknown) - 1} more classes)" if len(unknown) > 1 else ""
            raise ManifestError(f"unknown class {unknown[0]!r}{more}; {did_you_mean(unknown[0], classes)}")
        new = pa.array([known.get(name) for name in self.classes], pa.int32())
        field, column = self.table.schema.field(_LABEL), self._columns[_LABEL]
        label = new.take(column) if self.targets == "single" else mapped(column, new)
        table = self.table.set_column(_LABEL, field.name, label)
        return Manifest(tuple(classes), table, self.skipped, self.missing)

    def without_labels(self) -> Manifest:
        """The same rows, without classes and labels."""
        table = self.table.set_column(_LABEL, "label", pa.nulls(len(self), pa.int32()))
        return Manifest((), table, self.skipped, self.missing)

    def split_by_source(self, fraction: float, *, seed: int) -> tuple[Manifest, Manifest]:
        """Hold out a share of the videos as whole sources, with every class in both parts.

        The draw depends on the seed and on which sources and labels there are, not on the order of rows. In
        each class the share held out differs from `fraction` by at most its largest source, except where a
        class has too few sources for that, or where sources span classes (see `t3d.data.split.hold_out`).

        Args:
            fraction: Share to hold out, between 0 and 1.
            seed: Of the draw, not negative.

        Returns:
            The rest, and the part held out; both with all classes, rows in the order they had.

        Raises:
            ConfigError: `fraction` is not between 0 and 1.
            ManifestError: A class has only one source; with several labels a video, only a warning.
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
            refuse_lone=self.targets == "single",
        )
        return self.select(~held), self.select(held)

    def label_subset(self, fraction: float, *, seed: int) -> Manifest:
        """Keep a share of each class as whole sources, as if no more had been labelled.

        Of one seed, a smaller share is a part of a larger one (see `t3d.data.split.label_share`). With
        several labels a video it is a share of all rows, and at least one source of each class
        (`t3d.data.split.source_share`).

        Args:
            fraction: Share of each class, above 0, up to 1.
            seed: Of the draw, not negative.

        Raises:
            ConfigError: `fraction` is not above 0 or is above 1.
        """
        if fraction == 1:
            return self
        sources = self.table["source"].combine_chunks()
        if self.targets == "multi":
            rows, labels = self.label_pairs()
            return self.select(source_share(rows, labels, sources, fraction=fraction, seed=seed))
        return self.select(label_share(self.labels, sources, fraction=fraction, seed=seed))

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a table that `from_csv` reads back.

        Files below the table's folder are written relative to it, so that the folder can be moved as a whole;
        others with their whole path. Classes without rows, and an order of classes other than by name, are
        not in the table: `with_classes` brings them back. Nothing half-written is left behind.

        Args:
            path: The table to write; an existing one is replaced.
        """
        columns = dict(zip(self.table.schema.names, self._columns, strict=True))
        names = self.label_names()
        label = {"label": names} if self.targets == "single" else {"labels": join_names(names)}
        write_csv(path, columns | label)

    def label_names(self) -> pa.Array:
        """The class names of each row: string [N], or list<string> [N] with several labels a video."""
        names = pa.array(self.classes, pa.string())
        column = self._columns[_LABEL]
        return names.take(column) if self.targets == "single" else mapped(column, names)
