"""What lists of videos hold, and what they share that they should not: `t3d data check`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from t3d.clip import Targets
from t3d.data.index import VideoIndex, failed_in
from t3d.data.inspect.duplicates import find_duplicates
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed


@dataclass(frozen=True)
class Summary:
    """What one list holds.

    Args:
        videos: Rows.
        targets: Whether a row has one label (`single`) or may have several (`multi`).
        files: Files that they name.
        sources: Distinct sources.
        classes: Rows of each class, in class order.
        unlabeled: Rows that nobody has labeled.
        none: Rows of which the list says that no class applies.
        missing: Listed videos that are not there, by class.
        unknown: Files that the index does not name; all of them where there is none. The rest of this
            summary is about the others.
        bad: Files that cannot be read.
        damaged: Files that can be read in part.
        seconds: Length of all files.
        size: Bytes of all files.
        frames: Least, median and largest number of frames.
        shapes: Files by width × height, the most frequent first.
        rates: Files by frames per second, the most frequent first.
        codecs: Files by codec, the most frequent first.
    """

    videos: int
    targets: Targets
    files: int
    sources: int
    classes: dict[str, int]
    unlabeled: int
    none: int
    missing: dict[str, int]
    unknown: int
    bad: tuple[Failed, ...]
    damaged: tuple[Failed, ...]
    seconds: float
    size: int
    frames: tuple[int, int, int] | None
    shapes: dict[str, int]
    rates: dict[str, int]
    codecs: dict[str, int]


@dataclass(frozen=True)
class Shared:
    """What two lists share. Where one is for training and the other for testing, each is a leak.

    Args:
        one: Name of a list.
        two: Name of another.
        files: Files that both name.
        sources: Sources that both name; a file that is its own source counts as none.
        same: Pairs of files with the same bytes, the first of `one`; files that both name left out.
        near: Pairs of files of different sources that are near-duplicates, with the share of bits that
            differ.
    """

    one: str
    two: str
    files: tuple[str, ...]
    sources: tuple[str, ...]
    same: tuple[tuple[str, str], ...]
    near: tuple[tuple[str, str, float], ...]

    def __bool__(self) -> bool:
        """Whether they share anything."""
        return bool(self.files or self.sources or self.same or self.near)


def summarize(manifest: Manifest, index: VideoIndex | None = None) -> Summary:
    """Count what a list holds.

    Args:
        manifest: The list.
        index: What is known of its files.

    Example:
        >>> table = pa.table({"path": ["a.mp4"], "label": [0], "start": [0.0], "end": [9], "source": ["a"]})
        >>> summarize(Manifest(("Jump",), table)).classes
        {'Jump': 1}
    """
    _, labels = manifest.label_pairs()
    facts = _facts(manifest, index)
    known = facts.filter(pc.is_valid(facts["frames"]))
    frames = known["frames"].to_numpy()
    bad = failed_in(facts, "error")
    shapes = zip(known["width"].to_pylist(), known["height"].to_pylist(), strict=True)
    return Summary(
        videos=len(manifest),
        targets=manifest.targets,
        files=len(facts),
        sources=len(manifest.sources()),
        classes=manifest.class_counts(),
        unlabeled=int((~manifest.labeled).sum()),
        none=int((labels < 0).sum() - (~manifest.labeled).sum()),
        missing=dict(manifest.missing),
        unknown=len(facts) - len(known) - len(bad),
        bad=bad,
        damaged=failed_in(facts, "damage"),
        seconds=pc.sum(known["duration"]).as_py() or 0.0,
        size=pc.sum(known["size"]).as_py() or 0,
        frames=(int(frames.min()), int(np.median(frames)), int(frames.max())) if len(frames) else None,
        shapes=_counted(f"{width} × {height}" for width, height in shapes),
        rates=_counted(f"{rate:.4g}" for rate in known["fps"].to_pylist()),
        codecs=_counted(known["codec"].to_pylist()),
    )


def compare(manifests: Mapping[str, Manifest], index: VideoIndex | None = None) -> list[Shared]:
    """Find what lists share, two by two.

    Args:
        manifests: Two lists or more, by name.
        index: What is known of their files; without it, files with the same bytes and near-duplicates are not
            found.

    Returns:
        One entry for each two lists.
    """
    facts = {name: _facts(manifest, index) for name, manifest in manifests.items()}
    return [_shared(one, two, facts[one], facts[two]) for one, two in combinations(facts, 2)]


def _shared(one: str, two: str, left: pa.Table, right: pa.Table) -> Shared:
    sides = [set(table["path"].to_pylist()) for table in (left, right)]
    sources = [set(table["source"].to_pylist()) for table in (left, right)]
    both = sides[0] & sides[1]
    other = pc.invert(pc.is_in(right["path"], pa.array(sorted(both), pa.string())))
    union = pa.concat_tables([left, right.filter(other)])
    # Every pair of one digest, not only one of each group: each is a video that should not be there.
    by_digest: list[dict[str, list[str]]] = [{}, {}]
    for table, groups in zip((left, right), by_digest, strict=True):
        for path, digest in zip(table["path"].to_pylist(), table["digest"].to_pylist(), strict=True):
            if digest is not None and path not in both:
                groups.setdefault(digest, []).append(path)
    shared = sorted(by_digest[0].keys() & by_digest[1].keys())
    same = [(a, b) for digest in shared for a in by_digest[0][digest] for b in by_digest[1][digest]]
    near = []
    for a, b, apart in find_duplicates(union, near=True).near:
        if a in sides[0] and b in sides[1]:
            near.append((a, b, apart))
        elif b in sides[0] and a in sides[1]:
            near.append((b, a, apart))
    return Shared(
        one=one,
        two=two,
        files=tuple(sorted(both)),
        sources=tuple(sorted(sources[0] & sources[1])),
        same=tuple(sorted(same)),
        near=tuple(near),
    )


def _facts(manifest: Manifest, index: VideoIndex | None) -> pa.Table:
    """Path, source and what is known of each file that a list names, one row a file."""
    rows = manifest.table.group_by("path", use_threads=False).aggregate([("source", "first")])
    known = (index or VideoIndex.empty()).rows(rows["path"].to_pylist())
    paths, sources = rows["path"].to_pylist(), rows["source_first"].to_pylist()
    own = [_own(path, source) for path, source in zip(paths, sources, strict=True)]
    columns = {"path": rows["path"], "source": pa.array(own, pa.string())}
    return pa.table(columns | {name: known[name] for name in known.column_names}).combine_chunks()


def _own(path: str, source: str) -> str:
    """The source, or the whole path where a file is its own: `fight/1` of two folders are two videos."""
    stem = path[: path.rfind(".")].replace(os.sep, "/")
    return path if f"/{stem}".endswith(f"/{source}") else source


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
