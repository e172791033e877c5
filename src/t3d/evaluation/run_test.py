"""`t3d test`: a trained net on labelled videos, and the files that say how it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from t3d.data.catalog import open_index, open_manifest, refuse_other_targets
from t3d.data.clips.check import open_all, refuse_many
from t3d.data.clips.dataset import FrameOrder
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.views import PAPER_VIEWS, Crops, Views
from t3d.data.torchcodec_reader import Decoder
from t3d.device import pick_device, use_bf16
from t3d.errors import ConfigError, ManifestError, between
from t3d.evaluation.metrics import Metrics, measure
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.scores import Scores
from t3d.evaluation.scoring import score_videos
from t3d.models.weights import load_model


@dataclass(frozen=True)
class Outcome:
    """What a test found.

    Args:
        metrics: How good the net is on these videos.
        scores: What it said of each.
        views: The views of each video that it was shown.
    """

    metrics: Metrics | MultiMetrics
    scores: Scores
    views: Views = PAPER_VIEWS

    @property
    def single(self) -> Metrics:
        """The metrics, where each video has one label.

        Raises:
            ManifestError: The videos have several.
        """
        if isinstance(self.metrics, MultiMetrics):
            raise ManifestError("this is for videos with one label each, and these have several")
        return self.metrics

    def to_json(self) -> dict[str, Any]:
        """The metrics for `metrics.json`; with the views, unless they are the paper's."""
        views = {} if self.views == PAPER_VIEWS else {"views": asdict(self.views)}
        return asdict(self.metrics) | views


def run_test(
    weights: str | Path,
    data: str,
    *,
    videos: str | None = None,
    frames: FrameOrder = "normal",
    tail: Literal["drop", "pad", "shift"] | None = None,
    clips: int | None = None,
    crops: Crops = 1,
    index: str | None = None,
    decoder: Decoder = "pyav",
    cache: str | None = None,
    max_bad: float = 0.01,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
    workers: int = 0,
) -> Outcome:
    """Test a weights file on labelled videos, by the paper's protocol unless `clips` or `crops` are given.

    Args:
        weights: File that a training run wrote; its card says classes and clip.
        data: See `t3d.data.catalog.open_manifest`. Its classes are matched by name.
        videos: Folder that the files of a list or table lie in.
        frames: Order of the frames in each clip, see `VideoClips`.
        tail: Instead of the card's `clip.tail`.
        clips: Clips spread over each video, instead of all that do not overlap; see `Views`.
        crops: Crops of each clip; see `Views`.
        index: What `t3d prepare index` wrote about the files, where `data` is none itself.
        decoder: `pyav`, or `torchcodec` for files that the index knows to be whole.
        cache: Folder for decoded frames, so that the next test of these videos need not decode them.
        max_bad: Largest share of unreadable videos.
        seed: Of shuffled frames.
        device: `auto`, or a torch device.
        precision: `auto`, `fp32` or `bf16`.
        batch_size: Clips, or crops of them, at a time; changes speed and memory only.
        workers: Processes that read videos.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: An option cannot work.
        ManifestError: The videos or their labels cannot be used, or too many cannot be read.
    """
    between("max_bad", max_bad, 0, 1)
    views = Views(clips=clips, crops=crops)
    if clips is not None and tail is not None:
        raise ConfigError(
            f"tail is {tail} and clips is {clips}; tail is about the clips that do not overlap, and spread "
            "clips reach to the end by themselves: leave out one of the two"
        )
    where = pick_device(device)
    model, card = load_model(weights, device=where)
    spec = card.clip if tail is None else replace(card.clip, tail=tail)
    views.check(spec)  # before videos are decoded into a cache
    manifest = open_manifest(data, root=videos)
    refuse_other_targets(manifest, card.targets, name=data, other=str(weights))
    manifest = manifest.with_classes(card.classes)
    store = FrameStore(spec, cache=cache, index=open_index(index, data, root=videos), decoder=decoder)
    if cache:
        open_all(manifest, store, workers=workers)  # what cannot be read, scoring will say
    scores = score_videos(
        model,
        manifest,
        spec=spec,
        store=store,
        order=frames,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        bf16=use_bf16(precision, where),
        targets=card.targets,
        views=views,
    )
    refuse_many(scores.bad, among=len(manifest), max_bad=max_bad, option="max_bad")
    return Outcome(measure(scores), scores, views)
