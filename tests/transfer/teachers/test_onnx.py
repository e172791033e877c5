"""Teachers out of ONNX files: small nets made by hand, whose features are mean colors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from t3d.errors import CheckpointError, ConfigError
from t3d.transfer.config import TeacherConfig
from t3d.transfer.probe_config import ProbeConfig
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.normalization import NAMED, Normalization, chosen, from_metadata
from t3d.transfer.teachers.open import open_teacher

IMAGENET = {"mean": "[0.485, 0.456, 0.406]", "std": "[0.229, 0.224, 0.225]"}
Seen = Callable[[Teacher, Tensor], Tensor]


def write_onnx(
    path: Path,
    *,
    shape: Sequence[int | str] = ("n", 3, "h", "w"),
    outputs: Sequence[str] = ("vector",),
    kind: int = TensorProto.FLOAT,
    metadata: Mapping[str, object] = IMAGENET,
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
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    onnx.save(model, path)


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
    with pytest.raises(ConfigError, match="does not say how its images are normalized"):
        open_teacher(path)
    imagenet = NAMED["imagenet"][0]
    teacher = open_teacher(path, size=128, normalization=imagenet)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = seen_by(teacher, frames)
    (want,) = session.run(None, {"images": x.numpy()})
    torch.testing.assert_close(teacher(frames), torch.from_numpy(want), rtol=1e-4, atol=1e-4)
    assert (teacher.num_features, teacher.size) == (1280, 128)
    assert open_teacher(path, normalization=imagenet).size == 224


# --- normalization ------------------------------------------------------------------------------------------

HALF = ((0.5,) * 3, (0.5,) * 3)
OWN = ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
TABLE = {"mean": OWN[0], "std": OWN[1], "input_size": [3, 40, 40]}


@pytest.mark.parametrize(
    ("metadata", "want"),
    [
        ({"mean": "0.4 0.5 0.6", "std": "0.1 0.2 0.3"}, OWN),
        ({"mean": "(0.4, 0.5, 0.6)", "std": "0.1;0.2;0.3"}, OWN),
        ({"image_mean": "0.5", "image_std": "0.5"}, HALF),
        ({"mean": "[127.5, 127.5, 127.5]", "std": "[127.5, 127.5, 127.5]"}, HALF),
        (
            {"model_info mean_values": "127.5 127.5 127.5", "model_info scale_values": "127.5 127.5 127.5"},
            HALF,
        ),
        ({"pretrained_cfg": json.dumps(TABLE)}, OWN),
        ({"preprocessor_config": json.dumps({"image_mean": OWN[0], "image_std": OWN[1]})}, OWN),
        ({"hf_preprocessor_config": json.dumps({"image_mean": OWN[0], "image_std": OWN[1]})}, OWN),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, HALF),
        ({"Image.NominalPixelRange": "NominalRange_0_255"}, ((0.0,) * 3, (1 / 255,) * 3)),
    ],
)
def test_the_metadata_of_an_onnx_file_says_how_images_are_normalized(
    metadata: dict[str, object], want: tuple[tuple[float, ...], ...], tmp_path: Path, frames: Tensor
) -> None:
    write_onnx(tmp_path / "net.onnx", metadata=metadata)
    teacher = open_teacher(str(tmp_path / "net.onnx"), size=32)
    assert teacher.mean == pytest.approx(want[0])
    assert teacher.std == pytest.approx(want[1])
    plain = open_teacher(str(tmp_path / "net.onnx"), size=32, normalization=NAMED["unit"][0])
    mean, std = (torch.tensor(values) for values in want)
    torch.testing.assert_close(teacher(frames), (plain(frames) - mean) / std, atol=1e-4, rtol=1e-4)


def test_the_metadata_of_an_onnx_file_may_say_the_size(tmp_path: Path) -> None:
    for metadata in ({"pretrained_cfg": json.dumps(TABLE)}, {**IMAGENET, "imgsz": "[40, 40]"}):
        write_onnx(tmp_path / "net.onnx", metadata=metadata)
        assert open_teacher(str(tmp_path / "net.onnx")).size == 40
        assert open_teacher(str(tmp_path / "net.onnx"), size=32).size == 32


@pytest.mark.situation(
    "Machines and disks",
    "An ONNX teacher with another normalization than ImageNet's",
    "Read from the file, or asked for",
)
@pytest.mark.parametrize("metadata", [{}, {"mean": "[0.5, 0.5, 0.5]"}, {"names": "{0: 'cat'}"}])
def test_an_onnx_file_that_does_not_say_it_needs_the_option(
    metadata: dict[str, object], tmp_path: Path
) -> None:
    path = str(tmp_path / "net.onnx")
    write_onnx(tmp_path / "net.onnx", metadata=metadata)
    with pytest.raises(ConfigError) as caught:
        open_teacher(path)
    text = str(caught.value)
    assert "net.onnx: the file does not say how its images are normalized" in text
    for part in ("teacher.normalize", "teacher.mean and teacher.std", *NAMED, "0.485 0.456 0.406"):
        assert part in text
    assert open_teacher(path, normalization=NAMED["half"][0]).mean == (0.5,) * 3
    digests = {open_teacher(path, normalization=values).digest for values, _ in NAMED.values()}
    assert len(digests) == len(NAMED)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"mean": "gray", "std": "0.5"}, "metadata has mean = 'gray'; it must be one number or three"),
        ({"mean": "[0.5, 0.5]", "std": "0.5"}, "it must be one number or three"),
        ({"mean": "0.5", "std": "0"}, "every channel must be above 0"),
        ({"mean": "nan", "std": "1"}, "it must be three numbers"),
    ],
)
def test_metadata_that_cannot_be_is_refused(metadata: dict[str, object], says: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", metadata=metadata)
    with pytest.raises(ConfigError, match=rf"net\.onnx: .*{says}.*; set teacher\.normalize"):
        open_teacher(str(tmp_path / "net.onnx"))


def test_options_choose_a_name_or_values() -> None:
    assert chosen(None, None, None) is None
    assert chosen("half", None, None) == Normalization(*HALF)  # type: ignore[arg-type]
    assert chosen(None, OWN[0], OWN[1]) == Normalization(*OWN)  # type: ignore[arg-type]
    for wrong, says in (
        (("half", OWN[0], OWN[1]), "teacher.normalize is half; remove it"),
        ((None, OWN[0], None), "teacher.mean is set without teacher.std"),
        ((None, None, OWN[1]), "teacher.std is set without teacher.mean"),
        ((None, OWN[0], (1, 0, 1)), "above 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            chosen(*wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'imagenet'"):
        TeacherConfig(name="a.onnx", normalize="imagnet")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"teacher\.mean is set without"):
        TeacherConfig(name="a.onnx", mean=OWN[0])
    with pytest.raises(ConfigError, match="`teacher_normalize` would have no effect"):
        ProbeConfig("a", "b", model="c", teacher_normalize="half")
    assert from_metadata({"mean": "1", "std": "1"}) == Normalization((1,) * 3, (1,) * 3)


def test_a_library_teacher_takes_other_values_only_if_they_are_chosen() -> None:
    usual = open_teacher("torchvision:resnet18", weights="random", size=64)
    other = open_teacher("torchvision:resnet18", weights="random", size=64, normalization=NAMED["half"][0])
    assert (usual.mean, other.mean) == (NAMED["imagenet"][0].mean, (0.5,) * 3)
