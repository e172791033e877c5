"""Look at every video before a run: what cannot be read is named, counted and left out, or stops the run."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from t3d.data.dataset import BadVideo
from t3d.data.frames import FrameStore
from t3d.data.manifest import Manifest
from t3d.errors import ManifestError, VideoError


class _Openable(Dataset[BadVideo | None]):
    def __init__(self, manifest: Manifest, store: FrameStore) -> None:
        self.manifest = manifest
        self.store = store

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> BadVideo | None:
        path = self.manifest[row].path
        try:
            if not self.store.prepare(path):
                # Uncached: its ends must decode. Damage in between shows when a clip meets it.
                frames = self.store.open(path)
                last = len(frames.times) - 1
                frames.get(np.array([0, last]))
        except VideoError as error:
            return BadVideo(row, str(path), error.reason)
        return None


def readable(
    manifest: Manifest, store: FrameStore, *, workers: int = 0, max_bad: float = 0.01
) -> tuple[Manifest, list[BadVideo]]:
    """Open every video, into the cache where the store has one, and leave out what cannot be read.

    Args:
        manifest: The videos.
        store: Where frames come from.
        workers: Processes that open videos. 0: this one.
        max_bad: Largest share of unreadable videos.

    Returns:
        The videos that can be read, and the others with the reason.

    Raises:
        ManifestError: More than `max_bad` of the videos cannot be read, or a class has none left.
    """
    loader = DataLoader(_Openable(manifest, store), batch_size=None, num_workers=workers)
    console = Console(stderr=True)
    seen = track(
        loader, "reading videos", total=len(manifest), console=console, disable=not console.is_terminal
    )
    bad = [outcome for outcome in seen if outcome is not None]
    if not bad:
        return manifest, []
    share = len(bad) / len(manifest)
    named = "".join(f"\n  {video.path}: {video.reason}" for video in bad[:20])
    more = f"\n  … and {len(bad) - 20} more" if len(bad) > 20 else ""
    if share > max_bad:
        raise ManifestError(
            f"{len(bad)} of {len(manifest)} videos ({share:.1%}) cannot be read, more than data.max_bad = "
            f"{max_bad:.1%} allows; mend or remove them, or raise data.max_bad:{named}{more}"
        )
    lost = {video.video for video in bad}
    kept = manifest.select([row for row in range(len(manifest)) if row not in lost])
    empty = [name for name, count in kept.class_counts().items() if count == 0]
    if empty or not len(kept):
        raise ManifestError(f"no readable video is left of class {', '.join(empty)}:{named}{more}")
    return kept, bad
