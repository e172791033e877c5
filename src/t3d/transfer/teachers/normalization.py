"""Normalization of a teacher's images: common ones by name, and the metadata of ONNX files.

This module does not import torch.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from t3d.clip import IMAGENET_MEAN, IMAGENET_STD
from t3d.errors import ConfigError

Triple = tuple[float, float, float]
NormalizationName = Literal["imagenet", "half", "clip", "unit", "byte"]


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of the red, green and blue channel in [0, 1].

    Args:
        mean: Mean to subtract.
        std: Standard deviation to divide by.

    Raises:
        ConfigError: A value is not a number, or a standard deviation is not above 0.
    """

    mean: Triple
    std: Triple

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(map(float, getattr(self, name)))
            if len(values) != 3 or not all(map(math.isfinite, values)):
                raise ConfigError(
                    f"teacher.{name} is {values}; it must be three numbers: red, green and blue"
                )
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ConfigError(f"teacher.std is {self.std}; every channel must be above 0")


NAMED: Mapping[str, tuple[Normalization, str]] = MappingProxyType(
    {
        "imagenet": (
            Normalization(IMAGENET_MEAN, IMAGENET_STD),
            "torchvision, and most models of timm",
        ),
        "half": (
            Normalization((0.5,) * 3, (0.5,) * 3),
            "values from -1 to 1: EfficientNet-Lite, MobileNet and Inception of TensorFlow, many ViTs",
        ),
        "clip": (
            Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
            "CLIP and models made from it",
        ),
        "unit": (Normalization((0.0,) * 3, (1.0,) * 3), "values from 0 to 1, unchanged"),
        "byte": (Normalization((0.0,) * 3, (1 / 255,) * 3), "values from 0 to 255, unchanged"),
    }
)
"""Common normalizations by name, each with the models that use it."""

# Keys that exporters use, and that people write by hand: mean and standard deviation.
_PAIRS = (
    ("mean", "std"),
    ("image_mean", "image_std"),
    ("model_info mean_values", "model_info scale_values"),  # Intel's Training Extensions and Model API
)
# Keys whose value is a JSON table: timm's pretrained configuration, and the preprocessor of Hugging Face.
_TABLES = ("pretrained_cfg", "preprocessor_config", "hf_preprocessor_config", "preprocess")
# Values of the key that ONNX defines for images.
_RANGES = {"Normalized_0_1": "unit", "Normalized_1_1": "half", "NominalRange_0_255": "byte"}


def chosen(name: str | None, mean: Triple | None, std: Triple | None) -> Normalization | None:
    """Return the normalization that options choose, or None if they do not choose any.

    Args:
        name: A name of `NAMED`.
        mean: Mean in [0, 1], instead of a name, together with `std`.
        std: Standard deviation in [0, 1].

    Raises:
        ConfigError: A name and values, only one of `mean` and `std`, or an invalid value.
    """
    if name is not None and (mean is not None or std is not None):
        raise ConfigError(f"teacher.normalize is {name}; remove it, or remove teacher.mean and teacher.std")
    if (mean is None) != (std is None):
        given, missing = ("mean", "std") if std is None else ("std", "mean")
        raise ConfigError(f"teacher.{given} is set without teacher.{missing}; set both")
    if name is not None:
        return NAMED[name][0]
    return None if mean is None or std is None else Normalization(mean, std)


def from_metadata(metadata: Mapping[str, str]) -> Normalization | None:
    """Return the normalization that the metadata of an ONNX file states, or None.

    Values above 1 are of pixels from 0 to 255, and are divided by 255.

    Args:
        metadata: Texts by key (`metadata_props`).

    Raises:
        ConfigError: A value cannot be read, or cannot be a mean or a standard deviation.

    Example:
        >>> from_metadata({"mean": "[127.5, 127.5, 127.5]", "std": "[127.5, 127.5, 127.5]"}).mean
        (0.5, 0.5, 0.5)
    """
    tables: list[Mapping[str, Any]] = [metadata]
    for key in _TABLES:
        value = _parsed(metadata.get(key, ""))
        tables += [value] if isinstance(value, Mapping) else []
    for table in tables:
        for mean_key, std_key in _PAIRS:
            if mean_key in table and std_key in table:
                return _of_values(_three(mean_key, table[mean_key]), _three(std_key, table[std_key]))
    name = _RANGES.get(metadata.get("Image.NominalPixelRange", ""))
    return NAMED[name][0] if name else None


def size_in(metadata: Mapping[str, str]) -> int | None:
    """Return the side of the images that the metadata of an ONNX file states, or None."""
    tables: list[Mapping[str, Any]] = [metadata, *(t for t in map(_parsed, map(metadata.get, _TABLES)) if t)]
    for table in tables:
        for key in ("input_size", "imgsz"):
            value = _parsed(table.get(key)) if isinstance(table, Mapping) else None
            sides = [value] if isinstance(value, int) else list(value)[-2:] if isinstance(value, list) else []
            if sides and all(isinstance(side, int) and side > 0 for side in sides):
                return min(sides)
    return None


def missing_text(path: str) -> str:
    """Return the message about a file that does not state its normalization, with the usual ones."""
    lines = [
        f"{path}: the file does not say how its images are normalized, and wrong values make features worse "
        "without a sign. Set teacher.normalize to one of these, or teacher.mean and teacher.std:"
    ]
    for name, (values, use) in NAMED.items():
        mean, std = (" ".join(f"{value:.4g}" for value in part) for part in (values.mean, values.std))
        lines.append(f"  {name:9} mean {mean}, std {std} ({use})")
    lines.append("  A network that normalizes images itself takes unit or byte, whichever range it expects.")
    return "\n".join(lines)


def _of_values(mean: Triple, std: Triple) -> Normalization:
    scale = 255.0 if max(*mean, *std) > 1 else 1.0
    try:
        red, green, blue = (value / scale for value in mean)
        first, second, third = (value / scale for value in std)
        return Normalization((red, green, blue), (first, second, third))
    except ConfigError as error:
        raise ConfigError(f"the metadata of the ONNX file: {error}") from error


def _three(key: str, value: object) -> Triple:
    """Return three numbers from a list, or from text such as `[0.5, 0.5, 0.5]` or `0.5 0.5 0.5`."""
    parsed = _parsed(value)
    numbers = list(parsed) if isinstance(parsed, Sequence) and not isinstance(parsed, str) else [parsed]
    if isinstance(parsed, str):
        numbers = re.split(r"[\s,;]+", parsed.strip(" []()"))
    try:
        values = [float(number) for number in numbers]
        red, green, blue = values * 3 if len(values) == 1 else values
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the ONNX file's metadata has {key} = {str(value)[:80]!r}; it must be one number or three"
        ) from error
    return red, green, blue


def _parsed(value: object) -> Any:
    """Return the value of JSON or of a Python literal; other text unchanged."""
    if not isinstance(value, str) or len(value) > 100_000:
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            result = read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return list(result) if isinstance(result, tuple) else result
    return value
