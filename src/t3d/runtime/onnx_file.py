"""Models in ONNX files, computed by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from t3d.card import ModelCard
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, first_line
from t3d.io.files import refuse_unreadable
from t3d.runtime.exported import ExportedModel, refuse_gpu
from t3d.runtime.formats import INSTALL
from t3d.runtime.stamp import Stamp, read_metadata
from t3d.runtime.threads import compute_threads


def open_session(path: Path) -> tuple[Any, ModelCard, Stamp]:
    """Open an ONNX file that `t3d export` wrote.

    Args:
        path: The file.

    Returns:
        The session of ONNX Runtime, with `compute_threads` threads, the card and the stamp.

    Raises:
        CheckpointError: The file is missing or damaged, or `t3d export` did not write it.
        ConfigError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"{path}: this format needs ONNX Runtime: {INSTALL}") from error
    refuse_unreadable(path, name="exported file", error=CheckpointError)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = compute_threads()
    options.log_severity_level = 3
    # Weights belong inside: a path in the file must not open any other file.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path))
    try:
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise CheckpointError(
            f"{path}: not a complete ONNX file ({first_line(error)}); copy it again, or export the run again"
        ) from error
    return session, *read_metadata(session.get_modelmeta().custom_metadata_map, path)


class ONNXModel(ExportedModel):
    """A model that ONNX Runtime computes, in float32.

    Args:
        path: The file.
        compute: `device` must be the CPU, and `precision` `auto` or `fp32`. It computes with
            `compute_threads` threads.

    Raises:
        CheckpointError: See `open_session`.
        ConfigError: ONNX Runtime is not installed, or a GPU or bfloat16 is asked for.
    """

    runtime = "onnx"

    def __init__(self, path: Path, compute: Compute) -> None:
        refuse_gpu(compute, path)
        if compute.precision == "bf16":
            raise ConfigError(
                f"precision is bf16, but ONNX Runtime computes {path} in fp32. Use precision auto or "
                "fp32, or export the run for OpenVINO"
            )
        self._session, card, stamp = open_session(path)
        super().__init__(path, card, stamp, precision="fp32")
        self._input = self._session.get_inputs()[0].name

    def _run(self, clips: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = self._session.run(None, {self._input: clips})[0]
        return scores
