"""Kinetics' official lists (Kay et al. 2017; the editions of 600 and 700 classes), and others of their form.

A CSV file with the columns `label,youtube_id,time_start,time_end,split`: a class, the video on YouTube, the
seconds at which the clip starts and ends, and `train`, `val` or `test`. Test lists may have no labels.
Some lists also have a column `is_cc` (Creative Commons). If a video may have several labels, a column
`labels` replaces `label`. Clips are usually kept as `ID_000010_000020.mp4`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.manifest.checks import refuse_both, refuse_names, refuse_repeats, refuse_spans
from t3d.data.manifest.column_names import Columns
from t3d.data.manifest.labels import split_names
from t3d.data.manifest.readers import occurring
from t3d.data.manifest.text_file import first_line
from t3d.data.manifest.text_table import read_text_table, say
from t3d.data.official.listed import OfficialList
from t3d.data.official.published import PUBLISHED, Published
from t3d.errors import ManifestError

COLUMNS = Columns(
    known=("label", "labels", "youtube_id", "time_start", "time_end", "split", "is_cc"),
    needed="youtube_id",
    seconds=("time_start", "time_end"),
    others=True,
)
_PATHS = {"path", "file", "filename", "file_name", "file_path", "filepath", "video_path"}
_PARTS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_EDITION = re.compile(r"(?:kinetics|k)[-_ ]?([467]00)", re.IGNORECASE)


def read_kinetics(file: str | os.PathLike[str]) -> OfficialList:
    """Read a list of YouTube videos, for `open_list`.

    Args:
        file: CSV with the columns `youtube_id` (needed), `label` (or `labels`, as in `Manifest.from_csv`),
            `time_start`, `time_end`, `split`, `is_cc`; where a label is absent or empty, the video has none.
            Which published list it should equal is known by the column `split`, and by a name
            such as `kinetics-400` or `k400` of the file or its folders, or else by the number of classes.

    Raises:
        ManifestError: With the line: an unclear column, an id that cannot be YouTube's, a wrong time, a clip
            listed twice. Or the list joins several parts.
    """
    table = read_text_table(file, COLUMNS)
    say(os.fspath(file), table.remarks)
    refuse = table.refuse
    refuse_both(os.fspath(file), table.columns)
    columns = {
        key: _trimmed(column) if pa.types.is_string(column.type) else column
        for key, column in table.columns.items()
    }
    count = len(columns["youtube_id"])
    text, seconds = pa.nulls(count, pa.string()), pa.nulls(count, pa.float64())
    ids, label, split = (columns.get(key, text) for key in ("youtube_id", "label", "split"))
    start, end = (columns.get(key, seconds) for key in COLUMNS.seconds)
    refuse(
        pc.invert(pc.fill_null(pc.match_substring_regex(ids, "^[0-9A-Za-z_-]{11}$"), False)),
        "youtube_id must be YouTube's 11 letters, digits, - and _; a spreadsheet may have changed it",
    )
    refuse_spans(start, end, refuse)
    refuse(
        pc.xor(pc.is_null(start), pc.is_null(end)), "time_start and time_end go together; fill both or none"
    )
    names, several = pc.utf8_normalize(columns.get("labels", label), form="NFC"), None
    refuse_repeats(ids, names, start, end, refuse)
    if "labels" in columns:
        refuse_names(names, refuse)
        names, several = text, split_names(names)
    classes = occurring(names if several is None else several.flatten())
    return OfficialList(
        where=os.fspath(file),
        stems=pc.coalesce(_cut(ids, start, end), ids),
        names=names,
        sources=ids,
        classes=classes,
        published=_published(Path(file), _part(file, split), len(classes)) if several is None else None,
        uncut=ids,
        start=start,
        end=end,
        exact_case=True,
        several=several,
    )


def lists_youtube(file: Path) -> bool:
    """Say whether the first line of a text file names the column `youtube_id`, and none of paths.

    Raises:
        ManifestError: The file cannot be read.
    """
    names = {field.strip(' "').lower() for field in re.split(r"[,;|\t]", first_line(file))}
    return "youtube_id" in names and not names & _PATHS


def _trimmed(column: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def _cut(ids: pa.Array, start: pa.Array, end: pa.Array) -> pa.Array:
    """Name the clips as `ID_000010_000020`, null where no time is given."""
    times = (
        pc.utf8_lpad(pc.cast(pc.cast(pc.floor(time), pa.int64()), pa.string()), 6, "0")
        for time in (start, end)
    )
    return pc.binary_join_element_wise(ids, *times, "_")


def _part(file: str | os.PathLike[str], split: pa.Array) -> str | None:
    parts = pc.unique(split.drop_null()).to_pylist()
    if len(parts) > 1:
        raise ManifestError(
            f"{os.fspath(file)}: it joins several parts ({', '.join(map(repr, sorted(parts)))} in the column "
            "'split'), and training must not see the others; write a file for each"
        )
    return _PARTS.get(parts[0].casefold()) if parts else None


def _published(file: Path, part: str | None, num_classes: int) -> Published | None:
    named = [match[1] for name in file.absolute().parts[-4:] for match in _EDITION.finditer(name)]
    edition = named[-1] if named else str(num_classes)
    return PUBLISHED.get(f"Kinetics-{edition} {part}")
