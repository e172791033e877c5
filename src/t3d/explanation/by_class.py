"""Temporal depths of many videos: the mean contribution of each branch per class."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from t3d.explanation.depths import DepthShare, mean_depths


@dataclass(frozen=True)
class ClassDepths:
    """Depths of the videos of one class.

    Args:
        label: The explained class.
        videos: Number of videos.
        depths: Mean contributions, and their shares of the means of each layer.
    """

    label: str
    videos: int
    depths: tuple[DepthShare, ...]


def depths_by_class(pairs: Iterable[tuple[str, tuple[DepthShare, ...]]]) -> list[ClassDepths]:
    """Return the depths of each class, by name.

    Args:
        pairs: Class and depths of each video. Videos without depths are left out.

    Example:
        >>> one = (DepthShare("transition1", 1, 3.0, 1.0), DepthShare("transition1", 6, 0.0, 0.0))
        >>> two = (DepthShare("transition1", 1, 1.0, 0.2), DepthShare("transition1", 6, 4.0, 0.8))
        >>> [each.share for each in depths_by_class([("run", one), ("run", two)])[0].depths]
        [0.5, 0.5]
    """
    videos: dict[str, list[tuple[DepthShare, ...]]] = {}
    for label, depths in pairs:
        if depths:
            videos.setdefault(label, []).append(depths)
    return [ClassDepths(label, len(each), mean_depths(each)) for label, each in sorted(videos.items())]
