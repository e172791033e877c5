"""Names of the columns of a table: those that T3D uses, other tools' names for them, and mistakes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from t3d.data.listing import is_video
from t3d.errors import ManifestError, did_you_mean

_SAME = {
    "path": """
        clip clip_name clip_path file file_name filename file_path filepath fname full_path image relpath uri
        url vid video video_file video_id video_name video_path
    """,
    "label": """
        action activity category class class_id class_label class_name cls event gesture ground_truth label_id
        label_name
    """,
    "source": "group",
    "start": "start_s start_sec start_seconds start_time t_start time_start",
    "end": "end_s end_sec end_seconds end_time t_end time_end",
}
"""Names that other tools give to a column. They are understood where only one column can be meant."""
_SIMILAR = {
    "path": "name",
    "label": "gt target verb y",
    "labels": "actions categories classes tags targets",
    "start": "begin begin_frame from frame_start start_frame",
    "end": "end_frame frame_end stop stop_frame to",
}
"""Names that may mean a column. They are never guessed: without the column itself they are an error."""


def _turned(names: Mapping[str, str]) -> dict[str, str]:
    return {other: name for name, others in names.items() for other in others.split()}


_SAME_AS, _SIMILAR_TO = _turned(_SAME), _turned(_SIMILAR)


@dataclass(frozen=True)
class Columns:
    """Columns that a table may have.

    Args:
        known: Names of all columns that are used.
        needed: Required column.
        seconds: Columns of seconds; the others are text.
        others: Whether other names of columns are understood, and further columns kept.
    """

    known: Sequence[str]
    needed: str
    seconds: Sequence[str] = ()
    others: bool = False


@dataclass(frozen=True)
class Named:
    """Meaning of the columns of a table.

    Args:
        names: Name of each column: one of the known ones, or for a further column its own.
        renamed: The known name of each column that has another one in the table.
        extra: Further columns, which are kept and not used.
    """

    names: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


def has_needed(header: Sequence[str], allowed: Columns) -> bool:
    """Return whether a line names the column that a table needs."""
    return any(_means(name, allowed) == allowed.needed for name in header)


def name_columns(where: str, header: Sequence[str], rows: Sequence[Sequence[str]], allowed: Columns) -> Named:
    """Say what the columns of a table mean.

    Args:
        where: The table and the line of the names, for messages.
        header: The names that the table has.
        rows: Some of its rows, which say which of several columns holds the paths or class names.
        allowed: The columns that it may have.

    Raises:
        ManifestError: A column is named twice, may mean several things, is misspelled, or is missing.

    Example:
        >>> columns = Columns(("path", "label"), "path", others=True)
        >>> name_columns("a.csv, line 1", ["Video", "class", "fps"], [], columns)
        Named(names=('path', 'label', 'fps'), renamed={'Video': 'path', 'class': 'label'}, extra=('fps',))
    """
    header = [name.strip() for name in header]
    meant = dict(enumerate(_means(name, allowed) for name in header))
    taken: dict[str, int] = {}
    for known in allowed.known:
        columns = [at for at, name in meant.items() if name == known]
        exact = [at for at in columns if header[at] == known] or [
            at for at in columns if _plain(header[at]) == known
        ]
        if len(exact) > 1:
            raise ManifestError(f"{where}: a column is named twice: {', '.join(header)}")
        columns = exact or _likely(known, columns, rows)
        if len(columns) > 1:
            several = " and ".join(repr(header[at]) for at in columns)
            raise ManifestError(
                f"{where}: {several} may both be the column {known!r}; rename the right one to {known!r}"
            )
        if columns:
            taken[known] = columns[0]
    of_column = {at: known for known, at in taken.items()}
    extra = [at for at in range(len(header)) if at not in of_column]
    _refuse_extra(where, [header[at] for at in extra], taken, allowed)
    if allowed.needed not in taken:
        raise ManifestError(
            f"{where}: the column {allowed.needed!r} is missing; there are {', '.join(map(repr, header))}"
        )
    names = tuple(of_column.get(at, header[at]) for at in range(len(header)))
    if len(set(names)) < len(names):
        raise ManifestError(f"{where}: a column is named twice: {', '.join(header)}")
    renamed = {header[at]: known for at, known in of_column.items() if header[at] != known}
    return Named(names, renamed, tuple(header[at] for at in extra))


def _means(name: str, allowed: Columns) -> str | None:
    """Return the known column that a name means, or None."""
    if name.strip() in allowed.known:
        return name.strip()
    if not allowed.others:
        return None
    plain = _plain(name)
    meant = plain if plain in allowed.known else _SAME_AS.get(plain)
    return meant if meant in allowed.known else None


def _likely(known: str, columns: list[int], rows: Sequence[Sequence[str]]) -> list[int]:
    """Keep the columns that hold videos, if several may be `path`; or words, if several may be `label`."""
    if len(columns) < 2 or known not in ("path", "label"):
        return columns

    def fits(value: str) -> bool:
        return is_video(value) if known == "path" else not value.strip().lstrip("-").isdecimal()

    return [at for at in columns if rows and all(fits(row[at]) for row in rows if len(row) > at)] or columns


def _refuse_extra(where: str, extra: Sequence[str], taken: Mapping[str, int], allowed: Columns) -> None:
    """Refuse columns that may have been meant as one of the known ones."""
    labels = {"label", "labels"}  # a table has one of the two
    filled = {*taken} | (labels if labels & {*taken} else set())
    for name in extra:
        similar = _SIMILAR_TO.get(_plain(name)) if allowed.others else None
        if similar in allowed.known and similar not in filled:
            unit = "; times are in seconds, not in frames" if "frame" in name.lower() else ""
            raise ManifestError(
                f"{where}: {name!r} may be the column {similar!r}; rename it to {similar!r}, or to a name "
                f"that says something else{unit}"
            )
        left = [known for known in allowed.known if known not in filled]
        if not allowed.others or difflib.get_close_matches(_plain(name), left, n=1, cutoff=0.8):
            raise ManifestError(f"{where}: unknown column {name!r}; {did_you_mean(name, allowed.known)}")


def _plain(column: str) -> str:
    """A name in lower case with underscores: `File Name` and `fileName` are `file_name`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", column.strip())
    return re.sub(r"[\s.-]+", "_", words).lower()
