"""Teachers from timm and torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from t3d.errors import CheckpointError, ConfigError
from t3d.models.image_models import build_image_model
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
        backbone: Name of the model with its library, such as `timm:resnet18`. Empty if `name` is that.

    Raises:
        ConfigError: The model returns no pooled feature, or does not support this size.
    """

    def __init__(
        self, name: str, net: nn.Module, *, size: int, mean: Triple, std: Triple, backbone: str = ""
    ) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for key, tensor in chain(net.named_parameters(), net.named_buffers()):
            content = tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy()
            digest.update(f"{key} {tensor.dtype} {list(tensor.shape)} ".encode() + content.tobytes())
        super().__init__(name, size=size, mean=mean, std=std, weights_digest=digest.hexdigest())
        self.net = net
        self.backbone = backbone or name
        self.requires_grad_(False)
        self.eval()
        try:
            with torch.no_grad():
                shape = net(torch.zeros(1, 3, size, size)).shape
        except Exception as error:  # a foreign model may raise anything
            raise ConfigError(
                f"teacher {name} does not support images of {size} × {size} pixels (teacher.size): {error}"
            ) from error
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


def open_image_teacher(
    name: str,
    library: str,
    short: str,
    *,
    weights: str | Path | None,
    size: int | None,
    normalization: Normalization | None,
) -> TorchTeacher:
    """Open a model of timm or torchvision as a teacher.

    Args:
        name: Name as given by the user.
        library: `timm` or `torchvision`.
        short: Name within the library.
        weights: See `t3d.transfer.teachers.open.open_teacher`.
        size: Side of the square input images, in pixels. None uses the model's own.
        normalization: Normalization of the images. None uses the model's own.

    Raises:
        CheckpointError: The weights file is missing, damaged, or of another model.
        ConfigError: The weights cannot be downloaded, or the model does not support this size.
    """

    def load(net: nn.Module, classifiers: Sequence[str]) -> None:
        _load(net, tuple(classifiers), name=name, path=Path(str(weights)))

    given = weights not in (None, "random")
    try:
        model = build_image_model(
            library, short, pretrained=weights is None, size=size, load=load if given else None
        )
    except CheckpointError:
        raise
    except ConfigError as error:
        raise ConfigError(f"teacher {name} (teacher.size): {error}") from error
    except Exception as error:  # no network, a broken download, a name without weights: no common base
        if weights is not None:
            raise
        raise ConfigError(
            f"the pretrained weights of teacher {name} could not be downloaded: {error}\n  Without internet "
            "access, set teacher.weights to a .safetensors file, or teacher.name to an ONNX file"
        ) from error
    backbone = f"{library}:{short}"
    values = normalization or Normalization(model.mean, model.std)
    return TorchTeacher(name, model.net, size=model.size, mean=values.mean, std=values.std, backbone=backbone)


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
