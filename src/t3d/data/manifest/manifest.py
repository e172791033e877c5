"""Manifest: the table of a data set's videos, read from folders, tables and indexes, and checked.

The videos themselves are not opened. A missing or unreadable video is reported when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from unicodedata import normalize

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.index import read_table
from t3d.data.listing import in_name_order
from t3d.data.manifest.label_studio import read_label_studio
from t3d.data.manifest.labels import numbered
from t3d.data.manifest.readers import Rows, occurring, read_files, read_folder
from t3d.data.manifest.table import VideoTable
from t3d.data.manifest.tables import read_csv, read_jsonl, write_csv
from t3d.errors import Failed


@dataclass(frozen=True, repr=False)
class Manifest(VideoTable):
    """The videos of a data set, with labels, time spans and sources; see `VideoTable` for its columns.

    Create one with `from_folder`, `from_files`, `from_csv` or `from_jsonl`, from an official list with
    `t3d.data.official.listed.open_list`, or from any of these with `t3d.data.catalog.open_manifest`. Classes
    are in name order regardless of case (UCF101's own order is that one too), and class names are brought
    into Unicode's composed form, since some file systems take it apart.

    The source of a row (its group) is the recording that it was cut from. If the set does not name it, file
    names of UCF101, HMDB51 and Kinetics do (see `t3d.data.manifest.sources.default_sources`). Any other file
    is its own source: its path without ending, relative to the set's root.

    Example:
        >>> table = pa.table({"path": ["a.mp4"], "label": [0], "start": [0.0], "end": [9], "source": ["a"]})
        >>> manifest = Manifest(("Jump",), table)
        >>> manifest
        Manifest(1 video, 1 class, 1 source)
        >>> manifest[0].source
        'a'
    """

    @classmethod
    def from_folder(cls, root: str | os.PathLike[str], *, source_pattern: str | None = None) -> Manifest:
        r"""Read a folder that holds one folder of videos per class.

        The name of a folder is the name of its class; videos in its subfolders belong to it. Videos are
        recognized by their endings, and files with unknown endings by their content (see
        `t3d.data.listing.VideoSearch`). Hidden and other files are counted in `skipped`, and reported.

        Args:
            root: The folder that holds the class folders.
            source_pattern: Regular expression, searched in each file's path relative to `root`, forward
                slashes, without ending; its one group, or the group named `source`, is the source.
                For names like `Jump/Jump_11_2.mp4` (class, scene, clip): `_(\d+)_\d+$`.

        Raises:
            ManifestError: No class folder; a class folder without video; videos directly in `root`; folders
                that are parts of a data set (train, test), not classes; files that do not match the pattern.
            ConfigError: The pattern is not a regular expression, or has no group.
        """
        return cls.from_rows(read_folder(root, source_pattern))

    @classmethod
    def from_files(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        *,
        source_pattern: str | None = None,
        unreadable: list[Failed] | None = None,
    ) -> Manifest:
        """Take files, and the videos in folders, without labels.

        Args:
            paths: Files, kept in this order whatever their endings and whether they exist or not, and
                folders, whose videos are found as in `from_folder` and taken in name order.
            source_pattern: As in `from_folder`; the path is relative to the deepest folder that holds all.
            unreadable: List that collects subfolders that cannot be read. Without it, they are an error.

        Raises:
            ManifestError: No path is given, or a folder holds no video.
        """
        return cls.from_rows(read_files(paths, source_pattern, unreadable))

    @classmethod
    def from_csv(
        cls,
        file: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        class_files: bool = True,
    ) -> Manifest:
        """Read a table that is a text file, such as CSV.

        Columns: `path` (needed), `label` (class name; empty: unlabeled), `start` and `end` (seconds),
        `source`. Other columns are kept in `extra`. Separators, names of columns and encodings of other tools
        are understood where they can mean one thing only, and lists without names of columns are read, too;
        one line on stderr says how (see `t3d.data.manifest.layout`). Class numbers are named by a class file
        in the table's folder.

        For several labels per video, use a column `labels` instead of `label`: class names separated by
        `|`, a lone `|` if no class applies.

        Args:
            file: The table.
            root: Folder that relative paths start from; without it, the table's own folder.
            class_files: Name class numbers by a class file in the table's folder.

        Raises:
            ManifestError: With the line: an unclear column, a wrong value, `end` not after `start`, a row
                repeated (same path, start and end), the same video with two labels, or `label` and `labels`
                in one table.
        """
        return cls.from_rows(read_csv(file, root, name_classes=class_files))

    @classmethod
    def from_jsonl(
        cls,
        file: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        class_files: bool = True,
    ) -> Manifest:
        """Read JSON Lines: one object per line, with the columns of `from_csv` as fields.

        `labels` is a list of class names, empty if no class applies. Other names of fields are understood as
        those of columns are.

        Args:
            file: The table.
            root: Folder that relative paths start from; without it, the table's own folder.
            class_files: See `from_csv`.

        Raises:
            ManifestError: As in `from_csv`.
        """
        return cls.from_rows(read_jsonl(file, root, name_classes=class_files))

    @classmethod
    def from_label_studio(
        cls, file: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None
    ) -> Manifest:
        """Read videos and labels that Label Studio exported as JSON or JSON-MIN.

        Each range of `TimelineLabels` is a row with `start` and `end` in seconds; without such labels, each
        video with `Choices` is a row. Frames become seconds by `framesCount` and `duration` of the export, by
        `fps` in the data of a task, or by the frame rate of the file. A region with several labels, or two
        regions of the same time, make a list of several labels per video.

        Args:
            file: The export, a `.json` file.
            root: Folder that has the videos, at any depth; without it, the folder of the export. Names may
                have the prefix of an upload or not.

        Raises:
            ManifestError: Not such an export; videos that are missing; labels of several controls; or a label
                that ends after its video.
        """
        return cls.from_rows(read_label_studio(file, root))

    @classmethod
    def from_index(
        cls, *files: str | os.PathLike[str], root: str | os.PathLike[str] | None = None
    ) -> Manifest:
        """Read the videos that `t3d prepare index` looked at, those that cannot be read included.

        Args:
            files: One index or several, Parquet files.
            root: Folder that relative paths start from; without it, each index's own folder.

        Raises:
            ManifestError: One of them is missing, damaged or not an index.
        """
        names = ["path", "label", "source", "start", "end", "labels"]
        table = pa.concat_tables([read_table(file, root=root, columns=names) for file in files])
        path, label, source, start, end, several = (table[name].combine_chunks() for name in names)
        rows = Rows(paths=path, names=label, sources=source, start=start, end=end)
        return cls.from_rows(rows if several.null_count == len(several) else replace(rows, several=several))

    @classmethod
    def from_rows(cls, rows: Rows) -> Manifest:
        """Make a manifest of the rows that a reader found.

        Args:
            rows: Paths, class names, sources and times of the videos. Without `rows.classes`, the classes are
                the names that occur, in name order.

        Raises:
            ManifestError: The rows contradict each other.
        """
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
        return cls(tuple(classes), pa.table(columns), rows.skipped, rows.missing, rows.extra)

    def with_class_names(self, names: Mapping[str, str]) -> Manifest:
        """Return the same rows with other names for the classes; equal names become one class.

        Args:
            names: The new name of each class.

        Raises:
            ManifestError: A row has two labels that become one class.
        """
        classes = in_name_order({normalize("NFC", name) for name in names.values()})
        new = pa.array([classes.index(normalize("NFC", names[name])) for name in self.classes], pa.int32())
        labels = self.label_column
        at = self.table.schema.get_field_index(labels.name)
        table = self.table.set_column(at, labels.name, labels.renumbered(new))
        return Manifest(tuple(classes), table, self.skipped, self.missing, self.extra)

    def write_csv(self, path: str | os.PathLike[str], *, extra: bool = True) -> None:
        """Write the rows as a table that `from_csv` reads back.

        Files below the table's folder are written relative to it, so that the folder can be moved as a whole.
        Others are written with their absolute path. The table does not store classes without rows, nor an
        order of classes other than by name: `with_classes` restores them. The table is written completely or
        not at all.

        Args:
            path: The table to write; an existing one is replaced.
            extra: Write the further columns of the list as well.
        """
        columns = dict(zip(self.table.schema.names, self._columns, strict=True))
        columns[self.label_column.name] = self.label_column.text()
        if extra and self.extra is not None:
            columns |= dict(zip(self.extra.schema.names, self.extra.columns, strict=True))
        write_csv(path, columns)
