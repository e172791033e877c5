"""`t3d data split`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from t3d.cli.options import Spelling
from t3d.cli.videos import VideoSet
from t3d.data.split_lists import PARTS, Shares
from t3d.errors import ConfigError, Failed, printable
from t3d.io.files import is_url

if TYPE_CHECKING:
    from t3d.data.index import VideoIndex
    from t3d.data.inspect.groups import Grouped
    from t3d.data.manifest.manifest import Manifest

_SMALL = 40  # maximum number of classes with one table line per class; --json has all classes


_MAX_MISSING = 0.01  # share of a list's files that may be missing, as `data.max_bad` of a training


@Spelling(metavars={"val_fraction": "X", "test_fraction": "X"})
def split(
    source: VideoSet,
    shares: Shares,
    *,
    out: str | None = None,
    group_near_duplicates: bool = False,
    index: str | None = None,
    workers: int = 2,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Divide videos into lists for training, validation and testing.

    Writes `train.csv`, `val.csv` and `test.csv`. Groups (clips of one recording) are never divided. Files
    that cannot be read, by the index, are left out, and the exit status is 1.

    Args:
        out: Folder for the lists. Default: the folder of the videos, so that both can be moved together.
        group_near_duplicates: Put near-duplicates into one group. Perceptual hashes are read from `index`.
            Without it, all videos are decoded, and `index.parquet` is written.
        index: Index of the files, written by `t3d prepare index`.
        workers: Processes that decode videos to find near-duplicates.
        overwrite: Replace the lists of an earlier split in `out`.
        json: Print the report as JSON.
    """
    from t3d.data.catalog import open_index
    from t3d.data.inspect.groups import join_groups
    from t3d.data.moved import refuse_moved
    from t3d.data.split_lists import missing_classes, refuse_existing, write_lists
    from t3d.data.split_lists import split as divided

    folder = _folder(source, out)
    refuse_existing(folder, overwrite=overwrite)
    if Path(source.videos).resolve() in [(folder / f"{name}.csv").resolve() for name in PARTS]:
        raise ConfigError(
            f"{source.videos} would be overwritten by one of the new lists; choose another `out`"
        )
    videos = source.open()
    absent = refuse_moved(videos, source.videos, root=source.root, max_missing=_MAX_MISSING)
    if absent is not None:
        print(f"t3d: {source.videos}: {absent}", file=sys.stderr)
    known = open_index(index, source.videos, root=source.root)
    if group_near_duplicates and known is None:
        known = _indexed(videos, folder / "index.parquet", workers)
    videos, bad = _readable(videos, known)
    for failed in bad:
        print(f"t3d: {printable(str(failed))}; it is in no list", file=sys.stderr)
    grouped = join_groups(videos, known, near=group_near_duplicates)
    parts = divided(grouped.videos, shares)
    files = write_lists(parts, folder, overwrite=overwrite)
    missing = missing_classes(parts)
    if json:
        report = _report(grouped, parts, files) | {"bad": [asdict(failed) for failed in bad]}
        print(dumps(report, ensure_ascii=False))
        return 1 if bad else 0
    _print_table(parts)
    _print_groups(grouped, near=group_near_duplicates, named=source.source_pattern is not None)
    for name, labels in missing.items():
        shown = ", ".join(map(printable, labels[:10])) + (
            f" and {len(labels) - 10} more" if len(labels) > 10 else ""
        )
        print(f"Warning: no video in {name}.csv of class {shown}: too few groups")
    print(f"Wrote {', '.join(map(str, files))}")
    return 1 if bad else 0


def _readable(videos: Manifest, index: VideoIndex | None) -> tuple[Manifest, tuple[Failed, ...]]:
    """Leave out the files that cannot be read, by the index."""
    from t3d.data.index import failed_in
    from t3d.data.inspect.shared import file_facts

    if index is None:
        return videos, ()
    bad = failed_in(file_facts(videos, index), "error")
    broken = {failed.path for failed in bad}
    kept = np.array([path not in broken for path in videos.table["path"].to_pylist()], dtype=np.bool_)
    return videos.select(kept), bad


def _folder(source: VideoSet, out: str | None) -> Path:
    if out is not None:
        return Path(out)
    if is_url(source.videos):
        raise ConfigError(
            f"{source.videos} is not in a local folder; set `out` to a local folder for the lists"
        )
    given = Path(source.videos)
    return given if given.is_dir() else Path(source.root) if source.root else given.parent


def _indexed(videos: Manifest, file: Path, workers: int) -> VideoIndex:
    """Decode the videos to compute their perceptual hashes."""
    from t3d.data.index import VideoIndex
    from t3d.prepare.index import index_videos

    report = index_videos(videos, file, workers=workers, near_duplicates=False)
    print(f"{file}: {report.files} files, {report.examined} decoded now", file=sys.stderr)
    return VideoIndex.read(file)


def _print_table(parts: Mapping[str, Manifest]) -> None:
    counts = [part.class_counts() for part in parts.values()]
    unlabeled = [int((~part.labeled).sum()) for part in parts.values()]
    classes = list(counts[0])
    rows: list[tuple[str, Sequence[int]]] = [
        (printable(name), [count[name] for count in counts]) for name in classes
    ]
    if len(rows) > _SMALL:
        rows = []
        print(f"{len(classes)} classes (--json has the counts of each)")
    if any(unlabeled):
        rows.append(("(unlabeled)", unlabeled))
    rows.append(("videos", [len(part) for part in parts.values()]))
    rows.append(("groups", [len(part.sources()) for part in parts.values()]))
    width = max(len(name) for name, _ in rows)
    print(" " * width + "".join(f"{name:>8}" for name in parts))
    for name, numbers in rows:
        print(f"{name:{width}}" + "".join(f"{number:>8}" for number in numbers))


def _print_groups(grouped: Grouped[Manifest], *, near: bool, named: bool) -> None:
    count = len(grouped.videos.sources())
    if grouped.own == grouped.files and not named:
        hint = "" if near else "; use --group-near-duplicates or --source-pattern if clips share a recording"
        alone = "each video is its own group"
        if grouped.copies or grouped.near:
            alone = "each video is its own group, except those joined below"
        print(f"No group names in the list or the file names: {alone}{hint}")
    else:
        unnamed = f"; {grouped.own} files without a group name are their own groups" if grouped.own else ""
        print(f"{grouped.files} files in {count} groups{unnamed}")
    if grouped.copies:
        files = "file is a copy" if grouped.copies == 1 else "files are copies"
        print(f"{grouped.copies} {files} of another file: joined with it to one group")
    if near:
        pairs = "pair" if grouped.near == 1 else "pairs"
        joined = (
            f", joined to one group each; {count} groups remain, the largest with {grouped.largest} of "
            f"{len(grouped.videos)} videos"
        )
        print(f"Near-duplicates: {grouped.near} {pairs}" + (joined if grouped.near else ""))
        if grouped.uncompared:
            reasons = ", ".join(f"{number} {reason}" for reason, number in grouped.uncompared.items())
            files, pronoun = ("file", "it") if sum(grouped.uncompared.values()) == 1 else ("files", "each")
            print(
                f"{sum(grouped.uncompared.values())} {files} could not be compared ({reasons}); {pronoun} "
                "stays in its own group"
            )


def _report(
    grouped: Grouped[Manifest], parts: Mapping[str, Manifest], files: Sequence[Path]
) -> dict[str, object]:
    lists = {
        name: {
            "file": str(file),
            "videos": len(part),
            "groups": len(part.sources()),
            "classes": part.class_counts(),
        }
        for (name, part), file in zip(parts.items(), files, strict=True)
    }
    counts = ("files", "own", "copies", "near", "hashed", "uncompared", "largest")
    return {"lists": lists, "groups": {name: getattr(grouped, name) for name in counts}}
