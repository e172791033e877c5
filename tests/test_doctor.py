from __future__ import annotations

from typing import Any

import pytest
import torch

from t3d import doctor
from t3d.cli.main import main
from t3d.errors import VideoError

CHECKS = ["packages", "decoding", "device", "training step", "bfloat16", "optional"]


def outcomes(text: str) -> dict[str, str]:
    return {line[6:20].strip(): line[:4].strip() for line in text.splitlines()}


def test_all_is_well_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert outcomes(out) == dict.fromkeys(CHECKS, "ok")
    assert f"torch {torch.__version__.partition('+')[0]}" in out


class _Sick(doctor.Video):
    """A decoder that is one frame off."""

    def frames_at(self, indices: Any) -> torch.Tensor:
        return super().frames_at([max(i - 1, 0) for i in indices])


def test_a_decoder_that_gives_wrong_frames_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "Video", _Sick)
    assert main(["doctor", "--device", "cpu"]) == 1
    out = capsys.readouterr().out
    assert outcomes(out) == dict.fromkeys(CHECKS, "ok") | {"decoding": "FAIL"}
    assert "have levels" in out


def test_one_failure_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise VideoError("v.mp4", "no decoder")

    monkeypatch.setattr(doctor, "write_video", broken)
    assert not doctor.examine("cudda")
    marks = outcomes(capsys.readouterr().out)
    assert {name for name, mark in marks.items() if mark == "FAIL"} == {
        "decoding",
        "device",
        "training step",
        "bfloat16",
    }


def test_a_gradient_that_is_lost_or_bf16_that_is_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Poor(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = torch.nn.Linear(3, 10)
            self.unused = torch.nn.Linear(3, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.used(x.mean((2, 3, 4)))
            return scores if scores.dtype == torch.float32 else scores * 2

    monkeypatch.setattr(doctor, "create_model", lambda *_, **__: Poor())
    assert not doctor.examine("cpu")
    out = capsys.readouterr().out
    assert "a gradient of t3d_tiny is missing" in out
    assert "bfloat16 differs from float32 by" in out
