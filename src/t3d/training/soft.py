"""Add videos with soft labels to the labeled videos of a supervised run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from accelerate.utils import broadcast_object_list

from t3d.data.inspect.nearby import Listed
from t3d.data.listing import absolute
from t3d.data.manifest.manifest import Manifest
from t3d.data.manifest.sources import pattern_sources
from t3d.data.moved import refuse_moved
from t3d.data.paths import relative_to
from t3d.data.soft_labels import SoftLabels, joined_with, read_soft_labels, video_keys
from t3d.evaluation.leaks import compared_lists
from t3d.training.config import TrainConfig
from t3d.training.start import Run, RunVideos


def with_soft_labels(
    run: Run[TrainConfig], labeled: Manifest, val: Manifest | None, known: Manifest
) -> RunVideos:
    """Add the videos of `data.soft`, and leave out unreadable videos.

    A video that is labeled keeps its label. Videos that share a file, bytes or group with a validation video,
    or look like one (with an index), are left out: the validation would measure how well they are remembered.

    Args:
        run: The run.
        labeled: Labeled training videos.
        val: Validation videos, or None.
        known: All videos of the training list, which name groups.

    Raises:
        ManifestError: The table or its classes cannot be used, or too many videos cannot be read.
    """
    data = run.config.data
    assert data.soft is not None
    soft = read_soft_labels(data.soft, root=data.root)
    soft = soft.with_classes(labeled.classes, name=data.soft, owner="the training videos")
    refuse_moved(soft.videos, data.soft, root=data.root)
    soft = _grouped(soft, known, run.config)
    shared = _shared_rows(run, soft.videos, val)
    train, probs = joined_with(labeled, soft.select(~shared))
    videos = run.check_videos(train, val)
    rows = set(video_keys(videos.train))
    kept = np.array([key in rows for key in video_keys(train)], dtype=np.bool_)
    added = int((~videos.train.labeled).sum())
    counts = {
        "already have a label": len(soft) - int(shared.sum()) - (len(train) - len(labeled)),
        "share a file, bytes or group with a validation video, or look like one": int(shared.sum()),
        "have no probabilities": soft.failed,
    }
    reasons = [f"{count} {reason}" for reason, count in counts.items() if count]
    note = f"Soft labels: {added} of the {len(soft) + soft.failed} videos of {data.soft} are used"
    return replace(videos, soft=probs[kept] if added else None, note="; ".join([note, *reasons]) + ".")


def _grouped(soft: SoftLabels, known: Manifest, config: TrainConfig) -> SoftLabels:
    """Name the groups of the videos as the training list does, as far as the table does not name them.

    Raises:
        ManifestError: `data.source_pattern` does not match the path of a video.
    """
    data, rows = config.data, soft.videos.table
    paths = rows["path"].combine_chunks()
    place = pc.index_in(paths, value_set=known.table["path"].combine_chunks())
    sources = pc.coalesce(known.table["source"].combine_chunks().take(place), rows["source"].combine_chunks())
    others = pc.is_null(place)
    if data.source_pattern is not None and not soft.grouped and pc.any(others).as_py():
        base = data.root or (data.train if Path(data.train).is_dir() else ".")
        groups = pattern_sources(relative_to(paths.filter(others), absolute(base)), data.source_pattern)
        sources = pc.replace_with_mask(sources, others, groups)
    column = rows.schema.get_field_index("source")
    table = rows.set_column(column, rows.schema.field(column), pa.chunked_array([sources]))
    return replace(soft, videos=Manifest((), table))


def _shared_rows(run: Run[TrainConfig], videos: Manifest, val: Manifest | None) -> npt.NDArray[np.bool_]:
    """Return which videos a validation video is or shows too, bool [N]. The main process compares them."""
    rows: list[list[int]] = [[]]
    if val is not None and run.accelerator.is_main_process:
        data = run.config.data
        assert data.soft is not None
        index = run.store.index if len(run.store.index) else None
        others = {"validation": Listed(val, data.val or data.train)}
        shared = compared_lists(Listed(videos, data.soft), others, index)["validation"]
        rows = [[row.row for row in shared.rows]]
    mask = np.zeros(len(videos), np.bool_)
    mask[np.array(broadcast_object_list(rows)[0], dtype=np.int64)] = True
    return mask
