"""The teacher: any 2D image network, frozen, as a function from frames to pooled features.

(PAPER: Supervision transfer. There it is a DenseNet trained on ImageNet; here any network that timm,
torchvision or an ONNX file gives.)
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from t3d.errors import CheckpointError, ConfigError, did_you_mean
from t3d.models.loading import compare
from t3d.models.weights import read_tensors

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
        """
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
            file that maps images [n, 3, h, w], normalised as ImageNet's, to features.
        weights: A `.safetensors` file with the network's own names; None downloads the library's ImageNet
            weights; `random` leaves the network untrained, for tests.
        size: Side of the square it sees, in pixels; None takes the network's own.

    Raises:
        ConfigError: No such network, or it gives no pooled feature, or not at this size.
        CheckpointError: The weights file is missing, damaged, or another network's.

    Example:
        >>> teacher = open_teacher("torchvision:resnet18", weights="random", size=64)
        >>> teacher(torch.zeros(2, 3, 90, 120, dtype=torch.uint8)).shape
        torch.Size([2, 512])
    """
    if name.lower().endswith(".onnx"):
        from t3d.transfer.teacher_onnx import OnnxTeacher

        if weights is not None:
            raise ConfigError(f"{name} holds its own weights; leave teacher.weights out")
        return OnnxTeacher(name, size=size)
    library, _, short = name.rpartition(":")
    if library not in ("", *_LIBRARIES):
        raise ConfigError(f"teacher {name!r}: no library {library!r}; {did_you_mean(library, _LIBRARIES)}")
    known = {key: list_them() for key, (list_them, _) in _LIBRARIES.items() if library in ("", key)}
    found = next((key for key, names in known.items() if short.partition(".")[0] in names), None)
    if found is None:
        near = did_you_mean(short, {one for names in known.values() for one in names})
        raise ConfigError(
            f"no teacher {name!r} in {' or '.join(known)}, and it is no .onnx file; "
            f"{near.partition(' Known')[0]}. timm lists its own by timm.list_models('*resnet*')"
        )
    return _LIBRARIES[found][1](name, short, weights, size)


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
        for key, tensor in net.state_dict().items():
            digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        super().__init__(name, size=size, mean=mean, std=std, weights_digest=digest.hexdigest())
        self.net = net
        self.requires_grad_(False)
        self.eval()
        try:
            with torch.no_grad():
                shape = net(torch.zeros(1, 3, size, size)).shape
        except Exception as error:  # whatever a foreign network thinks of a size
            raise ConfigError(
                f"teacher {name} cannot see squares of {size} pixels (teacher.size): {error}"
            ) from error
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

    return list(timm.list_models())


def _open_timm(name: str, short: str, weights: str | Path | None, size: int | None) -> Teacher:
    import timm

    extra: dict[str, Any] = {}
    if size is not None and _takes_img_size(short):
        extra["img_size"] = size
    net: nn.Module = _downloaded(
        name, lambda: timm.create_model(short, pretrained=weights is None, num_classes=0, **extra)
    )
    from timm.data import config as data_config

    config: dict[str, Any] = data_config.resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    if weights not in (None, "random"):
        state = _read(Path(str(weights)))
        classifier = getattr(net, "default_cfg", {}).get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        _load(net, state, heads, name=name, path=weights)
    return TorchTeacher(
        name, net, size=size or min(config["input_size"][1:]), mean=config["mean"], std=config["std"]
    )


def _takes_img_size(name: str) -> bool:
    """Whether a timm network is built for one image size: transformers are, convolutional ones are not."""
    import timm

    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=False, num_classes=0, img_size=64)
    except (TypeError, RuntimeError, AssertionError, ValueError, NotImplementedError):
        return False
    return True


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _open_torchvision(name: str, short: str, weights: str | Path | None, size: int | None) -> Teacher:
    from torchvision import models

    chosen = "DEFAULT" if weights is None else None
    extra = {"init_weights": False} if short in ("googlenet", "inception_v3") and chosen is None else {}
    net: nn.Module = _downloaded(name, lambda: models.get_model(short, weights=chosen, **extra))
    usual = models.get_model_weights(short).DEFAULT.transforms()
    # The last linear layer is the classifier, what goes in is the feature; SqueezeNet's is a convolution.
    linear = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)]
    classifier = linear[-1] if linear and not short.startswith("squeezenet") else "classifier"
    if weights not in (None, "random"):
        _load(net, _read(Path(str(weights))), (classifier,), name=name, path=weights)
    if classifier == "classifier" and not isinstance(net.get_submodule("classifier"), nn.Linear):
        net = net.get_submodule("features")
    else:
        net.set_submodule(classifier, nn.Identity())
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


def _downloaded(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:  # no network, no such file on the server, a name without weights
        raise ConfigError(
            f"the ImageNet weights of teacher {name} could not be had: {error}\n  Without a network, give a "
            "file that you have: --teacher.weights FILE.safetensors, or an ONNX file as --teacher FILE.onnx"
        ) from error


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        raise CheckpointError(
            f"{path}: such files can run code when they are opened, so they are not; save the tensors anew: "
            'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path}', weights_only=True), 'teacher.safetensors')\""
        )
    return read_tensors(path)[0]


def _load(
    net: nn.Module,
    state: Mapping[str, Tensor],
    classifier: tuple[str, ...],
    *,
    name: str,
    path: str | Path | None,
) -> None:
    """Load strictly, but for the classifier, which a teacher does not need."""

    def body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: tensor
            for key, tensor in tensors.items()
            if not key.startswith(tuple(f"{c}." for c in classifier))
        }

    own = net.state_dict()
    difference = compare(body(own), body(state))
    if difference:
        raise CheckpointError(
            f"{path}: not the weights of {name} ({difference}); was the file made for another architecture?"
        )
    net.load_state_dict(body(state), strict=False)
