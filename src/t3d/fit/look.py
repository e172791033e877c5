"""Look at the videos of a fit: read every file once, leave out what is broken, join what belongs together."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from t3d.data.catalog import open_videos, refuse_other_targets, refuse_unlabeled, refuse_unused_root
from t3d.data.clips.check import refuse_many
from t3d.data.index import VideoIndex
from t3d.data.inspect.audit import Summary, summarize
from t3d.data.inspect.shared import file_facts
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError, printable
from t3d.fit.config import FitConfig
from t3d.fit.folder import FitFolder
from t3d.fit.recordings import join_copies, refuse_few
from t3d.prepare.index import IndexReport, index_videos
from t3d.progress import in_words

_clock = time.monotonic

Say = Callable[[str], None]

_MANY, _SAMPLE = 50, 12  # videos
_WORTH_SAYING = 15.0  # seconds
_LISTED = 5  # names in a sentence; the report has all


@dataclass(frozen=True)
class Looked:
    """Facts about the videos.

    Args:
        videos: Labeled videos that can be read. The column `source` names their recordings.
        test: Videos to test on, if they were given.
        unlabeled: Videos without labels, if they were given.
        summary: Counts of the labeled videos, broken ones included.
        bad: Files that cannot be read.
        shared: Labeled videos that were left out, since they are also in `test`, or similar to one there.
        joined: Recordings before copies and near-duplicates were joined, minus those after.
        index: The index of all files.
        reading: Seconds of reading per second of video, where files were read now; None where all were known.
    """

    videos: Manifest
    test: Manifest | None
    unlabeled: Manifest | None
    summary: Summary
    bad: tuple[Failed, ...]
    shared: int
    joined: int
    index: VideoIndex
    reading: float | None

    def seconds(self, videos: Manifest | None) -> np.ndarray:
        """Return the length of each row in seconds, float64 [N], see `lengths_of`."""
        return np.zeros(0) if videos is None else lengths_of(videos, self.index)

    def shared_sentence(self) -> str:
        """Return how many videos are also tested; empty if there are none."""
        if not self.shared:
            return ""
        are = "videos are" if self.shared > 1 else "video is"
        return (
            f"{self.shared} labeled {are} also in the test list, or similar to a video there (same bytes, "
            f"group or a near-duplicate), and left out."
        )

    def joined_sentence(self) -> str:
        """Return how many copies there are; empty if there are none."""
        if not self.joined:
            return ""
        are = (
            "videos are copies or near-duplicates" if self.joined > 1 else "video is a copy or near-duplicate"
        )
        return f"{self.joined} {are} of another; they count as one recording."


def lengths_of(videos: Manifest, index: VideoIndex) -> np.ndarray:
    """Return the length of each row in seconds, float64 [N]: of its time span, or of its file.

    Args:
        videos: The videos.
        index: Index of their files.
    """
    facts = file_facts(videos, index)
    rows = pc.index_in(videos.table["path"].combine_chunks(), value_set=facts["path"].combine_chunks())
    whole = facts["duration"].fill_null(0.0).take(rows).to_numpy()
    start = np.nan_to_num(videos.table["start"].to_numpy(), nan=0.0)
    end = videos.table["end"].to_numpy()
    return np.maximum(np.where(np.isnan(end), whole, np.minimum(end, whole)) - start, 0.0)


def look(config: FitConfig, folder: FitFolder, say: Say) -> Looked:
    """Read every file once.

    Args:
        config: Options of the fit.
        folder: Its folder, which gets an index of the files.
        say: Function that prints a sentence.

    Raises:
        ManifestError: The videos or their labels cannot be used.
    """
    videos = _open(config, config.videos, labeled=True)
    refuse_unusable(videos, config.videos)
    refuse_few(config, videos)
    given = {"videos": videos}
    if config.test is not None:
        test = _open(config, config.test, labeled=True)
        refuse_unlabeled(test, name=config.test)
        refuse_other_targets(test, videos.targets, name=config.test, other=config.videos)
        given["test"] = test.with_classes(videos.classes, name=config.test, owner="the training videos")
    if config.unlabeled_videos is not None:
        given["unlabeled"] = _open(config, config.unlabeled_videos, labeled=False)
    _expect_reading(config, folder, given, say)
    spent = length = 0.0
    bad: list[Failed] = []
    for name, part in given.items():
        began = _clock()
        report = _indexed(config, folder, name, part)
        if report.examined:
            spent += _clock() - began
            length += report.seconds * report.examined / max(1, report.files)
        broken = {failed.path for failed in report.bad}
        bad += report.bad
        paths = part.table["path"].to_pylist()
        given[name] = part.select(np.array([path not in broken for path in paths], dtype=np.bool_))
    index = VideoIndex.read(*sorted(folder.indexes.glob("*.parquet")))
    summary = summarize(videos, index)
    for name in ("videos", "test"):
        if name in given:
            for leave_out in (_without_empty, _without_contradictions):
                given[name], failed = leave_out(given[name], index)
                bad += failed
    refuse_many(bad, among=sum(map(len, given.values())) + len(bad), max_bad=config.max_bad, option="max_bad")
    refuse_lost(given["videos"], bad, config.videos)
    kept, shared, joined = join_copies(config, given["videos"], given.get("test"), index)
    refuse_few(config, kept, joined=joined)
    looked = Looked(
        kept,
        given.get("test"),
        given.get("unlabeled"),
        summary,
        tuple(bad),
        shared,
        joined,
        index,
        spent / length if length else None,
    )
    for sentence in sentences(looked):
        say(sentence)
    return looked


def _indexed(config: FitConfig, folder: FitFolder, name: str, videos: Manifest) -> IndexReport:
    """Read every file that is not in the index yet."""
    limits = config.limits
    return index_videos(
        videos,
        folder.indexes / f"{name}.parquet",
        workers=max(1, config.compute.workers),
        timeout=limits.timeout,
        max_megapixels=limits.max_megapixels,
        image_fps=config.image_fps,
    )


def _expect_reading(config: FitConfig, folder: FitFolder, given: Mapping[str, Manifest], say: Say) -> None:
    """Read some of many files, and say how long all of them take.

    Raises:
        ConfigError: Longer than the whole fit may take.
    """
    for name, part in given.items():
        file = folder.indexes / f"{name}.parquet"
        known = len(VideoIndex.read(file)) if file.exists() else 0
        if len(part) <= _MANY or known > _SAMPLE + 1:
            continue
        rows = np.linspace(0, len(part) - 1, _SAMPLE + 1).round().astype(np.int64)
        times = []
        for some in (part.select(rows[:1]), part.select(rows)):  # the first file shows what a start takes
            began = _clock()
            _indexed(config, folder, name, some)
            times.append(_clock() - began)
        share = max(1, _bytes_of(part)) / max(1, _bytes_of(part.select(rows[1:])))
        seconds = share * max(0.0, times[1] - times[0])
        if seconds > 60 * config.minutes:
            file.unlink()  # so that the next call estimates again
            raise ConfigError(
                f"minutes is {config.minutes:g}, but reading the {len(part)} videos of {name} once takes "
                f"about {in_words(seconds)}. Set `minutes` to at least {math.ceil(2 * seconds / 60)}, or "
                "give fewer or smaller videos (`t3d prepare transcode` makes them smaller)"
            )
        if seconds > _WORTH_SAYING:
            say(f"Reading {len(part)} videos once takes about {in_words(seconds)}")


def _bytes_of(videos: Manifest) -> int:
    """Return the size of all files; missing ones have none."""
    paths = [Path(path) for path in pc.unique(videos.table["path"]).to_pylist()]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _without_empty(videos: Manifest, index: VideoIndex) -> tuple[Manifest, list[Failed]]:
    """Leave out time spans that begin after the end of their file."""
    spans = np.nan_to_num(videos.table["start"].to_numpy(), nan=0.0) > 0
    empty = spans & (lengths_of(videos, index) <= 0)
    paths = videos.table["path"].to_pylist()
    rows = np.flatnonzero(empty).tolist()
    bad = [Failed(paths[row], "its time span begins after the end of the file", row) for row in rows]
    return videos.select(~empty), bad


def _without_contradictions(videos: Manifest, index: VideoIndex) -> tuple[Manifest, list[Failed]]:
    """Leave out files with the same bytes and different labels: which label is right is not known."""
    paths, labels = videos.table["path"].to_pylist(), videos.label_names().to_pylist()
    first: dict[str, tuple[str, object]] = {}  # path and label of the first file with these bytes
    other: dict[str, str] = {}
    facts = file_facts(videos, index)
    digests = dict(zip(facts["path"].to_pylist(), facts["digest"].to_pylist(), strict=True))
    for path, label in zip(paths, labels, strict=True):
        if digests[path] is None:
            continue
        known, its_label = first.setdefault(digests[path], (path, label))
        if known != path and its_label != label:
            other[path], other[known] = known, path
    bad = [
        Failed(
            path, f"it has the same bytes as {other[path]}, which has another label; correct the labels", row
        )
        for row, path in enumerate(paths)
        if path in other
    ]
    return videos.select(np.array([path not in other for path in paths], dtype=np.bool_)), bad


def _open(config: FitConfig, name: str, *, labeled: bool) -> Manifest:
    """Open a list of videos. Those without labels may be in any layout."""
    root = None if Path(name).is_dir() else config.root
    if name == config.videos:
        refuse_unused_root(config.root, *filter(None, (config.videos, config.test, config.unlabeled_videos)))
    if not labeled and Path(name).is_dir():
        return Manifest.from_files([name], source_pattern=config.source_pattern)
    pattern = config.source_pattern if name == config.videos or Path(name).is_dir() else None
    videos = open_videos(name, root=root, source_pattern=pattern, classes=config.classes)
    return videos if labeled else videos.without_labels()


def refuse_unusable(videos: Manifest, name: str) -> None:
    """Refuse labels that no classifier can learn.

    Args:
        videos: The videos.
        name: Their name in the message.

    Raises:
        ManifestError: A video has no label, there are fewer than two classes, or two names of classes differ
            only in case or spaces.
    """
    unlabeled = np.flatnonzero(~videos.labeled)
    if len(unlabeled) == len(videos):
        raise ManifestError(
            f"{name}: no video has a label. Put the videos of each class into a folder with its name, or "
            "give a table with the columns path and label"
        )
    if len(unlabeled):
        raise ManifestError(
            f"{name}: {len(unlabeled)} of {len(videos)} videos have no label, first "
            f"{videos[int(unlabeled[0])].path}; label them, or give them as `unlabeled_videos`"
        )
    if len(videos.classes) < 2 and videos.targets == "single":
        raise ManifestError(
            f"{name}: all {len(videos)} videos have the label {videos.classes[0]!r}; a classifier needs at "
            "least 2 classes. Add videos of another class, such as `other`"
        )
    same = defaultdict(list)
    for each in videos.classes:
        same["".join(each.casefold().split())].append(each)
    for names in same.values():
        if len(names) > 1:
            raise ManifestError(
                f"{name}: the classes {' and '.join(map(repr, names))} differ only in case or spaces; give "
                "them one name"
            )


def refuse_lost(kept: Manifest, bad: Sequence[Failed], name: str) -> None:
    """Raise an error if broken files leave a class without videos.

    Args:
        kept: Videos that can be read.
        bad: Files that cannot be read.
        name: Name of the videos in the message.

    Raises:
        ManifestError: A class has no video left.
    """
    lost = [label for label, count in kept.class_counts().items() if not count]
    if lost:
        raise ManifestError(
            f"{name}: no video of the class {lost[0]!r} can be read; "
            + "; ".join(printable(str(failed)) for failed in bad[:_LISTED])
        )


def sentences(looked: Looked) -> list[str]:
    """Return what was seen, in plain sentences."""
    videos, summary = looked.videos, looked.summary
    counts = [f"{printable(name)} {count}" for name, count in videos.class_counts().items()]
    shown = ", ".join(counts[:12]) + (f" and {len(counts) - 12} more" if len(counts) > 12 else "")
    rates, shapes = (_most(each) for each in (summary.rates, summary.shapes))
    lines = [
        f"{len(videos)} videos of {len(videos.classes)} classes ({shown}), "
        f"{in_words(float(looked.seconds(videos).sum()))} in all; {shapes} pixels; {rates} frames per second"
    ]
    if summary.mixed_rates:
        lines.append(f"{summary.mixed_rates}. Clips are sampled by time, so this does no harm")
    if looked.bad:
        several = len(looked.bad) > 1
        lines.append(
            f"{len(looked.bad)} {'files' if several else 'file'} cannot be used and "
            f"{'are' if several else 'is'} left out: "
            + "; ".join(printable(str(failed)) for failed in looked.bad[:_LISTED])
            + ("; …" if len(looked.bad) > _LISTED else "")
        )
    lines += [sentence for sentence in (looked.shared_sentence(), looked.joined_sentence()) if sentence]
    if looked.unlabeled is not None:
        lines.append(
            f"{len(looked.unlabeled)} videos without labels, "
            f"{in_words(float(looked.seconds(looked.unlabeled).sum()))}"
        )
    return lines


def _most(counts: dict[str, int]) -> str:
    """Name the most frequent value, and that there are others."""
    names = list(counts)
    return ("mostly " if len(names) > 1 else "") + (names[0] if names else "unknown")
