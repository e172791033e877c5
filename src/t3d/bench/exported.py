"""Exported files of a network, written into a temporary folder for the benchmark.

Legend: N clips, S segments, T frames.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from t3d.bench.candidates import Scorer
from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.device import Compute, Precision
from t3d.export.clips import random_clips
from t3d.export.int8 import quantize
from t3d.export.trace import to_openvino, trace, write_onnx, write_openvino
from t3d.models.net import VideoNet
from t3d.runtime.formats import ENDINGS, Format
from t3d.runtime.load import load
from t3d.runtime.stamp import Stamp

_CALIBRATION = 4  # random clips: enough for a speed, not for an accuracy


class Exports:
    """Exported files of one network, each written when it is first needed.

    Args:
        net: The network, in fp32 on the CPU.
        spec: What a clip is.
        folder: Folder for the files.
    """

    def __init__(self, net: VideoNet, spec: ClipSpec, folder: Path) -> None:
        self.net = net
        self.spec = spec
        self.folder = folder

    @cached_property
    def _graph(self) -> Any:
        return trace(self.net, self.spec)

    def path(self, form: Format, *, int8: bool = False) -> Path:
        """Return the file of a format, after writing it if necessary.

        Raises:
            ConfigError: A package is not installed.
            ExportError: The network cannot be converted.
        """
        path = self.folder / f"{form}{'-int8' if int8 else ''}{ENDINGS[form]}"
        if path.exists():
            return path
        classes = tuple(f"class {number}" for number in range(self.net.num_classes))
        card = ModelCard("benchmark", classes=classes, clip=self.spec)
        stamp = Stamp("int8" if int8 else "fp32", "", version("t3d"))
        if form == "onnx":
            write_onnx(self._graph, path, self.net, card, stamp)
            return path
        model = to_openvino(self._graph, self.net)
        if int8:
            model = quantize(model, random_clips(self.spec, _CALIBRATION), self.spec)
        write_openvino(model, path, card, stamp)
        return path

    def open(self, form: Format, precision: str) -> Scorer:
        """Return the scorer of an exported file in a precision: `fp32`, `bf16` or `int8`."""
        return open_file(self.path(form, int8=precision == "int8"), precision)


def open_file(path: Path, precision: str) -> Scorer:
    """Return the scorer of an exported file.

    Args:
        path: The file.
        precision: `fp32`, `bf16`, or `int8` for an int8 file with the fastest other operations.
    """
    model, _ = load(path, compute=Compute(device="cpu", precision=compute_precision(precision)))
    return model


def compute_precision(precision: str) -> Precision:
    """Return the precision that an exported file is loaded with."""
    return "bf16" if precision == "bf16" else "fp32" if precision == "fp32" else "auto"


def installed(form: Format) -> bool:
    """Return whether the packages of a format are installed."""
    packages = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
    return all(find_spec(name) is not None for name in packages[form])
