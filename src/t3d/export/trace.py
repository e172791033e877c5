"""The graph of a network, traced with torch.export, and its conversion into each format.

Legend: B batch, C channels, T frames, H height, W width, S segments, K classes.
"""

from __future__ import annotations

import errno
import importlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.errors import ConfigError, ExportError, first_line
from t3d.io.files import content_digest
from t3d.models.net import VideoNet
from t3d.models.segments import with_consensus
from t3d.runtime.formats import INSTALL, Format
from t3d.runtime.openvino_file import no_usage_reports
from t3d.runtime.stamp import Stamp, metadata

_LARGEST_ONNX = (1 << 31) - (1 << 24)  # a protobuf of 2 GiB, less the graph


def trace(net: VideoNet, spec: ClipSpec) -> Any:
    """Trace a network: float clips B C S·T H W → scores B K, for any batch.

    Args:
        net: The network.
        spec: Clip that the graph accepts. With segments, the graph has their consensus.

    Returns:
        A `torch.export.ExportedProgram`, in evaluation mode.

    Raises:
        ConfigError: The clip is too small for the network.
        ExportError: torch.export cannot trace it.
    """
    scorer: nn.Module = with_consensus(net.eval(), spec.segments)
    shape = (2, net.in_channels, spec.segments * spec.num_frames, spec.size, spec.size)
    batch = torch.export.Dim("batch", min=1)
    clips = torch.zeros(shape)
    try:
        with quietly(), torch.no_grad():
            return torch.export.export(scorer, (clips,), dynamic_shapes=({0: batch},))
    except ConfigError:
        raise
    except Exception as error:  # of torch.export, or of an image model of another library
        raise _not_exportable(net, "torch.export", error) from error


_PACKAGES: dict[Format, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch": (),
}


def import_converters(form: Format, *, int8: bool) -> None:
    """Import the packages that write and check a format.

    Raises:
        ConfigError: One of them is not installed.
    """
    for name in (*_PACKAGES[form], *(["nncf"] if int8 else [])):
        try:
            with no_usage_reports():
                importlib.import_module(name)
        except ImportError as error:
            needs = "`int8`" if name == "nncf" else f"format {form}"
            raise ConfigError(f"{needs} needs the package {name}: {INSTALL}") from error


def to_openvino(graph: Any, net: VideoNet) -> Any:
    """Convert a traced network into an OpenVINO model.

    Args:
        graph: The traced network.
        net: The network, for messages.

    Raises:
        ExportError: OpenVINO does not support an operation.
    """
    import_converters("openvino", int8=False)
    import openvino

    try:
        with quietly():
            model = openvino.convert_model(graph)
    except Exception as error:  # OpenVINO's errors have no common base class
        raise _not_exportable(net, "OpenVINO", error) from error
    model.inputs[0].get_tensor().set_names({"clips"})
    model.outputs[0].get_tensor().set_names({"scores"})
    return model


def write_openvino(model: Any, path: Path, card: ModelCard, stamp: Stamp) -> None:
    """Write an OpenVINO model as `.xml` and `.bin`, with the digest of the `.bin` in the stamp."""
    import openvino

    weights = path.with_suffix(".bin")
    with _stream_errors(weights):
        openvino.serialize(model, path, weights)  # save_model would compress the weights to fp16
        digest = content_digest(weights)
        texts = metadata(card, Stamp(stamp.numbers, stamp.source, stamp.t3d, digest))
        for key, text in texts.items():
            model.set_rt_info(text, key.split("."))
        openvino.serialize(model, path, weights)


@contextmanager
def _stream_errors(path: Path) -> Iterator[None]:
    """Raise an OSError if OpenVINO cannot write a file: its own error does not say why.

    Args:
        path: The largest file that the block writes.
    """
    try:
        yield
    except RuntimeError as error:
        with path.open("ab") as file:
            file.write(bytes(1 << 16))  # fails for the same reason
        raise OSError(errno.EIO, first_line(error)) from error


def write_onnx(graph: Any, path: Path, net: VideoNet, card: ModelCard, stamp: Stamp) -> None:
    """Write a traced network as one ONNX file.

    Raises:
        ExportError: The ONNX exporter does not support an operation, or the weights need more than 2 GB.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    if size > _LARGEST_ONNX:
        raise ExportError(
            f"{card.architecture} has {size / 1e9:.1f} GB of weights; one ONNX file holds at most 2 GB. Use "
            "format openvino"
        )
    try:
        with quietly():
            program = torch.onnx.export(
                graph, (), dynamo=True, verbose=False, input_names=["clips"], output_names=["scores"]
            )
    except Exception as error:  # of the exporter, or of one of its passes
        raise _not_exportable(net, "the ONNX exporter", error) from error
    assert program is not None
    for part in (program.model.graph, *program.model.functions.values()):
        for node in part:  # the file and the line of each operation on this machine
            node.metadata_props.clear()
    program.model.metadata_props.update(metadata(card, stamp))
    program.save(path, external_data=False)


def write_torch(graph: Any, path: Path, card: ModelCard, stamp: Stamp) -> None:
    """Write a traced network as a file of torch.export."""
    content = BytesIO()  # torch's own writer ends the process if the disk is full
    with quietly():
        torch.export.save(graph, content, extra_files=metadata(card, stamp))
    path.write_bytes(content.getbuffer())


@contextmanager
def quietly() -> Iterator[None]:
    """Silence warnings and log lines of converters, which users can do nothing about."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _not_exportable(net: VideoNet, converter: str, error: Exception) -> ExportError:
    """Return the error for a network that a converter does not support."""
    unsupported = re.search(r"No conversion rule found for operations: (.+)", str(error))
    reason = f"it does not support the operations {unsupported[1]}" if unsupported else first_line(error)
    name = type(net).__name__
    return ExportError(
        f"{name} cannot be exported: {converter} failed: {reason}. Use another format, or torch"
    )
