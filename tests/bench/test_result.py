from __future__ import annotations

import json

import pytest

from t3d.bench.batch import BatchPoint, BatchSearch
from t3d.bench.peaks import Peaks
from t3d.bench.result import BenchResult, LayerTime, Machine, Row, completed
from t3d.timing import Timing

PEAKS = Peaks({"fp32": 100.0, "bf16": 1000.0}, 50.0)


def at(seconds: float) -> Timing:
    return Timing(seconds, seconds / 2, seconds * 2, 5)


ROWS = (
    Row("net", "eager", "fp32", 1, at(8.0), macs=100, traffic=100, eager=True),
    Row("net", "eager, channels last", "bf16", 2, at(4.0), macs=100, traffic=150, eager=True),
    Row("net", "OpenVINO", "bf16", 2, at(1.0), macs=100, traffic=10),
    Row("net", "OpenVINO", "int8", 2, at(0.5), macs=100, traffic=5),
    Row("net", "compiled", "fp32", 2, None, error="no compiler"),
    Row("other", "eager", "fp32", 1, at(2.0)),
)


def test_ratios_are_relative_to_the_first_row_and_to_the_fastest_eager_one() -> None:
    rows = completed(ROWS, PEAKS)
    assert [row.speedup for row in rows] == [1, 2, 8, 16, None, 4]
    assert [row.eager_speedup for row in rows] == [0.5, 1, 4, 8, None, 2]


def test_shares_are_those_of_the_peak_of_the_same_precision() -> None:
    rows = completed(ROWS, PEAKS)
    # 100 multiply-accumulates are 200 operations: 2 s of 8 s in fp32, 0.2 s in bf16. int8 has no peak.
    assert [row.peak_share for row in rows] == pytest.approx([0.25, 0.05, 0.2, None, None, None])
    # 150 bytes take 3 s, which is longer than 0.2 s of arithmetic.
    assert [row.bound_share for row in rows] == pytest.approx([0.25, 0.75, 0.2, None, None, None])


def test_without_a_reference_there_are_no_ratios() -> None:
    rows = completed([ROWS[4], ROWS[2]], PEAKS)
    assert rows[1].speedup is None
    assert rows[1].eager_speedup is None


def test_a_result_survives_json() -> None:
    search = BatchSearch((BatchPoint(1, 0.5, 100), BatchPoint(2, None, None, "out of memory")), 1, "it ended")
    machine = Machine("CPU", 2, 0.25, 4, {"torch": "2"})
    layers = (LayerTime("Convolution 3×3×3", 2, 0.5, 100.0, "jit", 0.5),)
    rows = completed(ROWS, PEAKS)
    result = BenchResult("model", "net", (16, 112), machine, PEAKS, rows, {"net, eager": search}, layers)
    assert BenchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_machine_with_other_work_is_busy() -> None:
    assert Machine("CPU", 1, 0.8, 2, {}).busy
    assert not Machine("CPU", 1, 0.2, 2, {}).busy
