"""Matrix product of 8-bit integers, computed by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from t3d.runtime.openvino_file import import_openvino, openvino_core


def int8_product(size: int) -> Callable[[], object]:
    """Return a call that multiplies two square matrices of 8-bit integers.

    The left matrix is quantized in the graph, and the maximum of each row is returned, so that little data
    leaves the graph.

    Args:
        size: Side of the matrices.
    """
    openvino = import_openvino(Path("benchmark"))
    ops = openvino.opset13
    parameter = ops.parameter([size, size], np.float32)
    low, high = np.float32(-4), np.float32(4)
    left = ops.fake_quantize(parameter, low, high, low, high, 256)
    numbers = np.random.default_rng(0).integers(-127, 128, (size, size), dtype=np.int8)
    scale = ops.constant(np.full((size, 1), 0.01, np.float32))
    right = ops.multiply(ops.convert(ops.constant(numbers), np.float32), scale)
    product = ops.reduce_max(ops.matmul(left, right, False, True), np.array([1], np.int64), False)
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Model([product], [parameter], "product")
    compiled = openvino_core(Path("benchmark")).compile_model(model, "CPU", settings)
    values = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32)
    return lambda: compiled([values])
