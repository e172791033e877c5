"""Teachers give what the raw network gives, never change, and say what is wrong with a name or file."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from t3d.clip import IMAGENET_MEAN, IMAGENET_STD
from t3d.errors import CheckpointError, ConfigError
from t3d.transfer.teachers.base import Teacher
from t3d.transfer.teachers.library import TorchTeacher
from t3d.transfer.teachers.open import open_teacher

SQUEEZENET = "squeezenet1_1_imagenet.safetensors"
Reference = Callable[[Tensor, int, Sequence[float], Sequence[float]], Tensor]
Seen = Callable[[Teacher, Tensor], Tensor]


@pytest.fixture(scope="session")
def teachers(real_data: Path) -> Path:
    return real_data / "teachers"


def timm_file(name: str, path: Path, **options: int) -> nn.Module:
    """A whole network of timm with unusual BatchNorms, and its weights in a file."""
    torch.manual_seed(1)
    net = timm.create_model(name, pretrained=False, num_classes=7, **options)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 2)
    save_file(net.state_dict(), path)
    return net.eval()


# Features of teachers


@pytest.mark.parametrize("shape", [(90, 120), (120, 90), (64, 64), (40, 50), (64, 65)])
def test_frames_are_prepared_as_torchvision_does(
    shape: tuple[int, int], frames: Tensor, seen_by: Seen
) -> None:
    teacher = open_teacher("timm:test_resnet", weights="random", size=64)
    resized = F.interpolate(frames.float(), shape, mode="bilinear").byte()
    kept = resized.clone()
    got = teacher.prepare(resized)
    assert got.dtype == torch.float32
    assert got.shape == (3, 3, 64, 64)
    torch.testing.assert_close(got, seen_by(teacher, resized))
    assert torch.equal(resized, kept)


@pytest.mark.parametrize("name", ["timm:test_resnet", "test_vit", "timm:mobilenetv3_small_050"])
def test_timm_gives_its_own_pooled_features(
    name: str, frames: Tensor, reference: Reference, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    net = timm_file(name.removeprefix("timm:"), path)
    teacher = open_teacher(name, weights=path)
    config = timm.data.resolve_model_data_config(net)
    x = reference(frames, config["input_size"][1], config["mean"], config["std"])
    want = net.forward_head(net.forward_features(x), pre_logits=True)
    got = teacher(frames)
    assert got.dtype == torch.float32
    assert not got.requires_grad
    torch.testing.assert_close(got, want)
    assert teacher.num_features == want.shape[1]
    assert teacher.name == name


@pytest.mark.parametrize(
    ("name", "pooled"),
    [
        ("resnet18", None),
        ("shufflenet_v2_x0_5", None),
        ("alexnet", lambda net, x: net.features(x).mean((2, 3))),
        ("mobilenet_v3_small", lambda net, x: net.features(x).mean((2, 3))),
        ("densenet121", lambda net, x: F.relu(net.features(x)).mean((2, 3))),
    ],
)
def test_torchvision_gives_what_its_classifier_sees(
    name: str, pooled: object, frames: Tensor, reference: Reference, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    net = models.get_model(name).eval()
    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path)
    teacher = open_teacher(f"torchvision:{name}", weights=path, size=96)
    x = reference(frames, 96, IMAGENET_MEAN, IMAGENET_STD)
    seen: list[Tensor] = []
    if pooled is None:
        net.get_submodule("fc").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(x)
        want = seen[0] if pooled is None else pooled(net, x)  # type: ignore[operator]
    torch.testing.assert_close(teacher(frames), want)
    assert teacher.num_features == want.shape[1]
    assert (teacher.mean, teacher.std) == (IMAGENET_MEAN, IMAGENET_STD)


def test_a_transformer_of_torchvision_keeps_its_size() -> None:
    assert open_teacher("torchvision:swin_t", weights="random", size=64).num_features == 768
    with pytest.raises(
        ConfigError, match=r"torchvision:vit_b_32 does not support images of 96.*teacher\.size"
    ):
        open_teacher("torchvision:vit_b_32", weights="random", size=96)


def test_a_transformer_of_timm_is_resized_after_loading_its_weights(
    frames: Tensor, seen_by: Seen, tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    net = timm_file("vit_tiny_patch16_224", path)
    teacher = open_teacher("timm:vit_tiny_patch16_224", weights=path, size=96)
    net.set_input_size(img_size=96)  # type: ignore[operator]
    want = net.forward_head(net.forward_features(seen_by(teacher, frames)), pre_logits=True)
    torch.testing.assert_close(teacher(frames), want)
    assert open_teacher("timm:cait_xxs24_224", weights="random", size=64)(frames).shape == (3, 192)


def test_bare_names_are_looked_up_in_timm_first() -> None:
    assert open_teacher("resnet18", weights="random").mean == IMAGENET_MEAN
    assert "timm" in type(open_teacher("resnet18", weights="random", size=64).get_submodule("net")).__module__
    net = open_teacher("squeezenet1_1", weights="random", size=64).get_submodule("net")
    assert isinstance(net, nn.Sequential)


def test_squeezenet_with_real_weights(teachers: Path, frames: Tensor, reference: Reference) -> None:
    path = teachers / SQUEEZENET
    teacher = open_teacher("torchvision:squeezenet1_1", weights=str(path), size=128)
    net = models.squeezenet1_1()
    net.load_state_dict(load_file(path))
    net.eval()
    x = reference(frames, 128, IMAGENET_MEAN, IMAGENET_STD)
    with torch.no_grad():
        torch.testing.assert_close(teacher(frames), net.features(x).mean((2, 3)))
    assert teacher.num_features == 512
    # timm has no SqueezeNet: without the library's name, torchvision's is found.
    assert open_teacher("squeezenet1_1", weights=path).size == 224


# Frozen weights and digests


def test_training_does_not_reach_the_teacher(frames: Tensor, tmp_path: Path) -> None:
    timm_file("test_resnet", tmp_path / "weights.safetensors")
    teacher = open_teacher("timm:test_resnet", weights=tmp_path / "weights.safetensors", size=64)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    head = nn.Linear(teacher.num_features, 2)
    both = nn.ModuleDict({"teacher": teacher, "head": head})
    optimizer = torch.optim.SGD(both.parameters(), lr=1, weight_decay=0.1)
    first = teacher(frames)
    for _ in range(20):
        both.train()
        assert head.training
        assert not any(part.training for part in teacher.modules())
        optimizer.zero_grad()
        head(teacher(frames)).sum().backward()
        optimizer.step()
    assert head.weight.grad is not None
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert torch.equal(teacher(frames), first)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_digest_says_which_function_it_is(tmp_path: Path) -> None:
    path, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    state = timm_file("test_resnet", path).state_dict()
    name = next(name for name in state if name.endswith("running_var"))
    state[name][0] += 1e-3
    save_file(state, other)

    def digest(weights: Path, size: int) -> str:
        return open_teacher("timm:test_resnet", weights=weights, size=size).digest

    assert digest(path, 64) == digest(path, 64)
    assert len({digest(path, 64), digest(path, 96), digest(other, 64)}) == 3
    torch.manual_seed(3)
    net = nn.Conv2d(3, 4, 3)
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    digests = {
        TorchTeacher(name, net, size=8, mean=shift, std=scale).digest
        for name, shift, scale in [("a", mean, std), ("b", mean, std), ("a", std, std), ("a", mean, mean)]
    }
    assert len(digests) == 4


@pytest.mark.long
def test_another_process_finds_the_same_digest_and_imports_no_library_before(
    run_with_torch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "weights.safetensors"
    timm_file("test_resnet", path)
    code = (
        "import sys\n"
        "from t3d.transfer.teachers.open import open_teacher\n"
        "print({'timm', 'onnxruntime', 'onnx'} & set(sys.modules))\n"
        f"print(open_teacher('timm:test_resnet', weights={str(path)!r}).digest)\n"
    )
    done = run_with_torch(code)
    assert done.returncode == 0, done.stderr
    imported, digest = done.stdout.splitlines()
    assert imported == "set()"
    assert digest == open_teacher("timm:test_resnet", weights=path).digest


# Errors in names


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("timm:resnet81", r"'timm:resnet81'; did you mean 'timm:resnet18'\? Give a timm model, an \.onnx"),
        ("torchvision:resnet81", r"did you mean 'torchvision:resnet18'\? Give a torchvision model"),
        ("densnet121", r"did you mean 'densenet121'\? Give a timm or torchvision model, an \.onnx file"),
        ("timm:resnet18.none_such", r"'timm:resnet18.none_such'; did you mean 'timm:resnet18\."),
        ("torchvision:resnet18.tv_in1k", "did you mean 'torchvision:resnet18'"),
        ("zzzz", r"unknown teacher 'zzzz'\. Give a timm or torchvision model"),
        ("keras:resnet50", "no library 'keras'.*known: timm, torchvision"),
        ("torchvision:fcn_resnet50", "torchvision:fcn_resnet50 is not an image classifier"),
        ("r3d_18", "r3d_18 is not an image classifier"),
        ("torchvision:fasterrcnn_resnet50_fpn", "is not an image classifier"),
    ],
)
def test_unknown_names(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        open_teacher(name, weights="random")


@pytest.mark.parametrize(
    ("function", "name"),
    [("timm.create_model", "timm:resnet18"), ("torchvision.models.get_model", "torchvision:alexnet")],
)
def test_without_a_network_the_error_has_a_fix(
    function: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **options: object) -> None:
        assert options.get("pretrained") is True or options.get("weights") == "DEFAULT"
        raise OSError("Name or service not known")

    monkeypatch.setattr(function, no_network)
    with pytest.raises(
        ConfigError, match=rf"(?s){name}.*service not known.*set teacher\.weights to a \.safetensors file"
    ):
        open_teacher(name)


def test_nets_without_a_pooled_feature() -> None:
    class Tokens(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2)

    with pytest.raises(ConfigError, match=r"teacher odd returns no pooled feature: .*\[1, 3, 64\]"):
        TorchTeacher("odd", Tokens(), size=8, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def test_a_map_is_averaged(frames: Tensor, seen_by: Seen) -> None:
    net = nn.Conv2d(3, 4, 3)
    teacher = TorchTeacher("map", net, size=16, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    torch.testing.assert_close(teacher(frames), net(seen_by(teacher, frames)).mean((2, 3)))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(1, 3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(1, 1, 9, 9).byte()],
)
def test_frames_of_another_kind_are_refused(wrong: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"test_resnet got frames torch\..*uint8 \[n, 3, h, w\]"):
        open_teacher("timm:test_resnet", weights="random", size=64)(wrong)


# Errors in weights files


def test_files_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = timm_file("test_resnet", path).state_dict()
    with pytest.raises(
        CheckpointError, match=r"weights\.safetensors: not the weights of timm:test_vit.*miss"
    ):
        open_teacher("timm:test_vit", weights=path)
    for change, says in [
        (
            lambda s: s.pop("bn1.running_mean"),
            r"missing: bn1\.running_mean\); use a weights file of this arch",
        ),
        (lambda s: s.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda s: s.update({"bn1.bias": torch.zeros(3)}), r"another shape: bn1\.bias is 3, expected"),
    ]:
        changed = dict(state)
        change(changed)
        save_file(changed, path)
        with pytest.raises(CheckpointError, match=says):
            open_teacher("timm:test_resnet", weights=path)


def test_a_classifier_may_be_absent_or_another(tmp_path: Path, frames: Tensor) -> None:
    path = tmp_path / "weights.safetensors"
    state = timm_file("test_resnet", path).state_dict()
    want = open_teacher("timm:test_resnet", weights=path, size=64)
    save_file({name: tensor for name, tensor in state.items() if not name.startswith("fc.")}, path)
    got = open_teacher("timm:test_resnet", weights=path, size=64)
    assert torch.equal(got(frames), want(frames))
    assert got.digest == want.digest


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def opened(path: Path) -> Teacher:
        return open_teacher("torchvision:resnet18", weights=path)

    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such weights file"):
        opened(tmp_path / "absent.safetensors")
    for suffix in (".pth", ".pt"):
        with pytest.raises(
            CheckpointError, match=rf"net\{suffix}: .*run code.*safetensors.*weights_only=True"
        ):
            opened(tmp_path / f"net{suffix}")
    with pytest.raises(CheckpointError, match=r"net\.onnx: .*pass it as teacher\.name"):
        opened(tmp_path / "net.onnx")
    damaged = tmp_path / "damaged.safetensors"
    save_file(models.resnet18().state_dict(), damaged)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"damaged\.safetensors: the file is damaged or incomplete"):
        opened(damaged)
