"""Videos of a transfer: find, check and split them by source, and compute teacher features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from t3d.data.catalog import open_videos, refuse_unused_root
from t3d.data.clips.check import refuse_many
from t3d.data.manifest.manifest import Manifest
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.training.start import Run, RunVideos
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import TeacherView
from t3d.transfer.pairs import joined
from t3d.transfer.teachers.base import Teacher


def open_pool(config: TransferConfig) -> Manifest:
    """Find all videos to learn from, and drop their labels.

    Raises:
        ConfigError: `data.root` is set for a folder of videos, which does not use it.
        ManifestError: No videos were found.
    """
    data = config.data
    refuse_unused_root(data.root, data.videos)
    if Path(data.videos).is_dir():
        full = Manifest.from_files([data.videos], source_pattern=data.source_pattern)
    else:
        full = open_videos(data.videos, root=data.root, source_pattern=data.source_pattern)
    return full.without_labels()


def choose_videos(run: Run[TransferConfig], pool: Manifest) -> RunVideos:
    """Leave out the videos that cannot be read, and hold some out by source.

    Raises:
        ManifestError: Too many videos cannot be read, or all have the same source.
    """
    data = run.config.data
    readable = run.check_videos(pool)
    kept = readable.train
    if len(kept.sources()) < 2:
        raise ManifestError(
            f"{data.videos}: {len(kept)} video(s) of 1 source. A negative pair needs videos of another "
            "source: add some, or define finer sources (data.source_pattern, or the column `source`)"
        )
    if data.val_fraction == 0:
        return readable
    rest, held = joined(kept, run.store.index).split_by_source(data.val_fraction, seed=run.config.seed)
    return RunVideos(rest, held, readable.bad)


def with_features(
    run: Run[TransferConfig], videos: RunVideos, teacher: Teacher, view: TeacherView
) -> RunVideos:
    """Compute missing teacher features, and leave out the videos for which this fails.

    Raises:
        ManifestError: It fails for too many videos, or for any video of a resumed run.
    """
    train, bad = _make_features(run, videos.train, teacher, view)
    val = videos.val
    if val is not None:
        val, more = _make_features(run, val, teacher, view)
        bad = bad + more
    if run.resume and bad:  # without them, the epochs would differ from those before
        assert view.features is not None
        raise ManifestError(
            f"{run.folder.path} cannot be resumed: teacher features are missing in {view.features.folder}, "
            "and "
            + "; ".join(f"{video.path} {video.reason}" for video in bad[:5])
            + "; restore the file(s), or start again with overwrite=True"
        )
    return RunVideos(train, val, [*videos.bad, *bad])


def _make_features(
    run: Run[TransferConfig], videos: Manifest, teacher: Teacher, view: TeacherView
) -> tuple[Manifest, list[Failed]]:
    """Return the videos with features, and the failed ones. Each process computes its share."""
    assert view.features is not None
    data, accelerator = run.config.data, run.accelerator
    mine = np.arange(accelerator.process_index, len(videos), accelerator.num_processes)
    failed = view.features.make(videos.select(mine), teacher, store=view.store, workers=data.workers)
    # Convert rows of this process's share to rows of all videos.
    bad = gather_object([replace(video, row=int(mine[video.row])) for video in failed])
    refuse_many(bad, among=len(videos), max_bad=data.max_bad, option="data.max_bad")
    accelerator.wait_for_everyone()
    broken = {video.row for video in bad}
    return videos.select([row for row in range(len(videos)) if row not in broken]), bad


def refuse_few_sources(videos: Manifest, groups: Tensor, config: TransferConfig, processes: int) -> None:
    """Raise an error if batches would have too few true negatives.

    Args:
        videos: Training videos.
        groups: Group of each video, int64 [N].
        config: Options of the run.
        processes: Number of processes that share a batch.

    Raises:
        ConfigError: A forward pass has fewer than two clips.
        ManifestError: There are fewer sources than clips in a batch.
    """
    sources, batch = int(groups.max()) + 1, config.optim.batch_size
    if batch < 2 * config.optim.grad_accum_steps * processes:
        raise ConfigError(
            f"optim.batch_size is {batch}, shared by {processes} processes in optim.grad_accum_steps = "
            f"{config.optim.grad_accum_steps} passes; each pass needs at least 2 clips, because the other "
            "clips of a pass are the negatives"
        )
    if sources < batch:
        raise ManifestError(
            f"{config.data.videos}: the {len(videos)} training videos have only {sources} sources "
            "(videos with the same source, or identical files, count as one), fewer than optim.batch_size "
            f"= {batch}. A batch would have too few true negatives: set optim.batch_size to {sources} or "
            "less, add videos of other sources, or define finer sources (data.source_pattern, or the "
            "column `source`)"
        )
