"""Compare an exported model with the network that it is from: difference, time and accuracy.

Legend: N clips, B batch, M models, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import normalize
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import Failed
from t3d.evaluation.collect import collect
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.multilabel import MultiMetrics
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.scoring import clip_probabilities, clip_scores, each_clip
from t3d.evaluation.task import TASKS, measure
from t3d.models.net import VideoNet
from t3d.models.segments import with_consensus
from t3d.runtime.exported import ExportedModel
from t3d.timing import Call, Rounds, alternate

_ROUNDS = Rounds(most=15, seconds=20.0)

Scored = tuple[VideoNet | ExportedModel, Compute]
"""A model, and its precision."""


@dataclass(frozen=True)
class Difference:
    """Difference of two models' outputs for the same clips.

    Args:
        relative: ‖scores - reference‖ / ‖reference‖ over all clips and classes.
        probability: Largest difference of a class probability.
        same_top: Share of clips with the same most probable class.
        clips: Number of clips compared.
    """

    relative: float
    probability: float
    same_top: float
    clips: int


def scores_of(scored: Scored, clips: torch.Tensor, spec: ClipSpec) -> torch.Tensor:
    """Return the scores of clips, uint8 [N, S·T, 3, size, size], two at a time: float64 [N, K]."""
    model, compute = scored
    with clip_scores(model, spec, compute) as function:
        return torch.cat([function(part).double() for part in torch.split(clips, 2)])


def difference(scores: torch.Tensor, reference: torch.Tensor, protocol: Protocol) -> Difference:
    """Compare scores [N, K] with reference scores [N, K]."""
    task = TASKS[protocol.targets]
    probabilities, wanted = task.probabilities(scores), task.probabilities(reference)
    tiny = torch.finfo(torch.float64).tiny
    return Difference(
        relative=float((scores - reference).norm() / reference.norm().clamp_min(tiny)),
        probability=float((probabilities - wanted).abs().max()),
        same_top=float((scores.argmax(1) == reference.argmax(1)).double().mean()),
        clips=len(scores),
    )


def time_models(models: Sequence[Scored], net: VideoNet, clip: torch.Tensor, spec: ClipSpec) -> list[float]:
    """Time the scoring of one clip: the network in plain float32, then each model as T3D runs it.

    All take turns, so that a change of the machine's speed reaches all of them.

    Args:
        models: The models.
        net: The network.
        clip: The clip, uint8 [1, S·T, 3, size, size].
        spec: What a clip is.

    Returns:
        Median milliseconds: of the plain network, then of each model.
    """
    plain = normalize(clip, spec).contiguous()
    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(clip_scores(net, spec, Compute(precision="fp32")))  # evaluation mode
        calls: dict[str, Call] = {"": partial(_forward, net, plain, spec)}
        for number, (model, compute) in enumerate(models):
            calls[str(number)] = partial(stack.enter_context(clip_scores(model, spec, compute)), clip)
        times = alternate(calls, _ROUNDS).times
    return [1000 * time.median for time in times.values()]


def measure_models(
    models: Sequence[Scored], videos: Manifest, protocol: Protocol, store: FrameStore, *, workers: int
) -> tuple[list[Metrics | MultiMetrics], list[Failed]]:
    """Test models on the same clips, which are decoded once.

    Args:
        models: The models, M.
        videos: Labeled videos.
        protocol: How a video is scored.
        store: Where frames come from.
        workers: Processes that read videos.

    Returns:
        Figures of each model, and the videos that cannot be read.
    """
    classes = len(videos.classes)
    with ExitStack() as stack:
        functions = [
            stack.enter_context(clip_probabilities(model, protocol, compute)) for model, compute in models
        ]

        def all_probabilities(clips: torch.Tensor) -> torch.Tensor:
            return torch.cat([function(clips).cpu() for function in functions], dim=1)  # B M·K

        rows, bad = each_clip(
            all_probabilities,
            videos,
            protocol,
            store=store,
            compute=Compute(workers=workers),
            shown="Testing",
        )
    figures = []
    for number in range(len(models)):
        own = slice(number * classes, (number + 1) * classes)
        part = [(video, clip, probabilities[own]) for video, clip, probabilities in rows]
        figures.append(measure(collect(videos, part, bad, targets=protocol.targets)))
    return figures, bad


def _forward(net: VideoNet, x: torch.Tensor, spec: ClipSpec) -> torch.Tensor:
    scores: torch.Tensor = with_consensus(net, spec.segments)(x)
    return scores
