"""Model registry: names of models and the functions that build them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib import import_module
from typing import TypeVar

import torch

from t3d.errors import ConfigError, did_you_mean, shortened
from t3d.models.net import NetOptions, VideoNet
from t3d.models.skeleton import no_weights
from t3d.overrides import with_overrides

MAX_PARAMETERS = 2_000_000_000
"""Maximum number of parameters of a model: 8 GB in 32 bits."""
_FAMILIES = ("c3d", "densenet3d", "frames", "fusion", "inception3d", "resnet3d")
"""Modules of this package that register models."""
_BUILDERS: dict[str, Callable[..., VideoNet]] = {}
_UNLISTED: set[str] = set()
_Builder = TypeVar("_Builder", bound=Callable[..., VideoNet])


def register_model(builder: _Builder) -> _Builder:
    """Register a model builder under its function name.

    Args:
        builder: A function `name(options=<the model's default options>, *, num_classes=400)`.

    Returns:
        The builder, unchanged.

    Raises:
        ConfigError: The name is taken, or the builder has no default options.

    Example:
        >>> @register_model  # doctest: +SKIP
        ... def mynet(options: MyOptions = MyOptions(), *, num_classes: int = 400) -> VideoNet: ...
    """
    name = getattr(builder, "__name__", repr(builder))
    if builder.__module__.rpartition(".")[0] != __package__:
        _register_families()  # so that a name of theirs is refused here
    if name in _BUILDERS:
        raise ConfigError(f"two builders are called {name!r}; model names must be unique")
    if not isinstance(_default_options(builder), NetOptions):
        raise ConfigError(f"the builder {name!r} needs a default for its argument 'options', a NetOptions")
    _BUILDERS[name] = builder
    return builder


def register_unlisted_model(builder: _Builder) -> _Builder:
    """Register a model that needs options, so that `list_models` does not list it.

    Args:
        builder: See `register_model`.

    Returns:
        The builder, unchanged.
    """
    _UNLISTED.add(register_model(builder).__name__)
    return builder


def create_model(
    name: str, *, num_classes: int = 400, options: Mapping[str, object] | None = None
) -> VideoNet:
    """Build a model with random weights.

    Args:
        name: Name of a model, one of `list_models()`.
        num_classes: Number of classes. 0 omits the classifier.
        options: Options that differ from the model's own, by field name. Lists are accepted for tuples.

    Returns:
        The network, in training mode.

    Raises:
        ConfigError: An unknown model or option, or an invalid value.

    Example:
        >>> create_model("t3d_tiny", num_classes=11, options={"drop_rate": 0.2}).num_classes
        11
    """
    build = partial(_builder(name), model_options(name, options), num_classes=num_classes)
    if options and torch.get_default_device().type != "meta":
        with no_weights():
            _refuse_large(name, build())
        return build()
    model: VideoNet = build()
    _refuse_large(name, model)
    return model


def _refuse_large(name: str, model: VideoNet) -> None:
    """Raise an error for a model with too many parameters."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters > MAX_PARAMETERS:
        raise ConfigError(
            f"{name} has {parameters:,} parameters with these options and classes; at most "
            f"{MAX_PARAMETERS:,} are allowed"
        )


def model_options(name: str, options: Mapping[str, object] | None = None) -> NetOptions:
    """Return the options of a model, with some of them changed.

    Args:
        name: Name of a model, one of `list_models()`.
        options: Options that differ from the model's own.

    Returns:
        A frozen dataclass with every option of the model.

    Raises:
        ConfigError: An unknown model or option, or an invalid value.

    Example:
        >>> model_options("t3d121").ttl_depths
        ((1, 3, 6), (1, 3, 4), (1, 3, 4))
    """
    return with_overrides(_default_options(_builder(name)), options or {}, where=f"options of {name}")


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all models that can be built without options.

    Args:
        pattern: Filter with shell wildcards, such as `t3d*`.

    Returns:
        Names in alphabetical order.

    Example:
        >>> list_models("t3d*")
        ['t3d121', 't3d169', 't3d_tiny']
    """
    _register_families()
    return sorted(name for name in _BUILDERS if name not in _UNLISTED and fnmatchcase(name, pattern))


@cache
def _register_families() -> None:
    """Import the modules that register models. They import this module, so this one does not import them."""
    for name in _FAMILIES:
        import_module(f"{__package__}.{name}")


def _builder(name: str) -> Callable[..., VideoNet]:
    _register_families()
    if name not in _BUILDERS:
        raise ConfigError(f"unknown model {shortened(name)!r}; {did_you_mean(name, list_models())}")
    return _BUILDERS[name]


def _default_options(builder: Callable[..., VideoNet]) -> NetOptions:
    return inspect.signature(builder).parameters["options"].default
