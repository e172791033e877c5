"""Models in OpenVINO's format: `.xml` with the graph and the card, and `.bin` with the weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.card import CARD_KEY, ModelCard
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, first_line, shortened
from t3d.io.files import content_digest, refuse_unreadable
from t3d.runtime.exported import ExportedModel, refuse_gpu
from t3d.runtime.formats import INSTALL
from t3d.runtime.stamp import STAMP_KEY, Stamp, read_metadata
from t3d.runtime.threads import compute_threads

_REPORTS = "openvino_telemetry"
_NOISE = ("Exception", "Check")  # places in OpenVINO's sources


@contextmanager
def no_usage_reports() -> Iterator[None]:
    """Import OpenVINO and NNCF in this block: they then send no usage data to their maker.

    Both use a package for this which they also work without.
    """
    missing = object()
    kept: Any = sys.modules.get(_REPORTS, missing)
    sys.modules[_REPORTS] = None  # type: ignore[assignment] # importing it raises ImportError
    try:
        yield
    finally:
        if kept is missing:
            del sys.modules[_REPORTS]
        else:
            sys.modules[_REPORTS] = kept


def import_openvino(path: Path) -> Any:
    """Import OpenVINO.

    Args:
        path: The file that needs it, for the message.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        with no_usage_reports():
            import openvino
    except ImportError as error:
        raise ConfigError(f"{path}: this format needs OpenVINO: {INSTALL}") from error
    return openvino


_cores: list[Any] = []


def openvino_core(path: Path) -> Any:
    """Return the one `openvino.Core` of this process.

    Each core replaces the thread's alternate signal stack when it compiles its first model. The destructor
    restores the one before, which no longer exists if that was an earlier core's, deleted first. The next
    signal, such as that of a reading process that ends, would then end the process (seen on CPUs with AMX).

    Args:
        path: The file that needs it, for the message.

    Raises:
        ConfigError: OpenVINO is not installed.
    """
    openvino = import_openvino(path)
    if not _cores:
        _cores.append(openvino.Core())
    return _cores[0]


def read_graph(path: Path) -> tuple[Any, ModelCard, Stamp]:
    """Read a file without compiling it.

    Args:
        path: The `.xml` file. Its `.bin` is next to it.

    Returns:
        The OpenVINO model, its card and its stamp.

    Raises:
        CheckpointError: A file is missing or damaged, the two are not of one export, or `t3d export` did not
            write them.
        ConfigError: OpenVINO is not installed.
    """
    import_openvino(path)
    weights = path.with_suffix(".bin")
    refuse_unreadable(path, name="exported file", error=CheckpointError)
    if not weights.exists():
        raise CheckpointError(
            f"{path}: {weights.name} is missing, which holds its weights; copy both files, or export "
            "the run again"
        )
    refuse_unreadable(weights, name="exported file", error=CheckpointError)
    try:
        graph = openvino_core(path).read_model(path, weights)
    except RuntimeError as error:
        lines = [line for line in str(error).splitlines() if line and not line.startswith(_NOISE)]
        reason = shortened(lines[-1]) if lines else first_line(error)
        raise CheckpointError(
            f"{path}: not a complete OpenVINO file ({reason}); copy it again, or export the run again"
        ) from error
    texts = {
        key: graph.get_rt_info(key.split(".")).astype(str)
        for key in (CARD_KEY, STAMP_KEY)
        if graph.has_rt_info(key.split("."))
    }
    card, stamp = read_metadata(texts, path)
    if content_digest(weights) != stamp.weights:
        raise CheckpointError(
            f"{weights}: the file is incomplete, or not the one that {path.name} was exported with; copy "
            "both files again, or export the run again"
        )
    return graph, card, stamp


def _has_bf16(path: Path) -> bool:
    """Return whether OpenVINO chooses bfloat16 on this CPU: whether it has instructions for it."""
    return "bf" in str(openvino_core(path).get_property("CPU", "INFERENCE_PRECISION_HINT"))


class OpenVINOModel(ExportedModel):
    """A model that OpenVINO computes.

    Args:
        path: The `.xml` file.
        compute: `precision` is used, and `device` must be the CPU. It computes with
            `compute_threads` threads.

    Raises:
        CheckpointError: See `read_graph`.
        ConfigError: OpenVINO is not installed, or a GPU is asked for.
    """

    runtime = "openvino"

    def __init__(self, path: Path, compute: Compute) -> None:
        refuse_gpu(compute, path)
        graph, card, stamp = read_graph(path)
        bf16 = compute.precision == "bf16" or (compute.precision == "auto" and _has_bf16(path))
        super().__init__(path, card, stamp, precision="bf16" if bf16 else "fp32")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": compute_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled = openvino_core(path).compile_model(graph, "CPU", settings)

    def _run(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = self._compiled([clips])[0]
        return scores
