"""Peaks of a device, and the least time that they allow."""

from __future__ import annotations

import pytest

from t3d.bench.peaks import Peaks, measure_peaks


def test_the_least_time_is_limited_by_arithmetic_or_by_traffic() -> None:
    peaks = Peaks({"fp32": 10.0}, 5.0)
    assert peaks.least_seconds(20, 1, "fp32") == 4
    assert peaks.least_seconds(20, 100, "fp32") == 20
    assert peaks.least_seconds(20, 100, "bf16") is None


def test_peaks_are_measured_for_the_precisions_that_can_be() -> None:
    import torch

    peaks = measure_peaks(torch.device("cpu"), ("fp32", "bf16"), sizes=(32, 64))
    assert set(peaks.flops) == {"fp32", "bf16"}
    assert all(rate > 1e6 for rate in (*peaks.flops.values(), peaks.bytes))


def test_an_operation_that_does_not_run_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fails(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(torch, "_int_mm", fails)
    monkeypatch.setattr("t3d.bench.peaks.find_spec", lambda _: None)  # OpenVINO is not installed
    assert "int8" not in measure_peaks(torch.device("cpu"), ("int8",), sizes=(32,)).flops
