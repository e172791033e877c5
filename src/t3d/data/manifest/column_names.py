"""Names that other tools give to the columns of a table of videos, to tell users which columns to rename."""

from __future__ import annotations

import re
from collections.abc import Sequence

from t3d.data.listing import is_video

_OTHER_NAMES = {
    "path": """
        clip clip_path clip_name file file_name filename file_path filepath fname full_path image name relpath
        uri url vid video video_file video_id video_name video_path
    """,
    "label": """
        action activity category cls class class_id class_label class_name event gesture gt ground_truth
        label_id label_name target verb y
    """,
    "labels": "actions categories classes tags targets",
    "source": "camera film group movie patient person recording scene session subject subject_id",
    "start": "begin from start_s start_sec start_seconds start_time t_start time_start",
    "end": "end_s end_sec end_seconds end_time stop t_end time_end to",
}
_COLUMN_OF = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}


def header_hint(header: Sequence[str], known: Sequence[str]) -> str:
    """Say how to correct the first line of a table.

    Args:
        header: The names that it has.
        known: The names that columns may have.

    Returns:
        A half-sentence to end an error message with; empty if there is nothing to propose.

    Example:
        >>> header_hint(["filename", "class"], ["path", "label"])
        "rename 'filename' to 'path' and 'class' to 'label'"
    """
    if len(header) == 1 and (separator := next((s for s in (";", "\t", "|") if s in header[0]), None)):
        name = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}[separator]
        return f"columns must be separated by commas, not by {name}"
    if any(is_video(column) for column in header):
        first = ",".join(["path", "label", *known][: len(header)])
        return f"line 1 looks like a row, so the names are missing; add a first line such as {first}"
    meant = {column: _COLUMN_OF.get(_plain(column), _plain(column)) for column in header}
    exact = [column for column in header if column in known]  # such a name stays, wherever it is in the line
    renamed: dict[str, str] = {}
    for column in header:
        name = meant[column]
        if column not in exact and name in known and name not in (*exact, *renamed.values()):
            renamed[column] = name
    others = [column for column in header if column not in exact and column not in renamed]
    if not renamed and not any(meant[column] in exact for column in others):
        return ""
    changes = []
    if renamed:
        changes.append("rename " + " and ".join(f"{old!r} to {new!r}" for old, new in renamed.items()))
    if others:
        changes.append("remove " + ", ".join(map(repr, others)))
    return ", and ".join(changes)


def _plain(column: str) -> str:
    """A name in lower case with underscores: `File Name` and `fileName` are `file_name`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", column.strip())
    return re.sub(r"[\s.-]+", "_", words).lower()
