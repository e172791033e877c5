"""Contact sheet of videos whose features are alike: near-duplicates and clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t3d.report.pages import write_page
from t3d.report.pictures import Camera
from t3d.report.sections import made_of
from t3d.transfer.alike import Group, clusters, near_duplicates
from t3d.transfer.feature_table import FeatureTable
from t3d.transfer.features_config import FeaturesConfig

_MOST_BYTES = 2_500_000  # of all pictures
_MOST_GROUPS = 60  # of near-duplicates shown
_MOST_PICTURES = 400
_PER_GROUP = 24  # pictures of a group of near-duplicates


@dataclass(frozen=True)
class Thumb:
    """A video in the sheet.

    Args:
        name: Folder and name of its file.
        caption: Class, and the time span of a part.
        picture: Its middle frame in a data URI; empty if it cannot be read.
    """

    name: str
    caption: str
    picture: str


@dataclass(frozen=True)
class SheetGroup:
    """A group in the sheet.

    Args:
        title: What it is.
        thumbs: Its videos.
        more: Number of its videos that are not shown.
    """

    title: str
    thumbs: Sequence[Thumb]
    more: int


def write_sheet(table: FeatureTable, config: FeaturesConfig, path: str | Path, *, command: str = "") -> Path:
    """Write the contact sheet.

    Args:
        table: Features of the videos, or of their clips.
        config: What the features are of, the bound of near-duplicates and the number of clusters.
        path: The .html file.
        command: Command that made it.

    Returns:
        The file.

    Raises:
        WriteError: It cannot be written.
    """
    videos = table.per_video()
    near = near_duplicates(videos.features, config.similar)
    maker = _Thumbs(videos, Camera(config.reading.limits, config.reading.image_fps))
    linked = sum(len(group.rows) for group in near.groups)
    lead = f"{len(videos):,} videos, {videos.features.shape[1]:,} features each."
    sentence = f"No two videos have a cosine of at least {config.similar:g}."
    if near.pairs:
        pairs = "1 pair of videos has" if near.pairs == 1 else f"{near.pairs:,} pairs of videos have"
        groups = f"{len(near.groups):,} {'group' if len(near.groups) == 1 else 'groups'}"
        sentence = (
            f"{pairs} a cosine of at least {config.similar:g}. They link {linked:,} videos into {groups}."
        )
    if not near.all_found:
        sentence += " There are too many pairs to show all: choose a higher bound."
    shown_near = [
        maker.group(f"{len(group.rows)} videos, cosine at least {group.cosine:.3f}", group, _PER_GROUP)
        for group in near.groups[:_MOST_GROUPS]
    ]
    several = clusters(videos.features, config.clusters)
    each = max(4, (_MOST_PICTURES - maker.made) // max(1, len(several)))
    shown = [
        maker.group(f"Cluster {number}: {_described(videos, group)}", group, each)
        for number, group in enumerate(several, start=1)
    ]
    source = config.model or config.teacher or ""
    return write_page(
        path,
        "features.html",
        title=f"Similar videos by the features of {Path(source).name}",
        lead=lead,
        sentence=sentence,
        near=shown_near,
        hidden=max(0, len(near.groups) - _MOST_GROUPS),
        clusters=shown,
        made=made_of(command, {"features of": source, "videos": ", ".join(config.videos)}),
    )


class _Thumbs:
    """Makes thumbnails until the page is full."""

    def __init__(self, table: FeatureTable, camera: Camera) -> None:
        self._table = table
        self._camera = camera
        self._known: dict[int, str] = {}
        self._bytes = 0
        self.made = 0

    def group(self, title: str, group: Group, most: int) -> SheetGroup:
        thumbs = []
        for row in group.rows[:most]:
            if self._bytes > _MOST_BYTES:
                break
            thumbs.append(self._thumb(row))
        return SheetGroup(title, thumbs, len(group.rows) - len(thumbs))

    def _thumb(self, row: int) -> Thumb:
        table = self._table
        start, end = (None if np.isnan(each) else float(each) for each in (table.start[row], table.end[row]))
        if row not in self._known:
            self._known[row] = self._camera.still(Path(str(table.paths[row])), start, end)
        self._bytes += len(self._known[row])
        self.made += 1
        span = "" if start is None else f"from {start:g} s"
        span += "" if end is None else f" to {end:g} s"
        caption = " · ".join(filter(None, (str(table.labels[row]), span.strip())))
        return Thumb("/".join(Path(str(table.paths[row])).parts[-2:]), caption, self._known[row])


def _described(table: FeatureTable, group: Group) -> str:
    """Return the number of videos of a cluster, and its most frequent classes."""
    labels = Counter(str(table.labels[row]) for row in group.rows if table.labels[row])
    parts = ", ".join(f"{count} {name}" for name, count in labels.most_common(3))
    videos = f"{len(group.rows)} {'video' if len(group.rows) == 1 else 'videos'}"
    return f"{videos} ({parts})" if parts else videos
