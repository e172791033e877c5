"""Open every video before a run: unreadable videos are reported and left out, or stop the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from t3d.data.clips.frames import FrameStore
from t3d.data.clips.loader import Loader
from t3d.data.clips.spans import usable_part
from t3d.data.manifest.manifest import Manifest
from t3d.errors import Failed, ManifestError, VideoError
from t3d.progress import track


class _Openable(Dataset[Failed | float]):
    def __init__(self, manifest: Manifest, store: FrameStore) -> None:
        self.manifest = manifest
        self.store = store

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> Failed | float:
        """Return the frame rate of a video, 0 for a single frame, or why it cannot be read."""
        entry = self.manifest[row]
        try:
            cached = self.store.prepare(entry.path)
            frames = self.store.open(entry.path)
            low, part = usable_part(frames, entry, self.store.spec)
            if not cached and entry.path not in self.store.index:
                # Both ends must decode. Damage in between is reported when a clip needs those frames.
                last = low + (part if isinstance(part, int) else len(part)) - 1
                frames.get(np.array([low, last]))
        except VideoError as error:
            return Failed(str(entry.path), error.reason, row)
        steps = len(frames.times) - 1
        return steps / float(frames.times[-1]) if steps else 0.0


def open_all(manifest: Manifest, store: FrameStore, *, workers: int = 0) -> list[Failed]:
    """Open every video, into the cache where the store has one.

    Args:
        manifest: The videos.
        store: Where frames come from.
        workers: Processes that open videos. 0: this one.

    Returns:
        The videos that cannot be read, or that are too short for a clip.
    """
    return _opened(manifest, store, workers)[0]


def _opened(manifest: Manifest, store: FrameStore, workers: int) -> tuple[list[Failed], list[float]]:
    """Open every video. Return those that cannot be read, and the frame rates of the others."""
    loader = Loader(_Openable(manifest, store), batch_size=None, num_workers=workers)
    title = "Opening videos" if store.folder is None else "Decoding videos into the cache"
    outcomes = list(track(loader, title, len(manifest)))
    return (
        [outcome for outcome in outcomes if isinstance(outcome, Failed)],
        [outcome for outcome in outcomes if not isinstance(outcome, Failed)],
    )


def refuse_many(bad: Sequence[Failed], *, among: int, max_bad: float, option: str) -> None:
    """Stop if too many videos cannot be read.

    Args:
        bad: The videos that cannot be read.
        among: Number of all videos.
        max_bad: Largest share of unreadable videos.
        option: Name of the option that sets this share.

    Raises:
        ManifestError: A larger share cannot be read. The message lists the videos with the reasons.
    """
    if len(bad) > max_bad * among:
        raise ManifestError(
            f"{len(bad)} of {among} videos ({len(bad) / among:.1%}) cannot be read, more than {option} = "
            f"{max_bad:g} ({100 * max_bad:g} %) allows; fix or remove them, or raise {option}:{_named(bad)}"
        )


def refuse_lost_classes(before: Manifest, after: Manifest, bad: Sequence[Failed]) -> None:
    """Stop if a class has no readable video, unless videos have several labels.

    Args:
        before: All videos.
        after: The videos that can be read.
        bad: The others.

    Raises:
        ManifestError: All videos of a class are among the others. The message lists them with the reasons.
    """
    counts, left = before.class_counts(), after.class_counts()
    empty = [name for name in counts if counts[name] and not left[name]]
    if empty and before.label_column.every_class_needed:
        raise ManifestError(f"class {', '.join(empty)} has no readable video:{_named(bad)}")


def readable(
    manifest: Manifest, store: FrameStore, *, workers: int = 0, max_bad: float = 0.01
) -> tuple[Manifest, list[Failed], list[float]]:
    """Open every video, into the cache if the store has one, and leave out unreadable videos.

    Args:
        manifest: The videos.
        store: Where frames come from.
        workers: Processes that open videos. 0: this one.
        max_bad: Largest share of unreadable videos.

    Returns:
        The videos that can be read, the others with the reasons, and the frames per second of the former (0
        for a single frame).

    Raises:
        ManifestError: More than `max_bad` of the videos cannot be read, or a class has none left.
    """
    bad, rates = _opened(manifest, store, workers)
    if not bad:
        return manifest, [], rates
    refuse_many(bad, among=len(manifest), max_bad=max_bad, option="data.max_bad")
    lost = {failed.row for failed in bad}
    kept = manifest.select([row for row in range(len(manifest)) if row not in lost])
    refuse_lost_classes(manifest, kept, bad)
    if not len(kept):
        raise ManifestError(f"no video can be read:{_named(bad)}")
    return kept, bad, rates


def _named(bad: Sequence[Failed]) -> str:
    more = f"\n  … and {len(bad) - 20} more" if len(bad) > 20 else ""
    return "".join(f"\n  {video.path}: {video.reason}" for video in bad[:20]) + more
