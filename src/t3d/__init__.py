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
    from t3d.card import ModelCard
    from t3d.clip import ClipSpec
    from t3d.configs import recipe
    from t3d.data.clips.arrays import load_clips
    from t3d.data.clips.dataset import TrainClips
    from t3d.data.clips.frames import FrameStore
    from t3d.data.config import AugmentConfig
    from t3d.data.manifest.manifest import Manifest
    from t3d.device import Compute
    from t3d.errors import CheckpointError, ConfigError, ManifestError, T3DError, VideoError
    from t3d.evaluation.config import TestConfig
    from t3d.evaluation.loaded import LoadedModel, load
    from t3d.evaluation.predictor import Predictor
    from t3d.evaluation.result import Prediction, to_table
    from t3d.evaluation.run_test import run_test
    from t3d.evaluation.timeline import Timeline, TimelineConfig
    from t3d.explanation.explainer import Explainer, explain
    from t3d.explanation.result import Explanation
    from t3d.export.config import ExportConfig
    from t3d.export.run import export_model
    from t3d.fit.config import FitConfig
    from t3d.fit.run import run_fit
    from t3d.models.registry import create_model, list_models
    from t3d.models.weights import load_model, save_model
    from t3d.recipes import list_recipes
    from t3d.runtime.optimize import OptimizedModel, optimize
    from t3d.training.config import TrainConfig
    from t3d.training.run import train
    from t3d.transfer.config import TransferConfig
    from t3d.video.batch import FrameBatch, VideoMetadata
    from t3d.video.video import Video

_HOMES = {
    "AugmentConfig": "t3d.data.config",
    "CheckpointError": "t3d.errors",
    "ClipSpec": "t3d.clip",
    "Compute": "t3d.device",
    "ConfigError": "t3d.errors",
    "Explainer": "t3d.explanation.explainer",
    "Explanation": "t3d.explanation.result",
    "ExportConfig": "t3d.export.config",
    "FitConfig": "t3d.fit.config",
    "FrameBatch": "t3d.video.batch",
    "FrameStore": "t3d.data.clips.frames",
    "LoadedModel": "t3d.evaluation.loaded",
    "Manifest": "t3d.data.manifest.manifest",
    "ManifestError": "t3d.errors",
    "ModelCard": "t3d.card",
    "OptimizedModel": "t3d.runtime.optimize",
    "Prediction": "t3d.evaluation.result",
    "Predictor": "t3d.evaluation.predictor",
    "T3DError": "t3d.errors",
    "TestConfig": "t3d.evaluation.config",
    "TrainClips": "t3d.data.clips.dataset",
    "TrainConfig": "t3d.training.config",
    "Timeline": "t3d.evaluation.timeline",
    "TimelineConfig": "t3d.evaluation.timeline",
    "TransferConfig": "t3d.transfer.config",
    "Video": "t3d.video.video",
    "VideoError": "t3d.errors",
    "VideoMetadata": "t3d.video.batch",
    "create_model": "t3d.models.registry",
    "explain": "t3d.explanation.explainer",
    "export_model": "t3d.export.run",
    "list_models": "t3d.models.registry",
    "list_recipes": "t3d.recipes",
    "load": "t3d.evaluation.loaded",
    "load_clips": "t3d.data.clips.arrays",
    "load_model": "t3d.models.weights",
    "optimize": "t3d.runtime.optimize",
    "recipe": "t3d.configs",
    "run_fit": "t3d.fit.run",
    "run_test": "t3d.evaluation.run_test",
    "save_model": "t3d.models.weights",
    "to_table": "t3d.evaluation.result",
    "train": "t3d.training.run",
}

__all__ = [
    "AugmentConfig",
    "CheckpointError",
    "ClipSpec",
    "Compute",
    "ConfigError",
    "Explainer",
    "Explanation",
    "ExportConfig",
    "FitConfig",
    "FrameBatch",
    "FrameStore",
    "LoadedModel",
    "Manifest",
    "ManifestError",
    "ModelCard",
    "OptimizedModel",
    "Prediction",
    "Predictor",
    "T3DError",
    "TestConfig",
    "Timeline",
    "TimelineConfig",
    "TrainClips",
    "TrainConfig",
    "TransferConfig",
    "Video",
    "VideoError",
    "VideoMetadata",
    "create_model",
    "explain",
    "export_model",
    "list_models",
    "list_recipes",
    "load",
    "load_clips",
    "load_model",
    "optimize",
    "recipe",
    "run_fit",
    "run_test",
    "save_model",
    "to_table",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 't3d' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
