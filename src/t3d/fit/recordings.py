"""Recordings: which videos belong together, and whether there are enough to hold some out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from t3d.data.index import VideoIndex
from t3d.data.inspect.groups import join_groups
from t3d.data.inspect.shared import with_groups
from t3d.data.manifest.manifest import Manifest
from t3d.data.split_lists import Shares, split
from t3d.errors import ManifestError
from t3d.fit.config import FitConfig


def join_copies(
    config: FitConfig, videos: Manifest, test: Manifest | None, index: VideoIndex
) -> tuple[Manifest, int, int]:
    """Make one recording of copies and near-duplicates, and leave out the recordings that are tested.

    Args:
        config: Options of the fit.
        videos: Labeled videos.
        test: Videos to test on, if they were given.
        index: Index of their files.

    Returns:
        The videos, the number of those left out, and the number of recordings that were joined.

    Raises:
        ManifestError: No video of a class is left.
    """
    if test is None or config.test is None:
        grouped = join_groups(videos, index, near=True).videos
        return grouped, 0, len(videos.sources()) - len(grouped.sources())
    tables = with_groups(videos.table, test.table)
    named, tested = (replace(part, table=table) for part, table in zip((videos, test), tables, strict=True))
    both = join_groups(named.followed_by(tested), index, near=True).videos
    sources = np.array(both.table["source"].to_pylist(), dtype=object)
    mine = np.arange(len(both)) < len(videos)
    kept = both.select(mine & ~np.isin(sources, sources[~mine]))
    for name, count in kept.class_counts().items():
        if not count:
            raise ManifestError(
                f"{config.videos}: all videos of the class {name!r} are also in {config.test}, or similar to "
                "its videos (same bytes, group or a near-duplicate); test on other videos"
            )
    return kept, len(videos) - len(kept), len(named.sources()) - len(both.select(mine).sources())


def refuse_few(config: FitConfig, videos: Manifest, *, joined: int = 0) -> None:
    """Refuse videos that are too few to hold out recordings for the test.

    Args:
        config: Options of the fit.
        videos: Labeled videos.
        joined: Recordings that were found to be copies or near-duplicates of others.

    Raises:
        ManifestError: No class has two recordings, and no videos to test on are given.
    """
    if config.test is not None:
        return
    try:
        split(videos, Shares(0.0, config.shares.test_fraction, config.shares.seed))
    except ManifestError as error:
        count = len(videos.sources())
        verb = "are copies or near-duplicates" if joined > 1 else "is a copy or near-duplicate"
        copies = f" ({joined} {verb} of another)" if joined else ""
        named = ""
        if count + joined < len(videos):  # by their names, or the column of a list
            named = (
                ". If they are not, name recordings more finely (`source_pattern`, or the column `source`)"
            )
        raise ManifestError(
            f"{config.videos}: no recording can be held out for the test, because no class has two of them: "
            f"{len(videos)} videos are of {count} recordings{copies}{named}. Add videos of other recordings, "
            "or give videos to test on as `test`"
        ) from error
