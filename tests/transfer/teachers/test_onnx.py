"""Teachers out of ONNX files: small nets made by hand, whose features are mean colors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from t3d.errors import CheckpointError, ConfigError
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.open import open_teacher

Seen = Callable[[Teacher, Tensor], Tensor]


def write_onnx(
    path: Path,
    *,
    shape: Sequence[int | str] = ("n", 3, "h", "w"),
    outputs: Sequence[str] = ("vector",),
    kind: int = TensorProto.FLOAT,
) -> None:
    """A net whose feature is the mean of each color, by several outputs on demand."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("Neg", ["vector"], ["logits"]),
        helper.make_node("Abs", ["images"], ["map"]),
        helper.make_node("Unsqueeze", ["vector", "one"], ["tokens"]),
    ]
    n = shape[0]
    shapes = {"vector": [n, 3], "logits": [n, 3], "map": list(shape), "tokens": [n, 1, 3]}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(name, kind, shapes[name]) for name in outputs],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(
    ("shape", "size"), [(("n", 3, "h", "w"), 224), ((1, 3, 32, 32), 32), ((2, 3, 48, 48), 48)]
)
def test_onnx_batches_and_sizes(
    shape: Sequence[int | str], size: int, frames: Tensor, seen_by: Seen, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(path, shape=shape)
    teacher = open_teacher(str(path))
    assert (teacher.num_features, teacher.size) == (3, size)
    assert teacher.name == str(path)
    got = teacher(frames)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, seen_by(teacher, frames).mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher(frames[:1]), got[:1])


def test_onnx_sizes_can_be_fixed(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(path)
    free = open_teacher(str(path), size=40)
    assert free.size == 40
    assert free.digest != open_teacher(str(path), size=48).digest
    write_onnx(path, shape=("n", 3, 32, 32))
    assert open_teacher(str(path), size=32).size == 32
    with pytest.raises(ConfigError, match=r"net\.onnx: takes images of 32 × 32 .*remove teacher\.size"):
        open_teacher(str(path), size=64)
    write_onnx(path, shape=("n", 3, 32, 48))
    with pytest.raises(ConfigError, match=r"net\.onnx: does not support images of 32"):
        open_teacher(str(path))


@pytest.mark.parametrize(
    ("outputs", "average"),
    [(["vector", "tokens"], "vector"), (["map"], "map"), (["map", "vector"], "vector")],
)
def test_onnx_outputs_that_are_features(
    outputs: list[str], average: str, frames: Tensor, seen_by: Seen, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(path, outputs=outputs)
    teacher = open_teacher(str(path), size=32)
    x = seen_by(teacher, frames)
    want = x.abs().mean((2, 3)) if average == "map" else x.mean((2, 3))
    torch.testing.assert_close(teacher(frames), want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [(["tokens"], r"tokens \['n', 1, 3\]"), (["vector", "logits"], r"vector \['n', 3\], logits")],
)
def test_onnx_outputs_that_are_missing_or_ambiguous(outputs: list[str], says: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(path, outputs=outputs)
    with pytest.raises(
        ConfigError, match=rf"net\.onnx: needs exactly one pooled feature.*{says}.*export it with one"
    ):
        open_teacher(str(path))


@pytest.mark.parametrize(
    ("shape", "kind"), [(("n", 1, "h", "w"), 1), (("n", "h", "w"), 1), (("n", 3, "h", "w"), 10)]
)
def test_onnx_files_that_take_no_images(shape: Sequence[int | str], kind: int, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    write_onnx(path, shape=shape, kind=kind)
    with pytest.raises(ConfigError, match=r"net\.onnx: takes images tensor.*float32 \[n, 3, h, w\]"):
        open_teacher(str(path))


def test_onnx_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(CheckpointError, match=r"net\.onnx: no such ONNX file"):
        open_teacher(str(path))
    write_onnx(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"net\.onnx: not a complete ONNX file"):
        open_teacher(str(path))
    write_onnx(path)
    net = onnx.load(path)
    net.graph.initializer.append(numpy_helper.from_array(np.zeros(1024, np.float32), "big"))
    net.graph.node.append(helper.make_node("Neg", ["big"], ["unused"]))
    onnx.save(net, path, save_as_external_data=True, location="net.onnx.data")
    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would find the weights, unseen by the digest
    with pytest.raises(CheckpointError, match=r"net\.onnx: .*external_data=False"):
        open_teacher(str(path))
    write_onnx(path)
    with pytest.raises(ConfigError, match=r"net\.onnx holds its own weights"):
        open_teacher(str(path), weights="random")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r'net\.onnx: .*pip install "t3d\[onnx\]"'):
        open_teacher(str(path))


def test_mobilenet_out_of_onnx(real_data: Path, frames: Tensor, seen_by: Seen) -> None:
    path = str(real_data / "teachers" / "mobilenet_v2_imagenet.onnx")
    teacher = open_teacher(path, size=128)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = seen_by(teacher, frames)
    (want,) = session.run(None, {"images": x.numpy()})
    torch.testing.assert_close(teacher(frames), torch.from_numpy(want), rtol=1e-4, atol=1e-4)
    assert (teacher.num_features, teacher.size) == (1280, 128)
    assert open_teacher(path).size == 224
