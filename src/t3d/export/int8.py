"""Quantization: a model of 8-bit integers, calibrated on real clips."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch

from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.transforms import normalize
from t3d.data.index import VideoIndex
from t3d.errors import ExportError, ManifestError, first_line
from t3d.evaluation.parts import as_manifest, is_list, parts_of
from t3d.export.clips import real_clips
from t3d.export.config import MAX_CALIBRATION, MIN_CALIBRATION, ExportConfig
from t3d.export.trace import quietly


def calibration_clips(config: ExportConfig, spec: ClipSpec, index: VideoIndex | None) -> torch.Tensor:
    """Read the clips to calibrate int8 with, one per video.

    Args:
        config: The options.
        spec: What a clip is.
        index: Index of the files, if there is one.

    Returns:
        Clips, uint8 [N, S·T, 3, size, size].

    Raises:
        ManifestError: The list cannot be read, or too few videos of it can.
    """
    assert config.int8 is not None
    reading = config.reading
    root = reading.root if is_list(config.int8) else None
    videos = as_manifest(parts_of([config.int8], root=root))
    if len(videos) < MIN_CALIBRATION:
        raise _too_few(config.int8, f"this list has {len(videos)}")
    store = FrameStore(spec, index=index, limits=reading.limits, image_fps=reading.image_fps)
    clips, bad = real_clips(videos, store, spec, most=MAX_CALIBRATION, title="Reading calibration videos")
    if len(clips) < MIN_CALIBRATION:
        count = f"{len(clips)} of {len(clips) + len(bad)} could be read (first error: {bad[0]})"
        raise _too_few(config.int8, count)
    return clips


def _too_few(name: str, count: str) -> ManifestError:
    return ManifestError(
        f"{name}: int8 needs at least {MIN_CALIBRATION} videos to calibrate with, of all classes; {count}. "
        "Give a larger list (`int8`), such as the training list"
    )


def quantize(model: Any, clips: torch.Tensor, spec: ClipSpec) -> Any:
    """Turn the convolutions and matrix products of an OpenVINO model into 8-bit integers.

    Args:
        model: The OpenVINO model, unchanged.
        clips: Clips to calibrate with, uint8 [N, S·T, 3, size, size].
        spec: Normalization of the clips.

    Returns:
        The quantized OpenVINO model.

    Raises:
        ExportError: NNCF cannot quantize the model.
    """
    import nncf

    data = nncf.Dataset(torch.split(clips, 1), lambda clip: normalize(clip, spec).contiguous().numpy())
    try:
        with quietly(), redirect_stdout(StringIO()):  # NNCF prints its progress
            return nncf.quantize(model, data, subset_size=len(clips), preset=nncf.QuantizationPreset.MIXED)
    except Exception as error:  # NNCF's errors have no common base class
        raise ExportError(
            f"the model cannot be quantized: {first_line(error)}. Export without `int8`"
        ) from error
