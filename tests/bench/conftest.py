"""Short benchmarks: the peaks are given, and a row runs three times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from t3d.bench.peaks import Peaks

PEAKS = Peaks({"fp32": 1e11, "bf16": 1e12, "int8": 2e12}, 1e10)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("t3d.bench.finish.measure_peaks", lambda *_: PEAKS)
    monkeypatch.setattr("t3d.timing.TURN", 0.0)
    monkeypatch.setattr("t3d.timing._PAUSE", 0.0)
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
