"""Checks that every table of videos must pass; each reports the wrong lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.manifest.labels import SEPARATOR, repeated, split_names
from t3d.errors import ManifestError

Refuse = Callable[[pa.Array, str], None]
"""Function that reports the first wrong rows, if any: takes a mask, bool [N], and the reason."""


def refuse_both(file: str, columns: Mapping[str, pa.Array]) -> None:
    """Refuse a table with the columns `label` and `labels`.

    Args:
        file: The table.
        columns: Its columns by name.

    Raises:
        ManifestError: It has both.
    """
    if "label" in columns and "labels" in columns:
        raise ManifestError(
            f"{file}: has both label and labels; keep one: label where a video has one class, labels where "
            "it may have several"
        )


def refuse_names(several: pa.Array, refuse: Refuse) -> None:
    """Refuse rows whose column `labels` is not a list of class names.

    Args:
        several: The column, string [N].
        refuse: Function that reports the lines.
    """
    refuse(
        pc.equal(pc.utf8_trim_whitespace(several), ""),
        f"labels is blank; leave it empty if the video is unlabeled, or write {SEPARATOR} if no class "
        "applies",
    )
    names = pc.if_else(pc.equal(several, SEPARATOR), None, several)
    bar = rf"\{SEPARATOR}"
    refuse(
        pc.match_substring_regex(names, rf"^\s*{bar}|{bar}\s*{bar}|{bar}\s*$"),
        f"a class name is empty; write {SEPARATOR} between names only, or alone if no class applies",
    )
    refuse(
        pc.match_substring_regex(names, rf"^\s|\s{bar}|{bar}\s|\s$"),
        "a class name has leading or trailing spaces, which would create a second class; remove them",
    )
    refuse(
        repeated(split_names(pc.utf8_normalize(names, form="NFC"))),
        "a class is named twice; keep one of each",
    )


def refuse_spans(start: pa.Array, end: pa.Array, refuse: Refuse) -> None:
    """Refuse rows with an impossible time span.

    Args:
        start: Seconds, float64 [N].
        end: Seconds, float64 [N].
        refuse: Function that reports the lines.
    """
    for key, column in (("start", start), ("end", end)):
        refuse(pc.invert(pc.is_finite(column)), f"{key} must be a number of seconds")
        refuse(pc.less(column, 0.0), f"{key} is negative; times are seconds from the first frame")
    refuse(pc.less_equal(end, pc.fill_null(start, 0.0)), "end must be after start")


def refuse_repeats(path: pa.Array, names: pa.Array, start: pa.Array, end: pa.Array, refuse: Refuse) -> None:
    """Refuse a video that is in several rows with the same time span.

    Args:
        path: Path or ID of the video, string [N].
        names: Class names, string [N].
        start: Seconds, float64 [N].
        end: Seconds, float64 [N].
        refuse: Function that reports the lines.
    """
    spans = pa.table({"path": path, "start": start, "end": end, "name": names})
    groups = spans.group_by(["path", "start", "end"])
    if groups.aggregate([]).num_rows == spans.num_rows:
        return
    counted = groups.aggregate([([], "count_all"), ("name", "count_distinct", pc.CountOptions(mode="all"))])
    both = counted.filter(pc.greater(counted["count_all"], 1))
    clash = both.filter(pc.greater(both["name_count_distinct"], 1))
    span = (clash if clash.num_rows else both).slice(0, 1).to_pylist()[0]
    same = pc.equal(spans["path"], span["path"])
    for key in ("start", "end"):
        same = pc.and_(same, pc.is_null(spans[key]) if span[key] is None else pc.equal(spans[key], span[key]))
    same = same.combine_chunks()
    when = (
        "" if span["start"] is None and span["end"] is None else f" from {span['start']} to {span['end']} s"
    )
    if clash.num_rows:
        labels = ", ".join(map(repr, pc.unique(names.filter(same)).to_pylist()))
        refuse(
            same,
            f"{span['path']!r}{when} has contradicting labels: {labels}; keep one row with the right label",
        )
    more = f" ({both.num_rows} videos are repeated)" if both.num_rows > 1 else ""
    refuse(same, f"{span['path']!r}{when} occurs more than once{more}; keep one row per video")
