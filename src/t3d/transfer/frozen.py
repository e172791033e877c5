"""Frozen network whose features are used: a 3D model, or a 2D teacher whose features are pooled over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch

from t3d.card import ModelCard
from t3d.clip import ClipSpec, TimePooling
from t3d.evaluation.scoring import pooled_features
from t3d.models.frames import pool_time
from t3d.models.net import VideoNet
from t3d.models.weights import load_model
from t3d.transfer.features_config import FeaturesConfig
from t3d.transfer.frame_model import frame_net
from t3d.transfer.probe_config import ProbeConfig
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.library import TorchTeacher
from t3d.transfer.teachers.open import open_teacher

_STRIDE = 16  # of a teacher's clip, in frames; with 8 frames per clip, a clip spans about 5 seconds

Vectors = Callable[[torch.Tensor], torch.Tensor]
"""Function from uint8 clips [B, T, C, H, W] to features [B, D]."""


@dataclass(frozen=True)
class Frozen:
    """Frozen network, or an ONNX teacher, which has no network and no card.

    Args:
        vectors: Function from clips to features.
        spec: What a clip is.
        net: The network.
        card: Its card.
        teacher: The teacher, if the features are of one.
    """

    vectors: Vectors
    spec: ClipSpec
    net: VideoNet | None = None
    card: ModelCard | None = None
    teacher: Teacher | None = None


def open_frozen(config: ProbeConfig | FeaturesConfig) -> Frozen:
    """Load a frozen network.

    Args:
        config: Its options. Either `model` or `teacher` is set.

    Raises:
        CheckpointError: The weights cannot be used.
        ConfigError: The teacher does not exist, or does not have these options.
    """
    device = config.compute.pick_device()
    teacher = None
    if config.model is not None:
        net, card = load_model(config.model, device=device, allow_unfinished=config.allow_unfinished)
        # Features belong to clips. Only scores are averaged over segments.
        card = replace(card, clip=replace(card.clip, segments=1))
    else:
        assert config.teacher is not None
        teacher = open_teacher(
            config.teacher,
            weights=config.teacher_weights,
            size=config.teacher_size,
            normalization=config.normalization,
        )
        spec = ClipSpec(
            num_frames=config.num_frames,
            stride=_STRIDE if config.stride is None and config.fps is None else config.stride,
            fps=config.fps,
            size=teacher.size,
            resize=teacher.size,
            tail=config.tail,
            pixel_aspect=config.pixel_aspect,
            tonemap=config.tonemap,
            mean=teacher.mean,
            std=teacher.std,
        )
        if not isinstance(teacher, TorchTeacher):
            vectors = teacher_vectors(teacher.to(device), device, config.pooling)
            return Frozen(vectors, spec, teacher=teacher)
        net = frame_net(teacher, config.pooling).to(device)
        card = ModelCard("frames", asdict(net.options), clip=spec, provenance={"teacher": teacher.name})
    vectors = pooled_features(net, card.clip, bf16=config.compute.use_bf16(device))
    return Frozen(vectors, card.clip, net, card, teacher)


def teacher_vectors(teacher: Teacher, device: torch.device, pooling: TimePooling = "mean_std") -> Vectors:
    """Return a function from uint8 clips [B, T, C, H, W] to their frames' features, pooled over time [B, D].

    Args:
        teacher: The teacher, on `device`.
        device: Where it computes.
        pooling: See `t3d.models.frames.pool_time`.
    """

    def vectors(clips: torch.Tensor) -> torch.Tensor:
        frames = clips.to(device).flatten(0, 1)
        return pool_time(teacher(frames).unflatten(0, clips.shape[:2]), pooling, dim=1)

    return vectors
