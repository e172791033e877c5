from __future__ import annotations

import pytest

from t3d.errors import ConfigError
from t3d.training.config import TrainConfig
from t3d.training.old_names import REMOVED, RENAMED, REUSED, refuse_old_names
from t3d.transfer.config import TransferConfig

FIELDS = TransferConfig.__dataclass_fields__ | TrainConfig.__dataclass_fields__


@pytest.mark.parametrize("old", [*RENAMED, *REUSED, *REMOVED])
@pytest.mark.parametrize("dotted", [False, True])
def test_every_old_name_is_refused_nested_or_dotted(old: str, dotted: bool) -> None:
    group, _, name = old.partition(".")
    options = {old: 1} if dotted else {group: {name: 1}}
    if hasattr(FIELDS[group].default_factory(), name):  # type: ignore[misc]
        refuse_old_names(options, TrainConfig, where="x.yaml")
        return
    new = {**RENAMED, **REUSED}.get(old)
    change = f"{old} is now {new}" if new else rf"{old} was removed \({REMOVED[old]}\)"
    with pytest.raises(ConfigError, match=rf"x\.yaml uses option names of an earlier version: {change}\."):
        refuse_old_names(options, TrainConfig, where="x.yaml")


def test_a_current_option_name_is_not_old() -> None:
    refuse_old_names({"data": {"videos": "folder"}}, TransferConfig, where="x.yaml")
    refuse_old_names({"data": None, "optim": "no table"}, TrainConfig, where="x.yaml")
    refuse_old_names({"optim": {"ema_decay": 0.9}, "seed": 1}, TrainConfig, where="x.yaml")


def test_every_present_name_exists() -> None:
    for new in {**RENAMED, **REUSED}.values():
        group, _, name = new.partition(".")
        assert hasattr(FIELDS[group].default_factory(), name), new  # type: ignore[misc]
