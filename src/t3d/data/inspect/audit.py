"""Count the contents of lists of videos, and find their overlap: `t3d data check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

import numpy as np
import pyarrow.compute as pc

from t3d.clip import Targets
from t3d.data.clips.rates import mixed_rates
from t3d.data.index import VideoIndex, failed_in
from t3d.data.inspect.shared import Shared, file_facts, find_shared, with_sizes
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed

_ROUNDING = 1e-3  # of a pixel aspect, such as 65536/65535


@dataclass(frozen=True)
class Summary:
    """Contents of one list.

    Args:
        videos: Rows.
        targets: Whether a row has one label (`single`) or may have several (`multi`).
        files: Distinct files.
        sources: Distinct sources (groups).
        classes: Rows of each class, in class order.
        unlabeled: Rows without a label.
        none: Rows that are labeled with no class.
        missing: Videos of an official list that are missing, by class.
        unknown: Files that are not in the index; all files without an index. The rest of this summary is
            about the others.
        bad: Unreadable files.
        damaged: Files that can be read only in part.
        seconds: Length of all files.
        size: Bytes of all files.
        frames: Smallest, median and largest number of frames.
        shapes: Files by width × height, and by the aspect of their pixels if these are not square, the most
            frequent first.
        rates: Files by frames per second, the most frequent first.
        codecs: Files by codec, the most frequent first.
        mixed_rates: Sentences about frame rates that differ by more than a quarter, or empty.
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
    mixed_rates: str


def summarize(manifest: Manifest, index: VideoIndex | None = None) -> Summary:
    """Count the contents of a list.

    Args:
        manifest: The list.
        index: Index of its files.

    Example:
        >>> import pyarrow as pa
        >>> table = pa.table({"path": ["a.mp4"], "label": [0], "start": [0.0], "end": [9], "source": ["a"]})
        >>> summarize(Manifest(("Jump",), table)).classes
        {'Jump': 1}
    """
    _, labels = manifest.label_pairs()
    facts = file_facts(manifest, index)
    known = facts.filter(pc.is_valid(facts["frames"]))
    frames = known["frames"].to_numpy()
    bad = failed_in(facts, "error")
    shapes = zip(*(known[name].to_pylist() for name in ("width", "height", "pixel_aspect")), strict=True)
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
        shapes=_counted(
            f"{width} × {height}" + ("" if _is_square(aspect) else f" (pixel aspect {aspect})")
            for width, height, aspect in shapes
        ),
        rates=_counted(f"{rate:.4g}" for rate in known["fps"].to_pylist()),
        codecs=_counted(known["codec"].to_pylist()),
        mixed_rates=mixed_rates(known.filter(pc.greater(known["frames"], 1))["fps"].to_pylist()),
    )


def compare(manifests: Mapping[str, Manifest], index: VideoIndex | None = None) -> list[Shared]:
    """Find the overlap between every two lists.

    Args:
        manifests: Two lists or more, by name.
        index: Index of their files; without it, near-duplicates are not found.

    Returns:
        One entry for each two lists.
    """
    facts = {name: with_sizes(file_facts(manifest, index)) for name, manifest in manifests.items()}
    return [
        find_shared(facts[one], facts[two], names=(one, two), near=True)
        for one, two in combinations(facts, 2)
    ]


def _is_square(aspect: str | None) -> bool:
    """Return whether pixels are square, up to the rounding of some encoders."""
    return aspect is None or abs(float(Fraction(aspect)) - 1) < _ROUNDING


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
