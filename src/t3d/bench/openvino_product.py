"""Matrix product of 8-bit integers, computed by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from t3d.runtime.openvino_file import import_openvino, openvino_core

PRODUCTS = 8
"""Products in a row: the conversion of the first matrix then takes little of the time."""


def int8_product(size: int) -> Callable[[], object]:
    """Return a call that computes `PRODUCTS` products of square matrices of 8-bit integers, in a row.

    Each result is quantized again. The maximum of each row of the last one is returned, so that little data
    leaves the graph.

    Args:
        size: Side of the matrices.
    """
    openvino = import_openvino(Path("benchmark"))
    ops = openvino.opset13
    parameter = node = ops.parameter([size, size], np.float32)
    low, high = np.float32(-4), np.float32(4)
    numbers = np.random.default_rng(0).integers(-127, 128, (size, size), dtype=np.int8)
    for _ in range(PRODUCTS):
        node = ops.fake_quantize(node, low, high, low, high, 256)
        scale = ops.constant(np.full((size, 1), 1e-3, np.float32))
        right = ops.multiply(ops.convert(ops.constant(numbers), np.float32), scale)
        node = ops.matmul(node, right, False, True)
    node = ops.reduce_max(node, np.array([1], np.int64), False)
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Model([node], [parameter], "product")
    compiled = openvino_core(Path("benchmark")).compile_model(model, "CPU", settings)
    values = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32)
    return lambda: compiled([values])
