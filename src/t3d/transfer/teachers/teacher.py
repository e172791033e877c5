"""The teacher: any 2D image network, frozen, as a function from frames to pooled features.

(PAPER: Supervision transfer. There it is a DenseNet trained on ImageNet; here any network that timm,
torchvision or an ONNX file gives.)
"""

from __future__ import annotations

import difflib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from t3d.errors import CheckpointError, ConfigError, did_you_mean
from t3d.models.loading import compare
from t3d.models.weights import read_tensors

TEACHER_KEY = "t3d.teacher"
"""Where the header of a file of `t3d teacher` says which network it is."""

_FORMAT = 1  # raise it when features would come out differently: kept features are then never read
Triple = tuple[float, float, float]


class Teacher(nn.Module, ABC):
    """A frozen 2D network that maps frames to features.

    It is in evaluation mode whatever happens to the module that holds it, none of its parameters asks for a
    gradient, and it computes without one: weights and buffers stay as they are, to the bit.

    Args:
        name: As the user gave it.
        size: Side of the square it sees, in pixels.
        mean: What is subtracted from RGB in [0, 1].
        std: What is then divided by.
        weights_digest: Says which weights these are.

    Attributes:
        num_features: Length of a feature, D.
        digest: Says which function of a frame this is: weights, size and normalisation.
    """

    num_features: int

    def __init__(self, name: str, *, size: int, mean: Triple, std: Triple, weights_digest: str) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.mean = mean
        self.std = std
        what = json.dumps([_FORMAT, Path(name).name, size, mean, std, weights_digest])
        self.digest = hashlib.blake2b(what.encode(), digest_size=16).hexdigest()

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """The features of normalised frames, float32 [N, 3, size, size] → [N, D]."""

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """The features of frames.

        Args:
            frames: RGB, uint8 [N, 3, H, W].

        Returns:
            float32 [N, D].
        """
        return self.features(self.prepare(frames)).float()

    def prepare(self, frames: Tensor) -> Tensor:
        """Frames as the network takes them: short side resized to `size`, centre crop, normalised.

        Args:
            frames: RGB, uint8 [N, 3, H, W].

        Returns:
            float32 [N, 3, size, size].

        Raises:
            ConfigError: The frames are something else.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ConfigError(
                f"teacher {self.name} got frames {frames.dtype} {list(frames.shape)}; "
                "it takes RGB as torch.uint8 [n, 3, h, w]"
            )
        if min(frames.shape[-2:]) != self.size:
            frames = F.resize(frames, [self.size], interpolation=InterpolationMode.BILINEAR, antialias=True)
        x = F.center_crop(frames, [self.size, self.size]).float().div_(255)
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return x.sub_(mean).div_(std)

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 (Module's own signature)
        """Stay in evaluation mode."""
        return super().train(False)


def open_teacher(name: str, *, weights: str | Path | None = None, size: int | None = None) -> Teacher:
    """Find a teacher.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, `NAME` (timm is looked through first), or the path of an ONNX
            file that maps images [n, 3, h, w], normalised as ImageNet's, to features, or a file that
            `t3d teacher` wrote.
        weights: A `.safetensors` file with the network's own names, with or without its classifier; None
            downloads the library's own pretrained weights; `random` leaves the network untrained, for tests.
        size: Side of the square it sees, in pixels; None takes the network's own.

    Returns:
        The teacher, frozen, on the CPU.

    Raises:
        ConfigError: No such network, no weights to be had, no pooled feature, or not at this size.
        CheckpointError: The weights file or the ONNX file is missing, damaged, or another network's.

    Example:
        >>> teacher = open_teacher("torchvision:resnet18", weights="random", size=64)
        >>> teacher(torch.zeros(2, 3, 90, 120, dtype=torch.uint8)).shape
        torch.Size([2, 512])
    """
    if name.lower().endswith(".onnx"):
        from t3d.transfer.teachers.onnx import OnnxTeacher

        if weights is not None:
            raise ConfigError(f"{name} holds its own weights; give none beside it")
        return OnnxTeacher(name, size=size)
    if name.lower().endswith(".safetensors"):
        return _open_own(name, weights, size)
    library, _, short = name.rpartition(":")
    if library not in ("", *_LIBRARIES):
        raise ConfigError(f"teacher {name!r}: no library {library!r}; {did_you_mean(library, _LIBRARIES)}")
    known = {key: list_them() for key, (list_them, _) in _LIBRARIES.items() if library in ("", key)}
    found = next((key for key, names in known.items() if short in names), None)
    if found is None:
        raise ConfigError(_unknown(name, short, known))
    return _LIBRARIES[found][1](name, short, weights, size)


def _open_own(name: str, weights: str | Path | None, size: int | None) -> Teacher:
    """A file of `t3d teacher`, which says by itself what it is."""
    if weights is not None:
        raise ConfigError(f"{name} holds its own weights; give none beside it")
    read_tensors(name)  # says what is wrong with a file that is missing or damaged
    with safe_open(name, framework="pt") as file:
        card = (file.metadata() or {}).get(TEACHER_KEY)
    if card is None:
        raise CheckpointError(
            f"{name}: was not written by t3d teacher, so it does not say which network it is; "
            "name that, and give the file as its weights (--teacher.weights; t3d probe and t3d reproduce: "
            "--teacher_weights)"
        )
    says = json.loads(card)
    teacher = open_teacher(says["name"], weights=name, size=size or says["size"])
    teacher.name = name
    return teacher


def _unknown(name: str, short: str, known: Mapping[str, list[str]]) -> str:
    from torchvision import models

    if "torchvision" in known and short in models.list_models():
        return (
            f"teacher {name} is no image classifier (it segments, detects, sees videos, or is quantised); "
            "choose one out of torchvision.models.list_models(torchvision.models)"
        )
    near = difflib.get_close_matches(short, {one for names in known.values() for one in names}, n=3)
    hint = f"Near it: {', '.join(near)}. " if near else ""
    return (
        f"no teacher {name!r} in {' or '.join(known)}, and it is no .onnx file. {hint}"
        "Allowed: timm:NAME (timm.list_models('*resnet*') lists them), torchvision:NAME "
        "(torchvision.models.list_models(torchvision.models)), NAME, or the path of an .onnx file"
    )


class TorchTeacher(Teacher):
    """A network of timm or torchvision.

    Args:
        name: As the user gave it.
        net: Maps normalised images to features, or to a feature map, which is averaged.
        size: Side of the square it sees, in pixels.
        mean: What is subtracted from RGB in [0, 1].
        std: What is then divided by.

    Raises:
        ConfigError: The network gives no pooled feature, or not at this size.
    """

    def __init__(self, name: str, net: nn.Module, *, size: int, mean: Triple, std: Triple) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for key, tensor in chain(net.named_parameters(), net.named_buffers()):
            content = tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy()
            digest.update(f"{key} {tensor.dtype} {list(tensor.shape)} ".encode() + content.tobytes())
        super().__init__(name, size=size, mean=mean, std=std, weights_digest=digest.hexdigest())
        self.net = net
        self.requires_grad_(False)
        self.eval()
        try:
            with torch.no_grad():
                shape = net(torch.zeros(1, 3, size, size)).shape
        except Exception as error:  # whatever a foreign network thinks of a size
            raise _wrong_size(name, size, error) from error
        if len(shape) not in (2, 4):
            raise ConfigError(
                f"teacher {name} gives no pooled feature: its output is {list(shape)}, neither [n, features] "
                "nor a map [n, features, h, w]; choose another network"
            )
        self.num_features = shape[1]

    def features(self, x: Tensor) -> Tensor:
        """See `Teacher`."""
        out: Tensor = self.net(x)
        return out.mean((2, 3)) if out.ndim == 4 else out


def _timm_names() -> list[str]:
    import timm

    # A name may say which of several weights: resnet18.a1_in1k.
    return [*timm.list_models(), *timm.list_pretrained()]


def _open_timm(name: str, short: str, weights: str | Path | None, size: int | None) -> Teacher:
    import timm

    extra, resize = _timm_size(name, short, size)
    net: nn.Module = _built(
        name,
        lambda: timm.create_model(short, pretrained=weights is None, num_classes=0, **extra),
        download=weights is None,
    )
    from timm.data import config as data_config

    config: dict[str, Any] = data_config.resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    if weights not in (None, "random"):
        classifier = getattr(net, "default_cfg", {}).get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        _load(net, heads, name=name, path=Path(str(weights)))
    if resize:
        net.set_input_size(img_size=size)  # type: ignore[operator]
    return TorchTeacher(
        name, net, size=size or min(config["input_size"][1:]), mean=config["mean"], std=config["std"]
    )


def _timm_size(name: str, short: str, size: int | None) -> tuple[dict[str, Any], bool]:
    """How a timm network is brought to a size: by an option when it is built, by a call afterwards, or not.

    Transformers are built for one size. Those that can be resized afterwards take weights of their own size,
    whose positions are then interpolated. Convolutional networks see any size.
    """
    import timm

    if size is None:
        return {}, False
    try:
        with torch.device("meta"):
            net = timm.create_model(short, pretrained=False, num_classes=0, img_size=size)
    except Exception as error:  # whatever a foreign network thinks of a size
        if isinstance(error, TypeError) and "img_size" in str(error):  # it has no such option
            return {}, False
        raise _wrong_size(name, size, error) from error
    return ({}, True) if hasattr(net, "set_input_size") else ({"img_size": size}, False)


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _open_torchvision(name: str, short: str, weights: str | Path | None, size: int | None) -> Teacher:
    from torchvision import models

    extra: dict[str, Any] = {}
    if weights is not None and short in ("googlenet", "inception_v3"):
        # As torchvision builds them for its own weights, which want another normalisation inside.
        extra = {"init_weights": False, "transform_input": True}
    net: nn.Module = _built(
        name,
        lambda: models.get_model(short, weights="DEFAULT" if weights is None else None, **extra),
        download=weights is None,
    )
    usual = models.get_model_weights(short).DEFAULT.transforms()
    linear = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)]
    maps = hasattr(net, "features") and hasattr(net, "classifier")
    classifier = "classifier" if maps else linear[-1]
    if weights not in (None, "random"):
        _load(net, (classifier,), name=name, path=Path(str(weights)))
    if not maps:
        net.set_submodule(classifier, nn.Identity())
    elif isinstance(net, models.DenseNet):
        net = nn.Sequential(net.get_submodule("features"), nn.ReLU())  # its forward has a ReLU in between
    else:
        net = net.get_submodule("features")
    return TorchTeacher(
        name,
        net,
        size=size or usual.crop_size[0],
        mean=tuple(usual.mean),
        std=tuple(usual.std),
    )


_Open = Callable[[str, str, str | Path | None, int | None], Teacher]
_LIBRARIES: dict[str, tuple[Callable[[], list[str]], _Open]] = {
    "timm": (_timm_names, _open_timm),
    "torchvision": (_torchvision_names, _open_torchvision),
}


def _built(name: str, build: Callable[[], nn.Module], *, download: bool) -> nn.Module:
    if not download:
        return build()
    try:
        return build()
    except Exception as error:  # no network, a broken download, a name without weights: no common base
        raise ConfigError(
            f"the pretrained weights of teacher {name} could not be had: {error}\n  Without a network, give "
            "a file that you have: --teacher.weights FILE.safetensors, or an ONNX file as --teacher FILE.onnx"
        ) from error


def _wrong_size(name: str, size: int, error: Exception) -> ConfigError:
    return ConfigError(f"teacher {name} cannot see squares of {size} pixels (teacher.size): {error}")


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an ONNX file is a whole network; give it as --teacher {path}")
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        raise CheckpointError(
            f"{path}: such files can run code when they are opened, so they are not; save the tensors anew: "
            'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path}', weights_only=True), 'teacher.safetensors')\""
        )
    return read_tensors(path)[0]


def _load(net: nn.Module, classifier: tuple[str, ...], *, name: str, path: Path) -> None:
    """Load strictly, but for the classifier, which a teacher does not need."""

    def body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = tuple(f"{head}." for head in classifier)
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(heads)}

    state = body(_read(path))
    difference = compare(body(net.state_dict()), state)
    if difference:
        raise CheckpointError(
            f"{path}: not the weights of {name} ({difference}); a weights file of another architecture?"
        )
    net.load_state_dict(state, strict=False)
