"""A list in a data set's official format, and those of its videos that are there."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from t3d.data.listing import absolute, joined, videos_below
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.readers import Rows
from t3d.data.manifest.sources import pattern_sources
from t3d.data.official.published import Published
from t3d.data.paths import strings
from t3d.errors import ManifestError

_log = logging.getLogger(__name__)

UNLABELED = "(unlabeled)"
"""Key under which a manifest counts missing videos without a class."""
SEVERAL = "(of several labels)"
"""Key under which it counts missing videos if videos may have several labels, each once."""


@dataclass(frozen=True)
class OfficialList:
    """Contents of an official list, before files are searched: N videos in the list's order.

    Args:
        where: The file or folder it was read from.
        stems: Names of the files without ending, string [N].
        names: Class names, null where there is none, string [N].
        sources: Sources, string [N].
        classes: Class names in order.
        published: Counts of the published list; None for any other list.
        uncut: Names without ending of the long videos that the listed ones were cut from, string [N].
        start: Start within the long video, in seconds, float64 [N].
        end: End within the long video, in seconds, float64 [N].
        class_of: Function that returns the class of a file that is not on this list, from its name without
            ending, in lower case. A class with such a file counts as present, so that all lists of a set give
            the same classes.
        exact_case: Upper and lower case differ in file names.
        several: Class names where videos may have several, as in `Rows`, list<string> [N].
    """

    where: str
    stems: pa.Array
    names: pa.Array
    sources: pa.Array
    classes: Sequence[str]
    published: Published | None = None
    uncut: pa.Array | None = None
    start: pa.Array | None = None
    end: pa.Array | None = None
    class_of: Callable[[str], str | None] | None = None
    exact_case: bool = False
    several: pa.Array | None = None

    def difference(self) -> str | None:
        """Say how the list differs from the published one; None if it does not, or if none is known."""
        return self.published.difference(Counter(self.names.to_pylist())) if self.published else None


def open_list(
    listed: OfficialList, root: str | os.PathLike[str], *, source_pattern: str | None = None
) -> Manifest:
    """Find the videos of an official list in a folder.

    Files are matched by name without ending, so transcoded files and any folder layout work. The classes are
    those of the list with at least one video in the folder, of this list or, in UCF101 and HMDB51, of
    another: training and test lists then give the same classes in the same order. Missing files are counted
    in `missing` and reported as a warning, as is a list that differs from the published one. Other files are
    ignored. The folder is walked once.

    A clip of Kinetics is a file `ID_000010_000020.mp4` (whole seconds). Without one, `ID.mp4` is taken for
    the long video, and its listed part is used; without times, all of it.

    Args:
        listed: The list, from `t3d.data.official.read.read_official`, or from `read_ucf101`, `read_hmdb51` or
            `read_kinetics` in the modules of those names.
        root: Folder with the videos, at any depth.
        source_pattern: As in `Manifest.from_folder`, searched in `Class/name` as listed.

    Raises:
        ManifestError: The folder cannot be listed, it has no listed video, or several files have the name of
            a listed one.
        ConfigError: The pattern is not a regular expression or does not have its group.
    """
    return Manifest.from_rows(_find(listed, root, source_pattern))


def _find(listed: OfficialList, root: str | os.PathLike[str], source_pattern: str | None) -> Rows:
    base = absolute(root)
    on_disk, skipped = videos_below(base)
    fold = str if listed.exact_case else str.casefold
    by_stem: dict[str, list[str]] = {}
    for path in on_disk:  # by hand: pathlib needs seconds for a million
        file = path[path.rfind("/") + 1 :]
        by_stem.setdefault(fold(file.rpartition(".")[0] or file), []).append(path)
    names, stems = listed.names.to_pylist(), listed.stems.to_pylist()
    unnamed = UNLABELED if listed.several is None else SEVERAL
    uncut = stems if listed.uncut is None else listed.uncut.to_pylist()
    rows, relative, from_uncut = [], [], []
    missing: Counter[str] = Counter()
    for row, stem in enumerate(stems):
        cut = by_stem.get(fold(stem))
        files = cut or by_stem.get(fold(uncut[row]))
        if files is None:
            missing[names[row] or unnamed] += 1
            continue
        if len(files) > 1:
            raise ManifestError(
                f"{base}: {len(files)} files are named {(stem if cut else uncut[row])!r} "
                f"({', '.join(files[:3])}); keep one of them, or name a folder that holds only one"
            )
        rows.append(row)
        relative.append(files[0])
        from_uncut.append(cut is None)
    if not rows:
        example = f", such as {on_disk[0]!r}" if on_disk else ""
        raise ManifestError(
            f"none of the {len(stems)} videos in {listed.where} is among the {len(on_disk)} videos below "
            f"{base}{example}; they are matched by name without ending ({stems[0]!r})"
        )
    taken = pa.array(rows)
    several = None if listed.several is None else listed.several.take(taken)
    named = listed.names.take(taken) if several is None else several.flatten()
    there = {name.casefold() for name in pc.unique(named.drop_null()).to_pylist()}
    if listed.class_of is not None:
        there |= {name.casefold() for stem in by_stem if (name := listed.class_of(stem)) is not None}
    classes = [name for name in listed.classes if name.casefold() in there]
    _report(listed, base, len(rows), classes, missing)
    start, end = (
        None if seconds is None else pc.if_else(pa.array(from_uncut), seconds.take(taken), None)
        for seconds in (listed.start, listed.end)
    )
    sources = listed.sources.take(taken)
    if source_pattern is not None:
        as_listed = [f"{names[row] or UNLABELED}/{stems[row]}.avi" for row in rows]
        sources = pattern_sources(strings(as_listed), source_pattern)
    return Rows(
        paths=strings(joined(base, relative)),
        names=listed.names.take(taken),
        sources=sources,
        start=start,
        end=end,
        classes=classes,
        skipped=dict(skipped),
        missing={name: missing[name] for name in [*listed.classes, unnamed] if missing[name]},
        several=several,
    )


def _report(
    listed: OfficialList, base: str, count: int, classes: Sequence[str], missing: Mapping[str, int]
) -> None:
    title = str(listed.published or listed.where)
    if different := listed.difference():
        _log.warning(
            "%s: %s; fetch the list again, unless it is meant to be another", listed.where, different
        )
    classes_there = f", {len(classes):,} of {len(listed.classes):,} classes" if listed.classes else ""
    absent = sorted(((missing[name], name) for name in classes if name in missing), reverse=True)
    worst = ", ".join(f"{name} ({number:,})" for number, name in absent[:3])
    more = f" and {len(absent) - 3} more classes" if len(absent) > 3 else ""
    _log.log(
        logging.WARNING if missing else logging.INFO,
        "%s: %s of %s listed videos%s in %s%s",
        *(title, f"{count:,}", f"{len(listed.stems):,}", classes_there, base),
        f"; videos are missing from {worst}{more}" if worst else "",
    )
