"""The script for a GPU machine needs few packages, resumes, and compares with its targets."""

from __future__ import annotations

import importlib
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from t3d.bench.candidates import SETTINGS, Setting
from t3d.bench.peaks import Peaks
from t3d.bench.result import BenchResult, Machine, Row, completed
from t3d.timing import Timing

FOLDER = Path(__file__).parents[2] / "benchmarks"
PEAKS = Peaks({"fp32": 1e12, "bf16": 1e13}, 1e11)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("bench_gpu")


def test_it_needs_few_packages(run_with_torch: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    file = FOLDER.parent / "pyproject.toml"
    required = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    kept = ("torch>", "numpy", "safetensors")
    packages = [line.partition(">")[0].partition("[")[0] for line in required if not line.startswith(kept)]
    names = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
    blocked = [names.get(package, package.replace("-", "_")) for package in packages]
    assert {"torchvision", "psutil", "av", "rich", "pyarrow"} <= set(blocked)
    program = (
        "import sys\nfor name in sys.argv[2:]:\n    sys.modules[name] = None\n"
        "sys.path.insert(0, sys.argv[1])\nimport bench_gpu"
    )
    done = run_with_torch(program, str(FOLDER), *blocked)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.long
def test_it_resumes_and_prints_tables(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("t3d.bench.finish.measure_peaks", lambda *_: PEAKS)
    monkeypatch.setattr("t3d.timing.TURN", 0.0)
    compiled = Setting(True, lambda net: net, eager=False)
    monkeypatch.setitem(SETTINGS, "compiled", compiled)
    monkeypatch.setitem(script.train_candidates.__globals__["WAYS"], "compiled", (True, compiled.prepare))
    monkeypatch.setattr(script, "clock", iter([0.0, 0.0, 50.0, 50.0, 50.0, *[0.0] * 9]).__next__)
    jobs = (script.Job("model", "t3d_tiny", 4, 32), script.Job("train", "t3d_tiny", 4, 32))
    options = {"device": "cpu", "batch": 2, "seconds": 1e-3, "jobs": jobs}
    assert not script.run(tmp_path, minutes=1, **options)
    assert capsys.readouterr().out.splitlines() == ["model t3d_tiny 4 × 32²: 50 s", "run again"]
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"job": "train t3d_t')  # killed
    assert script.run(tmp_path, minutes=1, **options)
    results = script.read(tmp_path)
    assert list(results) == [job.name for job in jobs]
    scoring, training = results.values()
    assert (scoring.rows[0].network, scoring.rows[0].batch) == ("t3d_tiny, textbook", 1)
    assert {row.batch for row in (*scoring.rows[1:], *training.rows)} == {2}
    assert not any(row.error for row in (*scoring.rows, *training.rows))
    text = script.table(tmp_path)
    assert text.count("| t3d_tiny, textbook | eager |") >= 2
    assert "## train t3d_tiny 4 × 32²" in text


def test_targets_are_compared_with_the_fastest_row_and_the_compiled_reference(script: ModuleType) -> None:
    def row(network: str, setting: str, rate: float) -> Row:
        return Row(network, setting, "bf16", 8, Timing(1 / rate, 1 / rate, 1 / rate, 3))

    job = script.Job("model", "t3d121", 32, 224)
    other = "t3d121, textbook"
    rows = [row(other, "eager", 900), row(other, "compiled", 500), row("t3d121", "compiled", 640)]
    machine = Machine("GPU", 1, 0.0, 1, {})
    result = BenchResult("model", "t3d121", (32, 224), machine, PEAKS, completed(rows, PEAKS), {})
    assert list(script.verdicts(job, result)) == [
        "640 clips/s; target 600: reached",
        "1.28 times the compiled textbook network; target 1.3: missed",
    ]
    slow = replace(result, rows=result.rows[:1])
    assert list(script.verdicts(job, slow)) == ["0 clips/s; target 600: missed"]
    assert list(script.verdicts(script.Job("train", "t3d121", 16, 112), result)) == []


def test_a_search_on_a_gpu_survives_running_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from t3d.bench import measure

    emptied: list[None] = []
    monkeypatch.setattr(measure, "peak_of", lambda call, _: call() or 5)
    monkeypatch.setattr(measure, "waiting", lambda _: lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))

    def call_of(size: int) -> Callable[[], None]:
        if size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lambda: None

    search = measure.find_batch(call_of, torch.device("cuda"))
    assert (search.best, len(search.points), len(emptied)) == (1, 2, 1)
