from __future__ import annotations

import pytest
import torch

from t3d.device import has_bf16, pick_device, use_bf16
from t3d.errors import ConfigError

CPU = torch.device("cpu")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cudda", "cuda:99", "", "cpu:x"])
def test_a_missing_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device {name!r} cannot be used"):
        pick_device(name)


@pytest.mark.parametrize(
    ("capabilities", "can"),
    [
        ({}, False),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
    ],
)
def test_bf16_of_a_cpu_is_what_its_hardware_has(
    capabilities: dict[str, bool], can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16(CPU) is can
    assert use_bf16("auto", CPU) is can
    assert use_bf16("bf16", CPU)
    assert not use_bf16("fp32", CPU)


def test_bf16_of_a_gpu_is_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert not has_bf16(torch.device("cuda"))
    assert not has_bf16(torch.device("meta"))


def test_another_precision_is_refused_and_not_taken_for_fp32() -> None:
    with pytest.raises(ConfigError, match="unknown precision 'bf61'; did you mean 'bf16'"):
        use_bf16("bf61", CPU)
