"""Videos of a transfer: find, check and split them by source, and compute teacher features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor

from t3d.data.catalog import open_videos, roots_of
from t3d.data.clips.check import refuse_lost_classes, refuse_many
from t3d.data.clips.sampling import Indices
from t3d.data.index import VideoIndex
from t3d.data.inspect.nearby import Listed
from t3d.data.inspect.shared import with_groups
from t3d.data.manifest.manifest import Manifest
from t3d.data.soft_labels import video_keys
from t3d.errors import ConfigError, Failed, ManifestError
from t3d.evaluation.leaks import compared_lists, sharing_sentence, uncompared_sentence
from t3d.training.start import Run, RunVideos
from t3d.transfer.config import TransferConfig
from t3d.transfer.dataset import TeacherView
from t3d.transfer.pairs import joined
from t3d.transfer.soft_teacher import refuse_unusable
from t3d.transfer.teachers.base import Teacher


@dataclass(frozen=True)
class Pool:
    """Videos to learn from.

    Args:
        videos: The videos. Only those of `labels.videos` have labels, and they come first.
        excluded: What was left out because of `data.exclude`, on a new line. Empty without that option.
    """

    videos: Manifest
    excluded: str = ""


def open_pool(run: Run[TransferConfig]) -> Pool:
    """Find all videos to learn from. The main process does this for all processes.

    Raises:
        ConfigError: A root is set for a folder of videos, which does not use it.
        ManifestError: No videos were found, the labels cannot be used, `data.exclude` leaves none, or too few
            groups are left to form pairs or to hold some out.
    """
    pools: list[Pool | None] = [None]
    if run.accelerator.is_main_process:
        pool = find_pool(run.config, run.store.index if len(run.store.index) else None)
        _refuse_one_source(pool.videos, run.config)
        if run.config.labels.videos:
            _check_unlabeled(pool.videos, run.config)
        pools = [pool]
    (shared,) = broadcast_object_list(pools)
    assert shared is not None
    return shared


def find_pool(config: TransferConfig, index: VideoIndex | None) -> Pool:
    """Find the videos of all lists, and leave out those of `data.exclude`.

    Args:
        config: Options of the run.
        index: Index of the files.

    Raises:
        ConfigError: See `open_pool`.
        ManifestError: No videos were found, the labels cannot be used, or `data.exclude` leaves none.
    """
    data = config.data
    lists = list(filter(None, (data.videos, config.labels.videos, data.exclude)))
    roots = dict(zip(lists, roots_of(data.root, *lists), strict=True))
    pool = _open_unlabeled(data.videos, root=roots[data.videos], source_pattern=data.source_pattern)
    if name := config.labels.videos:
        pool = _with_labeled(pool, _open_labeled(config, root=roots[name]))
    if data.exclude is None:
        return Pool(pool)
    asked = _open_unlabeled(
        data.exclude, root=roots[data.exclude], source_pattern=_pattern(config, data.exclude)
    )
    return _without_excluded(pool, asked, config, index)


def _refuse_one_source(videos: Manifest, config: TransferConfig) -> None:
    if len(videos.sources()) < 2:
        raise ManifestError(
            f"{config.data.videos}: {len(videos)} video(s) of 1 source. A negative pair needs videos of "
            "another source: add some, or define finer sources (data.source_pattern, or the column `source`)"
        )


def _check_unlabeled(videos: Manifest, config: TransferConfig) -> None:
    """Warn if soft labels cannot tell anything, before videos are opened.

    Raises:
        ManifestError: No video can be held out.
    """
    if config.data.val_fraction > 0:
        _free_rows(videos, config)
    sources = np.array(videos.table["source"].to_pylist(), dtype=object)[videos.labels < 0]
    if not len(sources):
        warnings.warn(
            f"{config.data.videos}: all {len(videos)} videos have a label, so the teacher has nothing to "
            "label. The student learns from the labels and the teacher's features",
            stacklevel=3,
        )
    elif config.labels.by_source and len(sources) > 1 and len(np.unique(sources)) == 1:
        warnings.warn(
            f"{config.data.videos}: the {len(sources)} videos without a label are of one group (source), so "
            "all of them get the same soft label. Define finer groups (data.source_pattern, or the column "
            "`source`), or turn labels.by_source off",
            stacklevel=3,
        )


def _pattern(config: TransferConfig, name: str) -> str | None:
    """Return the pattern of groups for a folder. It describes the pool; lists name their groups."""
    return config.data.source_pattern if Path(name).is_dir() else None


def _open_unlabeled(name: str, *, root: str | None, source_pattern: str | None) -> Manifest:
    """Open a folder in any layout, or a list, and drop its labels."""
    if Path(name).is_dir():
        return Manifest.from_files([name], source_pattern=source_pattern).without_labels()
    return open_videos(name, root=root, source_pattern=source_pattern).without_labels()


def _without_excluded(
    pool: Manifest, asked: Manifest, config: TransferConfig, index: VideoIndex | None
) -> Pool:
    """Leave out the videos that are also in `data.exclude`, in one form or another."""
    data = config.data
    assert data.exclude is not None
    lists = {"excluded": Listed(asked, data.exclude)}
    shared = compared_lists(Listed(pool, data.videos), lists, index)["excluded"]
    kept = np.ones(len(pool), dtype=bool)
    kept[[row.row for row in shared.rows]] = False
    rest = pool.select(kept)
    gone = [name for name, count in rest.class_counts().items() if count == 0]
    if gone or not len(rest):
        what = f"no labeled video of {', '.join(gone)} is" if gone else "no video is"
        raise ManifestError(
            f"data.exclude is {data.exclude}, and {what} left: {len(shared)} of {len(pool)} videos are also "
            "in that list, or share a group with it; use other videos or labels"
        )
    sentences = (
        sharing_sentence(shared, tested="training", other="excluded"),
        f"{len(shared)} are left out." if shared else "",
        uncompared_sentence(shared, tested="training", other="excluded"),
    )
    return Pool(rest, "\n" + " ".join(filter(None, sentences)))


def _open_labeled(config: TransferConfig, *, root: str | None) -> Manifest:
    """Open the labeled videos, reduced to the used share."""
    options = config.labels
    labeled = open_videos(options.videos, root=root, source_pattern=_pattern(config, options.videos))
    refuse_unusable(labeled, options.videos)
    return labeled.label_subset(options.fraction, seed=options.seed)


def _with_labeled(pool: Manifest, labeled: Manifest) -> Manifest:
    """Put labeled videos before those of the pool, each video once.

    A video that is its own group gets its path as the name of the group. Both folders may have a `Jump/1.mp4`
    with different contents.
    """
    known = set(video_keys(labeled))
    rest = pool.select(np.array([key not in known for key in video_keys(pool)], dtype=bool))
    tables = with_groups(labeled.table, rest.table)
    return Manifest(labeled.classes, tables[0]).followed_by(Manifest((), tables[1]))


def choose_videos(run: Run[TransferConfig], pool: Manifest) -> RunVideos:
    """Leave out the videos that cannot be read, and hold some out by source.

    Raises:
        ManifestError: Too many videos cannot be read, or all have the same source.
    """
    data = run.config.data
    readable = run.check_videos(pool)
    kept = readable.train
    _refuse_one_source(kept, run.config)
    if data.val_fraction == 0:
        return readable
    together = joined(kept, run.store.index)
    if run.config.labels.videos:
        rest, held = _hold_out_unlabeled(together, run.config)
    else:
        rest, held = together.split_by_source(data.val_fraction, seed=run.config.seed)
    return RunVideos(rest, held, readable.bad)


def _hold_out_unlabeled(videos: Manifest, config: TransferConfig) -> tuple[Manifest, Manifest]:
    """Hold out videos without labels, of sources without labeled videos."""
    free = _free_rows(videos, config)
    pool = videos.select(free).without_labels()
    held = np.zeros(len(videos), dtype=bool)
    held[free[pool.held_out(config.data.val_fraction, seed=config.seed)]] = True
    return videos.select(~held), videos.select(held)


def _free_rows(videos: Manifest, config: TransferConfig) -> Indices:
    """Return the rows that can be held out: without labels, of sources without labeled videos.

    Raises:
        ManifestError: They are of fewer than two sources.
    """
    sources = np.array(videos.table["source"].to_pylist(), dtype=object)
    free = np.flatnonzero(~np.isin(sources, np.unique(sources[videos.labels >= 0])))
    if len(np.unique(sources[free])) < 2:
        excluded = f" that are not in {config.data.exclude} (data.exclude)" if config.data.exclude else ""
        raise ManifestError(
            f"{config.data.videos}: fewer than 2 sources have no labeled video, so none can be held out; add "
            f"unlabeled videos{excluded}, define finer sources (data.source_pattern, or the column "
            "`source`), or set data.val_fraction to 0"
        )
    return free


def with_features(
    run: Run[TransferConfig], videos: RunVideos, teacher: Teacher, view: TeacherView
) -> RunVideos:
    """Compute missing teacher features, and leave out the videos for which this fails.

    Raises:
        ManifestError: It fails for too many videos, for all labeled videos of a class, or for any video of a
            resumed run.
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
    refuse_lost_classes(videos.train, train, bad)
    return replace(videos, train=train, val=val, bad=[*videos.bad, *bad])


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
