"""The videos of a transfer: found, checked, divided by source, and given the teacher's features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from t3d.data.catalog import open_videos
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
        ManifestError: The list has no videos.
    """
    data = config.data
    if Path(data.videos).is_dir():
        full = Manifest.from_files([data.videos], source_pattern=data.source_pattern)
    else:
        full = open_videos(data.videos, root=data.root, source_pattern=data.source_pattern)
    return full.without_labels()


def choose_videos(run: Run[TransferConfig], pool: Manifest) -> RunVideos:
    """Leave out the videos that cannot be read, and hold some out by source.

    Raises:
        ManifestError: Too many cannot be read, or all are of one source.
    """
    data = run.config.data
    readable = run.check_videos(pool)
    kept = readable.train
    if len(kept.sources()) < 2:
        raise ManifestError(
            f"{data.videos}: {len(kept)} video(s) of 1 source. A negative pair needs videos of another "
            "source: add some, or name sources more finely (data.source_pattern, or the column `source`)"
        )
    if data.val_fraction == 0:
        return readable
    rest, held = joined(kept, run.store.index).split_by_source(data.val_fraction, seed=run.config.seed)
    return RunVideos(rest, held, readable.bad)


def with_features(
    run: Run[TransferConfig], videos: RunVideos, teacher: Teacher, view: TeacherView
) -> RunVideos:
    """Compute the teacher's features where they are missing; leave out videos for which that fails.

    Raises:
        ManifestError: It fails for too many videos, or for any video of a run that is resumed.
    """
    train, bad = _make_features(run, videos.train, teacher, view)
    val = videos.val
    if val is not None:
        val, more = _make_features(run, val, teacher, view)
        bad = bad + more
    if run.resume and bad:  # its epochs would not be the same without them
        assert view.features is not None
        raise ManifestError(
            f"{run.folder.path} cannot be resumed: features are missing in {view.features.folder}, and "
            + "; ".join(f"{video.path} {video.reason}" for video in bad[:5])
            + "; restore the file(s), or start a new run with overwrite=True"
        )
    return RunVideos(train, val, [*videos.bad, *bad])


def _make_features(
    run: Run[TransferConfig], videos: Manifest, teacher: Teacher, view: TeacherView
) -> tuple[Manifest, list[Failed]]:
    """Return the videos that have features, and the others. Each process makes those of its share."""
    assert view.features is not None
    data, accelerator = run.config.data, run.accelerator
    mine = np.arange(accelerator.process_index, len(videos), accelerator.num_processes)
    failed = view.features.make(videos.select(mine), teacher, store=view.store, workers=data.workers)
    # The row in this process's share as a row of all videos.
    bad = gather_object([replace(video, row=int(mine[video.row])) for video in failed])
    refuse_many(bad, among=len(videos), max_bad=data.max_bad, option="data.max_bad")
    accelerator.wait_for_everyone()
    broken = {video.row for video in bad}
    return videos.select([row for row in range(len(videos)) if row not in broken]), bad


def refuse_few_sources(videos: Manifest, groups: Tensor, config: TransferConfig, processes: int) -> None:
    """Refuse batches that would hold too few true negatives.

    Args:
        videos: The training videos.
        groups: The group of each, int64 [N].
        config: The run's options.
        processes: Number of processes that share a batch.

    Raises:
        ConfigError: A forward pass has fewer than two clips.
        ManifestError: There are fewer sources than clips in a batch.
    """
    sources, batch = int(groups.max()) + 1, config.optim.batch_size
    if batch < 2 * config.optim.grad_accum_steps * processes:
        raise ConfigError(
            f"optim.batch_size is {batch}, shared by {processes} processes in optim.grad_accum_steps = "
            f"{config.optim.grad_accum_steps} passes; each pass must have at least 2 clips, since negatives "
            "come from its other clips"
        )
    if sources < batch:
        raise ManifestError(
            f"{config.data.videos}: {len(videos)} videos to learn from come from only {sources} sources "
            "(videos with the same source, or of the same bytes, count as one), fewer than optim.batch_size "
            f"= {batch}; a batch would hold too few true negatives: choose optim.batch_size {sources} or "
            "less, add videos of other sources, or name sources more finely (data.source_pattern, or the "
            "column `source`)"
        )
