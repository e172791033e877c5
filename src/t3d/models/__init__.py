"""Networks that classify clips: layers, networks, the registry, weights files."""

from t3d.card import ModelCard
from t3d.models import c3d as c3d
from t3d.models import densenet3d as densenet3d
from t3d.models import frames as frames
from t3d.models import fusion as fusion
from t3d.models import inception3d as inception3d
from t3d.models import resnet3d as resnet3d
from t3d.models.insert_ttl import insert_ttl
from t3d.models.net import NetOptions, VideoNet
from t3d.models.registry import create_model, list_models, model_options, register_model
from t3d.models.ttl import TemporalConv3d, TemporalTransition
from t3d.models.weights import load_backbone, load_model, save_model

__all__ = [
    "ModelCard",
    "NetOptions",
    "TemporalConv3d",
    "TemporalTransition",
    "VideoNet",
    "create_model",
    "insert_ttl",
    "list_models",
    "load_backbone",
    "load_model",
    "model_options",
    "register_model",
    "save_model",
]
