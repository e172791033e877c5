"""Every model family exports: one narrow network of each here, every registered network in the slow tests."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from t3d.card import ModelCard
from t3d.clip import ClipSpec
from t3d.data.clips.transforms import normalize
from t3d.errors import ExportError
from t3d.export.config import ExportConfig
from t3d.export.run import export_model
from t3d.export.trace import to_openvino, trace
from t3d.models.fusion import FusedNet
from t3d.models.registry import create_model, list_models
from t3d.models.segments import with_consensus
from t3d.models.weights import save_model
from t3d.runtime.openvino_file import no_usage_reports, openvino_core

with no_usage_reports():
    pytest.importorskip("openvino")

pytestmark = pytest.mark.filterwarnings("ignore:a TTL looks at")

FRAMES, SIDE = 8, 32
SMALL: dict[str, object] = {"width": 0.125, "block_config": [1, 1, 1, 1]}
DENSE: dict[str, object] = {"block_config": [1, 1, 1, 1], "growth_rate": 8, "stem_channels": 8}


def member(num_frames: int, stride: int, resize: int) -> dict[str, object]:
    clip = {"num_frames": num_frames, "stride": stride, "size": SIDE, "resize": resize}
    return {"architecture": "densenet3d_tiny", "options": DENSE, "clip": clip}


FAMILIES: dict[str, tuple[str, dict[str, object], int]] = {
    "densenet3d": ("densenet3d_tiny", DENSE, 1),
    "t3d": ("t3d_tiny", {**DENSE, "ttl_channels": 4}, 1),
    "t3d in segments": ("t3d_tiny", {**DENSE, "ttl_channels": 4}, 2),
    "resnet3d": ("resnet3d18", SMALL, 1),
    "resnet3d with TTLs": (
        "resnet3d18",
        {**SMALL, "ttl_after": ["layer1"], "ttl_depths": [[1, 3, 6]], "ttl_channels": 4},
        1,
    ),
    "r2plus1d": ("r2plus1d18", SMALL, 1),
    "c3d": ("c3d", {"width": 0.0625}, 1),
    "frames": ("frames", {"backbone": "timm:resnet10t"}, 1),
    "fused": ("fused", {"members": [member(8, 2, 32), member(4, 2, 32)]}, 1),
    "inception3d": ("inception3d", {"width": 0.125}, 1),
    "i3d": ("i3d", {"width": 0.125}, 1),
}
SLOW = ("densenet3d", "t3d in segments", "resnet3d", "i3d")  # the others have the same layers
LONG = ("fused", "inception3d")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW) + [pytest.mark.long] * (name in LONG))
        for name in FAMILIES
    ],
)
def test_a_family_converts_for_any_batch(family: str) -> None:
    name, options, segments = FAMILIES[family]
    compare(name, options, ClipSpec(num_frames=FRAMES, size=SIDE, resize=SIDE, segments=segments))


@pytest.mark.long
def test_models_fused_from_clips_of_different_sizes_do_not_convert() -> None:
    net = create_model("fused", num_classes=2, options={"members": [member(8, 2, 40), member(8, 2, 32)]})
    assert isinstance(net, FusedNet)
    with pytest.raises(ExportError, match=r"FusedNet .* does not support .*upsample_bilinear2d_aa"):
        to_openvino(trace(net, net.clip), net)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_every_registered_network_converts(name: str) -> None:
    compare(name, {}, ClipSpec(num_frames=16, size=64, resize=64))


def compare(name: str, options: dict[str, object], spec: ClipSpec) -> None:
    torch.manual_seed(0)
    net = create_model(name, num_classes=6, options=options)
    net = randomized(net).eval()
    spec = net.clip if isinstance(net, FusedNet) else spec
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = to_openvino(trace(net, spec), net)
    compiled = openvino_core(Path()).compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for batch in (1, 3):
        shape = (batch, spec.segments * spec.num_frames, 3, spec.size, spec.size)
        clips = normalize(torch.randint(0, 256, shape, dtype=torch.uint8), spec)
        with torch.inference_mode():
            wanted = with_consensus(net, spec.segments)(clips)
        scores = torch.from_numpy(np.array(compiled([clips.contiguous().numpy()])[0]))
        assert scores.shape == wanted.shape
        assert ((scores - wanted).norm() / wanted.norm()) < 1e-5


def randomized(net: nn.Module) -> Any:
    """Give TTLs, which start at zero, and the statistics of BatchNorm values that change the outputs."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv3d) and not module.weight.any():
            nn.init.kaiming_normal_(module.weight)
    return net


@pytest.mark.slow
def test_t3d_tiny_exports_to_onnx(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = randomized(create_model("t3d_tiny", num_classes=2))
    path = tmp_path / "net.safetensors"
    save_model(
        net, path, card=ModelCard("t3d_tiny", classes=("a", "b"), clip=ClipSpec(16, size=72, resize=72))
    )
    result = export_model(ExportConfig(str(path), "onnx"))
    difference = result.rows[-1].difference
    assert difference is not None
    assert difference.relative < 1e-5
