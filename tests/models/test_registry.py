"""Names, options and their errors."""

from __future__ import annotations

import pytest

from t3d.errors import ConfigError
from t3d.models import create_model, list_models, model_options, register_model, registry
from t3d.models.densenet3d import DenseNet3D, DenseNet3DOptions


@pytest.fixture(autouse=True)
def _keep_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    list_models()  # registers the models of this package
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))


def test_the_papers_nets_are_there() -> None:
    named = {f"densenet3d{d}" for d in (121, 161, 169, 201)} | {"t3d121", "t3d169"}
    named |= {f"resnet3d{d}" for d in (18, 34, 38, 50, 101)} | {"r2plus1d18", "inception3d", "i3d", "c3d"}
    named |= {"t3d_tiny", "densenet3d_tiny", "resnet3d50_ttl", "inception3d_ttl"}
    assert named <= set(list_models())
    assert list_models() == sorted(list_models())


def test_patterns() -> None:
    assert list_models("t3d*") == ["t3d121", "t3d169", "t3d_tiny"]
    assert list_models("T3D*") == []
    assert list_models("nothing*") == []


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 't3d_121'; did you mean 't3d121'\?.*densenet3d121"):
        create_model("t3d_121")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth_rat": 12}, "unknown name 'growth_rat' in options of t3d_tiny; did you mean 'growth_rate'"),
        ({"growth_rate": "12"}, "growth_rate .* is '12'; it must be a whole number"),
        ({"growth_rate": 12.0}, "must be a whole number"),
        ({"growth_rate": True}, "must be a whole number"),
        ({"growth_rate": None}, "must be a whole number"),
        ({"adapt_pool": 1}, "must be true or false"),
        ({"drop_rate": "half"}, "must be a number"),
        ({"drop_rate": True}, "must be a number"),
        ({"block_config": 4}, r"must be a list of any number of \(a whole number\)"),
        ({"block_config": [2, "2", 2, 2]}, "must be a whole number"),
        ({"ttl_depths": [1, 3, 6]}, "must be a list"),
        ({"time_padding": "zero"}, "did you mean 'zeros'"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_model("t3d_tiny", options=options)


def test_options_from_json_are_taken() -> None:
    options = model_options("t3d121", {"block_config": [1, 2], "ttl_depths": [[1, 2]], "drop_rate": 0})
    assert options == DenseNet3DOptions(block_config=(1, 2), ttl_depths=((1, 2),), drop_rate=0.0)
    assert isinstance(options, DenseNet3DOptions)
    assert isinstance(options.drop_rate, float)
    assert model_options("t3d121", {"ttl_depths": None}) == model_options("densenet3d121")


def test_defaults_stay_untouched() -> None:
    before = model_options("t3d_tiny")
    create_model("t3d_tiny", options={"growth_rate": 8})
    assert model_options("t3d_tiny") == before


def test_a_new_net_can_register() -> None:
    @register_model
    def mine(
        options: DenseNet3DOptions = DenseNet3DOptions(block_config=(1,)),  # noqa: B008
        *,
        num_classes: int = 400,
    ) -> DenseNet3D:
        return DenseNet3D(options, num_classes=num_classes)

    assert "mine" in list_models()
    assert create_model("mine", num_classes=3).num_classes == 3
    with pytest.raises(ConfigError, match="two builders are called 'mine'"):
        register_model(mine)


def test_a_builder_without_options_is_refused() -> None:
    def other(options: DenseNet3DOptions, *, num_classes: int = 400) -> DenseNet3D:
        return DenseNet3D(options, num_classes=num_classes)

    with pytest.raises(ConfigError, match="needs a default for its argument 'options'"):
        register_model(other)
