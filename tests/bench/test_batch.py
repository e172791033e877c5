from __future__ import annotations

import pytest
import torch

from t3d.bench.batch import BatchPoint, BatchSearch, search_batch
from t3d.bench.candidates import Candidate
from t3d.bench.measure import find_batch, measure_rows
from t3d.bench.memory import free_bytes, peak_bytes, peak_of, used_bytes
from t3d.device import is_out_of_memory


def test_the_fastest_batch_is_found_and_the_search_ends_without_gain() -> None:
    times = {1: 1.0, 2: 0.8, 4: 0.79, 8: 0.9}  # 4 is faster than 2 by less than 3 %
    result = search_batch(lambda batch: (times[batch], None), None)
    assert [point.batch for point in result.points] == [1, 2, 4, 8]
    assert result.best == 2
    assert result.reason == "larger batches are not faster"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
    ],
)
def test_running_out_of_memory_ends_the_search(error: Exception) -> None:
    recovered: list[None] = []

    def run(batch: int) -> tuple[float, int | None]:
        if batch == 8:
            raise error
        return 1 / batch, None

    result = search_batch(run, None, recover=lambda: recovered.append(None))
    assert result.best == 4
    assert result.points[-1].seconds is None
    assert result.points[-1].error
    assert result.reason == "a batch of 8 does not fit into memory"
    assert len(recovered) == 1


def test_another_error_is_raised() -> None:
    def run(batch: int) -> tuple[float, int | None]:
        raise RuntimeError(f"no kernel for {batch}")

    assert not is_out_of_memory(RuntimeError("no kernel"))
    with pytest.raises(RuntimeError, match="no kernel for 1"):
        search_batch(run, None)


def test_a_batch_that_would_not_fit_is_never_tried() -> None:
    tried: list[int] = []

    def run(batch: int) -> tuple[float, int | None]:
        tried.append(batch)
        return 1 / batch, 100 + 100 * batch

    result = search_batch(run, lambda: 2000)  # 60 % are 1200: 8 clips need 900, and 16 would need 1700
    assert tried == [1, 2, 4, 8]
    assert result.best == 8
    assert "a batch of 16 would need" in result.reason
    assert search_batch(run, lambda: 300).best == 1  # 2 would need 400 at most, and 180 are allowed
    assert search_batch(run, None, largest=64).points[-1].batch == 64


def test_a_search_on_this_machine_measures_memory() -> None:
    weights = torch.ones(256, 256)
    result = find_batch(lambda batch: lambda: torch.ones(batch, 256) @ weights, torch.device("cpu"))
    assert result.best >= 1
    assert all(point.memory is not None and point.seconds is not None for point in result.points)


def test_the_peak_of_a_call_is_measured() -> None:
    size = 200_000_000
    kept: list[torch.Tensor] = []  # so that the last sample sees it, however busy the machine is
    peak = peak_of(lambda: kept.append(torch.ones(size // 4)), torch.device("cpu"))
    assert 0.9 * size < peak < 2 * size
    assert peak_bytes() >= used_bytes() * 0.9
    assert free_bytes() > 0


def test_a_compiled_row_takes_the_fastest_batch_of_its_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling for each size would take minutes."""
    speeds = {"net, slow, fp32": (2.0, 16), "net, fast, fp32": (1.0, 4), "net, other, fp32": (3.0, 32)}

    def find(*_: object) -> BatchSearch:
        name = names.pop(0)
        return BatchSearch((BatchPoint(speeds[name][1], speeds[name][0], None),), speeds[name][1], "")

    names = list(speeds)
    monkeypatch.setattr("t3d.bench.measure.find_batch", find)

    def row(network: str, setting: str, precision: str = "fp32", *, follows: bool = False) -> Candidate:
        return Candidate(network, setting, precision, lambda: len, False, (1,), follows=follows)

    rows = [row("net", "slow"), row("net", "fast"), row("net", "other"), row("net", "compiled", follows=True)]
    rows += [row("net", "compiled", "bf16", follows=True), row("net, textbook", "compiled", follows=True)]
    measured = measure_rows(rows, batch=None, seconds=1e-3, device=torch.device("cpu"))
    assert list(measured.batches.values()) == [16, 4, 32, 4, 1, 1]
