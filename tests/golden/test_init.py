"""Fresh weights: what a network starts from at a given seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from t3d.models.registry import create_model

NARROW = {"width": 0.125}
TTL = NARROW | {"ttl_channels": 8}


def fresh(name: str, **options: Any) -> list[float]:
    """Sum of magnitudes of all parameters, of the first and the last kernel; three single weights."""
    torch.manual_seed(3)
    net = create_model(name, num_classes=5, options=options)
    parameters = [parameter.detach().double() for parameter in net.parameters()]
    kernels = [parameter for parameter in parameters if parameter.ndim > 1]
    parts = torch.cat([parameter.flatten() for parameter in parameters]), kernels[0], kernels[-1]
    sums = [float(part.abs().sum()) for part in parts]
    return [float(f"{value:.7g}") for value in [*sums, *kernels[len(kernels) // 2].flatten()[:3].tolist()]]


def test_densenet3d_and_t3d() -> None:
    assert fresh("densenet3d_tiny") == pytest.approx(
        [23523.68, 753.7456, 34.11512, -0.05686069, -0.03262991, -0.01302171],
        rel=1e-4,
    )
    assert fresh("t3d_tiny") == pytest.approx(
        [40336.58, 755.2925, 35.30821, 0.03878691, -0.0171769, 0.2114082],
        rel=1e-4,
    )


def test_resnet3d() -> None:
    assert fresh("resnet3d18", **NARROW) == pytest.approx(
        [17248.56, 116.0779, 19.82468, 0.1486454, 0.4931318, -0.155123],
        rel=1e-4,
    )
    assert fresh("r2plus1d18", **NARROW) == pytest.approx(
        [27772.85, 54.41207, 20.43641, -0.1115257, 0.1276589, 0.2240957],
        rel=1e-4,
    )
    assert fresh("resnet3d50_ttl", **TTL) == pytest.approx(
        [45937.02, 52.622, 39.9798, -0.2291738, 0.03032468, 0.2689022],
        rel=1e-4,
    )


def test_inception3d_and_c3d() -> None:
    assert fresh("inception3d", **NARROW) == pytest.approx(
        [14474.73, 290.8257, 28.47946, 0.0299771, -0.002201593, -0.006594914],
        rel=1e-4,
    )
    assert fresh("inception3d_ttl", **TTL) == pytest.approx(
        [16988.22, 67.51104, 28.47946, 0.06966858, 0.172173, -0.2321247],
        rel=1e-4,
    )
    assert fresh("c3d", **NARROW) == pytest.approx(
        [44894.87, 75.7691, 56.69091, 0.01963796, -0.02185379, 0.02756914],
        rel=1e-4,
    )
