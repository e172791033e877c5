from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = Path(__file__).parents[2] / "benchmarks" / "nets_report.py"


def result(net: str, lr: float, seed: int, validated: float, tested: float) -> str:
    fields = {"set": "hockey_fights", "percent": 20, "net": net, "clip": "16x2x48", "lr": lr, "seed": seed}
    fields |= {
        "name": f"hockey_fights/{net}/16x2x48/{lr:g}/s{seed}",
        "parameters": 1_500_000,
        "macs": 2_000_000,
    }
    fields |= {
        "val": {"10": validated, "20": validated - 0.1},
        "normal": tested,
        "shuffled": 0.5,
        "static": 0.25,
    }
    return json.dumps(fields)


def test_nets_are_compared_at_the_rate_that_validated_best(tmp_path: Path) -> None:
    table = tmp_path / "results.jsonl"
    lines = [
        result("t3d", 1e-3, 0, 0.7, 0.60),
        result("t3d", 1e-3, 1, 0.7, 0.64),
        result("t3d", 3e-3, 0, 0.6, 0.90),  # better on the test, which must not choose
        result("densenet3d", 1e-3, 0, 0.5, 0.50),
        result("densenet3d", 1e-3, 1, 0.5, 0.58),
        result("densenet3d", 1e-3, 2, 0.5, 0.10),  # no partner with its seed
    ]
    table.write_text("\n".join(lines) + "\n")
    plot = tmp_path / "nets.png"
    command = [sys.executable, str(REPORT), str(table), "--plot", str(plot)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    # Mean and standard deviation by hand; the best validation of each run counts, the tests in percent.
    row = "| t3d | 16 × 2 × 48 | 0.001 | 1.50 | 2 | 70.0 ± 0.0 (2) | 62.0 ± 2.8 (2) | 50.0 ± 0.0 (2) |"
    assert f"{row} 25.0 ± 0.0 (2) |" in out
    assert any(line.startswith("| t3d | 16 × 2 × 48 | 0.003 |") for line in out)
    assert "| 16 × 2 × 48 | t3d | densenet3d | +8.0 ± 2.0 (2) |" in out  # 10 and 6 points
    assert plot.stat().st_size > 1000


@pytest.mark.parametrize(("name", "span"), [("16x4x48", 61), ("32x1x32", 32)])
def test_a_job_has_the_clip_of_its_name(name: str, span: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPORT.parent)
    from nets_study import clip_of  # type: ignore[import-not-found]

    assert clip_of(name).span == span
