"""2D image models of timm and torchvision, without their classifiers.

Both libraries are imported when a model is built, because `import timm` takes a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from t3d.errors import ConfigError, did_you_mean

LIBRARIES = ("timm", "torchvision")
"""Libraries of image models, in the order in which a name without a prefix is searched."""

Load = Callable[[nn.Module, Sequence[str]], None]


@dataclass(frozen=True)
class ImageModel:
    """A model that maps images to features.

    Args:
        library: `timm` or `torchvision`.
        name: The model's name in that library.
        net: Maps normalized images, float [N, 3, H, W], to features [N, D], or to a map [N, D, h, w].
        size: Side of the square images that the model was made for, in pixels.
        mean: Mean to subtract from RGB in [0, 1].
        std: Standard deviation to divide by.
    """

    library: str
    name: str
    net: nn.Module
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def list_image_models(library: str) -> list[str]:
    """Return the names of the image models of a library.

    Args:
        library: `timm` or `torchvision`.
    """
    if library == "timm":
        import timm

        # A name may select one of several weights: resnet18.a1_in1k.
        return [*timm.list_models(), *timm.list_pretrained()]
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def find_image_model(name: str) -> tuple[str, str]:
    """Return the library and the name within it of an image model.

    Args:
        name: `timm:NAME`, `torchvision:NAME`, or `NAME` (timm is searched first).

    Raises:
        ConfigError: There is no such library or model.
    """
    library, _, short = name.rpartition(":")
    if library not in ("", *LIBRARIES):
        raise ConfigError(f"{name!r}: no library {library!r}; {did_you_mean(library, LIBRARIES)}")
    known: list[str] = []
    for each in LIBRARIES:
        if library in ("", each):
            names = list_image_models(each)
            if short in names:
                return each, short
            known += names
    raise ConfigError(f"no image model {name!r}; {did_you_mean(short, known)}")


def build_image_model(
    library: str, name: str, *, pretrained: bool = False, size: int | None = None, load: Load | None = None
) -> ImageModel:
    """Build an image model without its classifier.

    Args:
        library: `timm` or `torchvision`.
        name: The model's name in that library.
        pretrained: Download the library's weights. Otherwise the weights are random.
        size: Side of the images, in pixels. None is the model's own. Only transformers are built for a size.
        load: Called with the model, before torchvision's classifier is removed, and the names of its
            classifiers, to load other weights.

    Raises:
        ConfigError: The model does not support this size.
    """
    build = _timm if library == "timm" else _torchvision
    return build(name, pretrained, size, load)


def _timm(name: str, pretrained: bool, size: int | None, load: Load | None) -> ImageModel:
    import timm
    from timm.data import config as data_config

    extra, resize = _timm_size(name, size)
    net: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **extra)
    config: dict[str, Any] = data_config.resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    if load is not None:
        classifier = getattr(net, "default_cfg", {}).get("classifier") or ()
        load(net, (classifier,) if isinstance(classifier, str) else tuple(classifier))
    if resize:
        net.set_input_size(img_size=size)  # type: ignore[operator]
    return ImageModel("timm", name, net, size or min(config["input_size"][1:]), config["mean"], config["std"])


def _timm_size(name: str, size: int | None) -> tuple[dict[str, Any], bool]:
    """Return the options to build a timm model for a size, and whether to resize it after building.

    Transformers are built for one size. Some of them can be resized after loading weights of their default
    size, which interpolates the position embeddings. Convolutional models support any size.
    """
    import timm

    if size is None:
        return {}, False
    try:
        with torch.device("meta"):
            net = timm.create_model(name, pretrained=False, num_classes=0, img_size=size)
    except Exception as error:  # a foreign model may raise anything
        if isinstance(error, TypeError) and "img_size" in str(error):  # it has no such option
            return {}, False
        raise ConfigError(f"{name} does not support images of {size} × {size} pixels: {error}") from error
    return ({}, True) if hasattr(net, "set_input_size") else ({"img_size": size}, False)


def _torchvision(name: str, pretrained: bool, size: int | None, load: Load | None) -> ImageModel:
    from torchvision import models

    extra: dict[str, Any] = {}
    if not pretrained and name in ("googlenet", "inception_v3"):
        # Build them as torchvision does for its own weights, which expect another normalization inside.
        extra = {"init_weights": False, "transform_input": True}
    net: nn.Module = models.get_model(name, weights="DEFAULT" if pretrained else None, **extra)
    usual = models.get_model_weights(name).DEFAULT.transforms()
    linear = [key for key, module in net.named_modules() if isinstance(module, nn.Linear)]
    maps = hasattr(net, "features") and hasattr(net, "classifier")
    classifier = "classifier" if maps else linear[-1]
    if load is not None:
        load(net, (classifier,))
    if not maps:
        net.set_submodule(classifier, nn.Identity())
    elif isinstance(net, models.DenseNet):
        net = nn.Sequential(net.get_submodule("features"), nn.ReLU())  # DenseNet.forward has this ReLU
    else:
        net = net.get_submodule("features")
    return ImageModel(
        "torchvision", name, net, size or usual.crop_size[0], tuple(usual.mean), tuple(usual.std)
    )
