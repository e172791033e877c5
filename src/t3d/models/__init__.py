"""Networks that classify clips: layers, networks, the registry, weights files.

Each name is imported from its own module when it is first used, because finding the weights of a run and
reading their card need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t3d.card import ModelCard
    from t3d.models.net import NetOptions, VideoNet
    from t3d.models.registry import create_model, list_models, model_options, register_model
    from t3d.models.ttl import TemporalConv3d, TemporalTransition
    from t3d.models.ttl_insertion import insert_ttl
    from t3d.models.weights import load_backbone, load_model, save_model

_HOMES = {
    "ModelCard": "t3d.card",
    "NetOptions": "t3d.models.net",
    "TemporalConv3d": "t3d.models.ttl",
    "TemporalTransition": "t3d.models.ttl",
    "VideoNet": "t3d.models.net",
    "create_model": "t3d.models.registry",
    "insert_ttl": "t3d.models.ttl_insertion",
    "list_models": "t3d.models.registry",
    "load_backbone": "t3d.models.weights",
    "load_model": "t3d.models.weights",
    "model_options": "t3d.models.registry",
    "register_model": "t3d.models.registry",
    "save_model": "t3d.models.weights",
}

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


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 't3d.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
