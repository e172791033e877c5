"""Teachers from timm and torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from t3d.errors import CheckpointError, ConfigError
from t3d.models.loading import compare
from t3d.models.weights import read_tensors
from t3d.transfer.teachers.base import Teacher, Triple
from t3d.transfer.teachers.normalization import Normalization


class TorchTeacher(Teacher):
    """Model of timm or torchvision.

    Args:
        name: Name as given by the user.
        net: Model that maps normalized images to features, or to a feature map, which is averaged.
        size: Side of the square input images, in pixels.
        mean: Mean to subtract from RGB in [0, 1].
        std: Standard deviation to divide by.

    Raises:
        ConfigError: The model returns no pooled feature, or does not support this size.
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
        except Exception as error:  # a foreign model may raise anything
            raise _wrong_size(name, size, error) from error
        if len(shape) not in (2, 4):
            raise ConfigError(
                f"teacher {name} returns no pooled feature: its output is {list(shape)}, neither "
                "[n, features] nor a map [n, features, h, w]; choose another model"
            )
        self.num_features = shape[1]

    def features(self, x: Tensor) -> Tensor:
        """See `Teacher`."""
        out: Tensor = self.net(x)
        return out.mean((2, 3)) if out.ndim == 4 else out


def _timm_names() -> list[str]:
    import timm

    # A name may select one of several weights: resnet18.a1_in1k.
    return [*timm.list_models(), *timm.list_pretrained()]


def _open_timm(
    name: str,
    short: str,
    weights: str | Path | None,
    size: int | None,
    normalization: Normalization | None,
) -> Teacher:
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
    own = Normalization(config["mean"], config["std"])
    values = normalization or own
    side = size or min(config["input_size"][1:])
    return TorchTeacher(name, net, size=side, mean=values.mean, std=values.std)


def _timm_size(name: str, short: str, size: int | None) -> tuple[dict[str, Any], bool]:
    """Return the options to build a timm model for a size, and whether to resize it after building.

    Transformers are built for one size. Some of them can be resized after loading weights of their default
    size, which interpolates the position embeddings. Convolutional models support any size.
    """
    import timm

    if size is None:
        return {}, False
    try:
        with torch.device("meta"):
            net = timm.create_model(short, pretrained=False, num_classes=0, img_size=size)
    except Exception as error:  # a foreign model may raise anything
        if isinstance(error, TypeError) and "img_size" in str(error):  # it has no such option
            return {}, False
        raise _wrong_size(name, size, error) from error
    return ({}, True) if hasattr(net, "set_input_size") else ({"img_size": size}, False)


def _torchvision_names() -> list[str]:
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _open_torchvision(
    name: str,
    short: str,
    weights: str | Path | None,
    size: int | None,
    normalization: Normalization | None,
) -> Teacher:
    from torchvision import models

    extra: dict[str, Any] = {}
    if weights is not None and short in ("googlenet", "inception_v3"):
        # Build them as torchvision does for its own weights, which expect another normalization inside.
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
        net = nn.Sequential(net.get_submodule("features"), nn.ReLU())  # DenseNet.forward has this ReLU
    else:
        net = net.get_submodule("features")
    own = Normalization(tuple(usual.mean), tuple(usual.std))
    values = normalization or own
    return TorchTeacher(name, net, size=size or usual.crop_size[0], mean=values.mean, std=values.std)


_Open = Callable[[str, str, str | Path | None, int | None, Normalization | None], Teacher]
LIBRARIES: Mapping[str, tuple[Callable[[], list[str]], _Open]] = MappingProxyType(
    {
        "timm": (_timm_names, _open_timm),
        "torchvision": (_torchvision_names, _open_torchvision),
    }
)
"""Functions of each library that list its models and open one.

The second function takes the teacher's full and short name, weights, size and normalization.
"""


def _built(name: str, build: Callable[[], nn.Module], *, download: bool) -> nn.Module:
    if not download:
        return build()
    try:
        return build()
    except Exception as error:  # no network, a broken download, a name without weights: no common base
        raise ConfigError(
            f"the pretrained weights of teacher {name} could not be downloaded: {error}\n  Without internet "
            "access, set teacher.weights to a .safetensors file, or teacher.name to an ONNX file"
        ) from error


def _wrong_size(name: str, size: int, error: Exception) -> ConfigError:
    return ConfigError(
        f"teacher {name} does not support images of {size} × {size} pixels (teacher.size): {error}"
    )


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path}: an ONNX file contains a whole model; pass it as teacher.name")
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        raise CheckpointError(
            f"{path}: opening such a file can run code, so t3d does not open it; convert it: "
            'python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path}', weights_only=True), 'teacher.safetensors')\""
        )
    return read_tensors(path)[0]


def _load(net: nn.Module, classifier: tuple[str, ...], *, name: str, path: Path) -> None:
    """Load all tensors except those of the classifier, which a teacher does not need."""

    def body(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = tuple(f"{head}." for head in classifier)
        return {key: tensor for key, tensor in tensors.items() if not key.startswith(heads)}

    state = body(_read(path))
    difference = compare(body(net.state_dict()), state)
    if difference:
        raise CheckpointError(
            f"{path}: not the weights of {name} ({difference}); use a weights file of this architecture"
        )
    net.load_state_dict(state, strict=False)
