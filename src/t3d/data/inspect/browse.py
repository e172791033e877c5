"""Write a page that shows videos of lists, and the overlap between the lists: `t3d data browse`."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jinja2
import numpy as np
import PIL.Image

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.spans import frame_range
from t3d.data.index import VideoIndex
from t3d.data.inspect.audit import Summary, compare, summarize
from t3d.data.inspect.shared import Shared
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.table import Entry
from t3d.errors import VideoError, at_least
from t3d.io.files import atomic_path


@dataclass(frozen=True)
class Strip:
    """A video as the page shows it.

    Args:
        name: The file's name.
        caption: Text below its frames.
        picture: Its frames side by side, as a `data:` URL; empty if it cannot be read.
        wrong: Reason why it cannot be read.
    """

    name: str
    caption: str
    picture: str = ""
    wrong: str = ""


@dataclass(frozen=True)
class Pairs:
    """Overlap between two lists, as the page shows it."""

    title: str
    caption: str
    pairs: Sequence[tuple[Strip, Strip]]


@dataclass(frozen=True)
class List:
    """A list as the page shows it."""

    number: int
    name: str
    short: str
    summary: Summary


@dataclass(frozen=True)
class ClassVideos:
    """Some videos of a class in one list."""

    number: int
    title: str
    caption: str
    videos: Sequence[Strip]


def write_page(
    path: str | os.PathLike[str],
    manifests: Mapping[str, Manifest],
    *,
    index: VideoIndex | None = None,
    per_class: int = 4,
    pairs: int = 24,
    frames: int = 5,
    height: int = 96,
    seed: int = 0,
) -> Path:
    """Write a page with some videos of each class, and with pairs that two lists share.

    Args:
        path: The `.html` file, which is self-contained.
        manifests: The lists, by name.
        index: Index of their files, needed to find near-duplicates.
        per_class: Videos shown per class and list, drawn at random.
        pairs: Largest number of pairs shown per two lists: identical files first, then one pair per two
            groups.
        frames: Frames shown per video, spread evenly over its span.
        height: Height of each frame, in pixels.
        seed: Seed of the random draw of videos.

    Returns:
        The file.

    Raises:
        ConfigError: A number is too small.
    """
    for name, value in (("per_class", per_class), ("frames", frames), ("height", height)):
        at_least(name, value, 1)
    at_least("pairs", pairs, 0)
    at_least("seed", seed, 0)
    maker = _StripMaker(index, frames=frames, height=height)
    rng = np.random.default_rng(seed)
    short = short_names(list(manifests))
    shared = [_pairs(each, maker, manifests, short, most=pairs) for each in compare(manifests, index)]
    by_class = groupby(_class_videos(manifests, maker, short, per_class, rng), key=lambda each: each.title)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("t3d"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("browse.html").render(
        title=", ".join(short.values()),
        lead=f"At most {per_class} videos per class and list, drawn at random; {frames} frames per video.",
        lists=[
            List(number, name, short[name], summarize(manifest, index))
            for number, (name, manifest) in enumerate(manifests.items())
        ],
        shared=shared,
        classes=[(title, list(groups)) for title, groups in by_class],
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(path)


class _StripMaker:
    """Cut videos into strips of a few frames, as pictures for the page."""

    def __init__(self, index: VideoIndex | None, *, frames: int, height: int) -> None:
        self.spec = ClipSpec(num_frames=1, size=1, resize=height)
        self.store = FrameStore(self.spec, index=index)
        self.frames = frames
        self.height = height

    def strip(self, entry: Entry, caption: str) -> Strip:
        name = entry.path.name
        try:
            opened = self.store.open(entry.path)
            low, high = frame_range(opened, entry)
            wanted = low + ((np.arange(self.frames) + 0.5) / self.frames * (high - low)).astype(np.int64)
            pixels = opened.images(wanted)
        except VideoError as error:
            return Strip(name, caption, wrong=error.reason)
        seconds = opened.times[high - 1] - opened.times[low]
        length = f"{high - low} frames, {seconds:.1f} s"
        return Strip(name, f"{length} · {caption}" if caption else length, self._picture(pixels))

    def _picture(self, pixels: np.ndarray) -> str:
        row = PIL.Image.fromarray(np.concatenate(list(pixels), axis=1))
        if (
            row.height > self.height
        ):  # an upright video: `height` was the length of its shorter side, the width
            row = row.resize((row.width * self.height // row.height, self.height))
        file = io.BytesIO()
        row.save(file, "jpeg", quality=80)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Shorten paths to their last parts, as few as tell them apart.

    Example:
        >>> list(short_names(["a/train", "b/train", "b/test"]).values())
        ['a/train', 'b/train', 'b/test']
    """
    for count in range(1, max((len(Path(name).parts) for name in names), default=1) + 1):
        short = {name: "/".join(Path(name).parts[-count:]) for name in names}
        if len(set(short.values())) == len(short):
            return short
    return {name: name for name in names}


def _class_videos(
    manifests: Mapping[str, Manifest],
    maker: _StripMaker,
    short: Mapping[str, str],
    per_class: int,
    rng: np.random.Generator,
) -> list[ClassVideos]:
    """Draw videos of each class and list, in the order of the classes' names."""
    groups = []
    for number, (listed, manifest) in enumerate(manifests.items()):
        paired, labels = manifest.label_pairs()
        bare, labeled = paired[labels < 0], manifest.labeled
        classes = [(name, paired[labels == label]) for label, name in enumerate(manifest.classes)]
        classes += [("without a label", bare[~labeled[bare]]), ("no class applies", bare[labeled[bare]])]
        for name, rows in classes:
            if not len(rows):
                continue
            chosen = np.sort(rng.choice(rows, min(per_class, len(rows)), replace=False))
            videos = [maker.strip(manifest[row], _caption(manifest, row)) for row in chosen.tolist()]
            groups.append(ClassVideos(number, name, f"{short[listed]}: {len(rows)} videos", videos))
    return sorted(groups, key=lambda group: group.title)


def _caption(manifest: Manifest, row: int) -> str:
    entry = manifest[row]
    several = ", ".join(manifest.classes[label] for label in entry.labels or ())
    return f"{several} · group {entry.source}" if several else f"group {entry.source}"


def _pairs(
    shared: Shared,
    maker: _StripMaker,
    manifests: Mapping[str, Manifest],
    short: Mapping[str, str],
    *,
    most: int,
) -> Pairs:
    """Show the files with the same bytes, then the nearest pair of each two groups."""
    sources: dict[str, str] = {}
    for name in (shared.one, shared.two):
        table = manifests[name].table
        sources |= zip(table["path"].to_pylist(), table["source"].to_pylist(), strict=True)
    reasons = dict.fromkeys(shared.same, "same bytes")
    alike = Counter((sources[one], sources[two]) for one, two, _ in shared.near)
    for one, two, apart in shared.near:
        if count := alike.pop((sources[one], sources[two]), 0):
            more = f", and {count - 1} more pairs of these groups" if count > 1 else ""
            reasons[one, two] = f"near-duplicate, {apart:.1%} of the bits differ{more}"
    return Pairs(
        title=f"{short[shared.one]} and {short[shared.two]} share",
        caption=(
            f"{len(shared.files)} files, {len(shared.sources)} groups, {len(shared.same)} pairs of files "
            f"with the same bytes, {len(shared.near)} near-duplicates from different groups."
        ),
        pairs=[
            (
                maker.strip(_whole(one), short[shared.one]),
                maker.strip(_whole(two), f"{short[shared.two]} · {reason}"),
            )
            for (one, two), reason in list(reasons.items())[:most]
        ],
    )


def _whole(path: str) -> Entry:
    return Entry(Path(path), None, None, None, path)
