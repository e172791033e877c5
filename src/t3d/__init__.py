"""T3D: video classification with Temporal 3D ConvNets.

The public names, each imported from its own module when it is first used, so that `import t3d` costs nothing.

Example:
    >>> import t3d
    >>> t3d.list_models("t3d*")
    ['t3d121', 't3d169', 't3d_tiny']
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t3d.clip import ClipSpec
    from t3d.data.clips.arrays import load_clips
    from t3d.data.manifest.manifest import Manifest
    from t3d.errors import CheckpointError, ConfigError, ManifestError, T3DError, VideoError
    from t3d.evaluation.predictor import Prediction, Predictor
    from t3d.models.registry import create_model, list_models
    from t3d.models.weights import ModelCard, load_model, save_model
    from t3d.video.batch import FrameBatch, VideoMetadata
    from t3d.video.video import Video

_HOMES = {
    "CheckpointError": "t3d.errors",
    "ClipSpec": "t3d.clip",
    "ConfigError": "t3d.errors",
    "FrameBatch": "t3d.video.batch",
    "Manifest": "t3d.data.manifest.manifest",
    "ManifestError": "t3d.errors",
    "ModelCard": "t3d.models.weights",
    "Prediction": "t3d.evaluation.predictor",
    "Predictor": "t3d.evaluation.predictor",
    "T3DError": "t3d.errors",
    "Video": "t3d.video.video",
    "VideoError": "t3d.errors",
    "VideoMetadata": "t3d.video.batch",
    "create_model": "t3d.models.registry",
    "list_models": "t3d.models.registry",
    "load_clips": "t3d.data.clips.arrays",
    "load_model": "t3d.models.weights",
    "save_model": "t3d.models.weights",
}

__all__ = [
    "CheckpointError",
    "ClipSpec",
    "ConfigError",
    "FrameBatch",
    "Manifest",
    "ManifestError",
    "ModelCard",
    "Prediction",
    "Predictor",
    "T3DError",
    "Video",
    "VideoError",
    "VideoMetadata",
    "create_model",
    "list_models",
    "load_clips",
    "load_model",
    "save_model",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 't3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
