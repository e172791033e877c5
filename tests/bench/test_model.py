from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from t3d.bench.candidates import SETTINGS, Setting
from t3d.bench.child import measure, peak_in_child
from t3d.bench.config import ModelBenchConfig, TrainBenchConfig
from t3d.bench.exported import Exports
from t3d.bench.layers import Node, grouped
from t3d.bench.model import bench_model
from t3d.bench.peers import PEERS, open_peers
from t3d.bench.result import BenchResult
from t3d.bench.train import bench_train
from t3d.bench.train_step import train_step
from t3d.bench.work import work_of
from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.export.config import ExportConfig
from t3d.export.run import export_model
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.runtime.openvino_file import no_usage_reports

SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
SPEC = ClipSpec(num_frames=4, stride=1, size=32, resize=32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bench") / "best.safetensors"
    card = ModelCard("densenet3d_tiny", SMALL, ("a", "b"), SPEC)
    save_model(create_model("densenet3d_tiny", num_classes=2, options=SMALL), path, card=card)
    return path


@pytest.fixture(scope="module")
def exported(weights: Path) -> Path:
    with no_usage_reports():
        pytest.importorskip("openvino")
    return export_model(ExportConfig(str(weights))).files[0]


def quick(model: object, **options: object) -> ModelBenchConfig:
    return ModelBenchConfig(str(model), **{"seconds": 1e-3, "memory": False, "threads": 1, **options})  # type: ignore[arg-type]


def names(result: BenchResult) -> list[tuple[str, str, int]]:
    return [(row.setting, row.precision, row.batch) for row in result.rows]


def test_the_reference_is_eager_fp32_contiguous_with_one_clip(weights: Path) -> None:
    result = bench_model(quick(weights, runtimes=("torch",), precision=("bf16",), batch_size="2"))
    assert names(result) == [
        ("eager", "fp32", 1),
        ("eager", "bf16", 2),
        ("eager, channels last", "fp32", 2),
        ("eager, channels last", "bf16", 2),
    ]
    reference = result.rows[0]
    work = work_of(create_model("densenet3d_tiny", num_classes=2, options=SMALL), (3, 4, 32, 32))
    assert (reference.speedup, reference.macs) == (1.0, work.macs)
    assert result.rows[1].traffic == work.traffic(batch=2, bytes_per_number=2)
    assert all(row.eager and row.time is not None and row.time.rounds == 3 for row in result.rows)
    assert result.clip == (4, 32)
    assert BenchResult.from_json(json.loads(json.dumps(result.to_json()))) == result


def test_a_search_gives_each_row_but_the_reference_its_batch(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t3d.bench.batch.LARGEST_BATCH", 2)
    monkeypatch.setattr(
        "t3d.bench.batch.search_batch.__kwdefaults__", {"largest": 2, "recover": lambda: None}
    )
    result = bench_model(quick(weights, runtimes=("torch",), precision=("fp32",), batch_size="auto"))
    assert result.rows[0].batch == 1
    (name,) = result.searches
    assert name == f"{weights}, eager, channels last, fp32"
    assert result.rows[1].batch == result.searches[name].best
    assert [point.batch for point in result.searches[name].points] == [1, 2]


def test_a_row_that_fails_is_reported_and_the_others_are_measured(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object) -> object:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setitem(SETTINGS, "compiled", Setting(True, fails, eager=False))  # type: ignore[arg-type]
    words = [
        str(weights),
        "--runtimes",
        "compile",
        "--precision",
        "fp32",
        "--no-memory",
        "--seconds",
        "0.001",
    ]
    assert main(["bench", "model", *words]) == 1
    text = capsys.readouterr().out
    assert "failed" in text
    assert "compiled, fp32: no C++ compiler" in text
    assert "channels last" in text


def test_textbook_and_peers_are_rows_with_their_own_work(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def one(frames: int, side: int, *, num_classes: int) -> object:
        seen.append((frames, side))
        net = create_model("resnet3d18", num_classes=num_classes, options={"width": 0.125})
        return [("peer at 2 × 16²", net, (2, 16))]

    monkeypatch.setattr("t3d.bench.model.open_peers", one)
    result = bench_model(quick(weights, runtimes=("torch",), precision=("fp32",), peers=True))
    rows = {row.network: row for row in result.rows}
    assert seen == [(4, 32)]
    own, plain, peer = rows[str(weights)], rows[f"{weights}, textbook"], rows["peer at 2 × 16²"]
    assert plain.eager
    assert plain.macs == own.macs
    assert not peer.eager
    assert peer.macs != own.macs
    assert all(row.time is not None for row in rows.values())


def test_torchvisions_networks_are_opened_at_a_clip_they_accept() -> None:
    pytest.importorskip("torchvision")
    assert [peer.clip(16, 112) for peer in PEERS] == [(16, 112), (16, 112), None, (16, 224), (16, 112)]
    assert [peer.clip(32, 224) for peer in PEERS] == [(32, 224)] * 3 + [(16, 224), (32, 224)]
    name, net, clip = next(open_peers(16, 112, num_classes=5))
    assert (name, clip) == ("r3d_18", (16, 112))
    assert work_of(net, (3, 16, 112, 112)).macs == pytest.approx(40.7e9, rel=0.01)  # torchvision's own figure


def test_exported_files_are_written_and_measured(weights: Path) -> None:
    with no_usage_reports():
        pytest.importorskip("openvino")
    result = bench_model(quick(weights, runtimes=("openvino",), precision=("fp32", "bf16"), layers=True))
    assert names(result)[-2:] == [("OpenVINO", "fp32", 1), ("OpenVINO", "bf16", 1)]
    assert all(row.error == "" and not row.eager for row in result.rows[-2:])
    assert {layer.kind for layer in result.layers} >= {"Convolution 3×7×7", "Convolution 3×3×3"}
    macs = sum(layer.macs for layer in result.layers)
    assert macs == pytest.approx(result.rows[0].macs, rel=0.01)


def test_each_runtime_computes_the_precisions_it_has(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, str]] = []

    def open_file(path: Path, precision: str) -> object:
        opened.append((path.name, precision))
        return lambda clips: clips

    monkeypatch.setattr("t3d.bench.model.installed", lambda _: True)
    monkeypatch.setattr("t3d.bench.model.open_file", open_file)
    monkeypatch.setattr(Exports, "path", lambda _, form, *, int8: Path(f"{form}{'-int8' if int8 else ''}"))
    result = bench_model(quick(weights, precision=("bf16", "int8")))
    assert opened == [
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("openvino-int8", "int8"),
        ("onnx", "fp32"),
    ]
    assert names(result)[-1] == ("ONNX Runtime", "fp32", 1)
    assert result.rows[-2].traffic == pytest.approx(result.rows[-1].traffic / 4)


def test_an_exported_file_is_compared_with_its_network(exported: Path) -> None:
    result = bench_model(quick(exported, precision=("fp32",)))
    assert [row.setting for row in result.rows] == ["eager", "eager, channels last", "OpenVINO"]
    assert result.clip == (4, 32)


def test_layers_of_one_kind_and_kernel_are_summed_up() -> None:
    nodes = [
        Node("a", "Convolution", "brg", 1.0),
        Node("b", "Convolution", "ref", 2.5),
        Node("c", "Convolution", "brg", 1.0),
        Node("d", "Pooling", "jit", 9.0),
    ]
    kernels = {"a": ("1×1×1", 10.0), "b": ("3×3×3", 50.0), "c": ("1×1×1", 30.0)}
    pool, large, small = grouped(nodes, kernels, peak=100.0)
    assert (pool.kind, pool.count, pool.macs, pool.peak_share) == ("Pooling", 1, 0, None)
    assert (large.kind, large.seconds, large.peak_share) == ("Convolution 3×3×3", 2.5, 0.4)
    assert (small.count, small.macs, small.peak_share, small.primitives) == (2, 40.0, 0.4, "brg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("t3d_tinny", "unknown model 't3d_tinny'; did you mean 't3d_tiny'"),
        ("missing/run", "missing/run"),
        ("t3d_tiny --threads 0", "--threads is 0; it must be at least 1"),
        ("t3d_tiny --seconds 0", "--seconds is 0; it must be above 0"),
        ("t3d_tiny --batch-size 0", "--batch-size is 0; it must be a whole number of at least 1, or auto"),
        ("t3d_tiny --batch-size few", "--batch-size is few; it must be a whole number"),
        ("t3d_tiny --num-frames 0", "--num-frames is 0; it must be at least 1"),
        ("t3d_tiny --size 8", "t3d_tiny needs clips of at least"),
        ("t3d_tiny --precision fp16", "fp16"),
        ("t3d_tiny --layers --runtimes torch", "add openvino to --runtimes, or remove --layers"),
        ("t3d_tiny --device tpu", "device 'tpu' cannot be used"),
    ],
)
def test_mistakes_are_explained(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "model", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_an_exported_file_of_another_clip_is_refused(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "model", str(exported), "--num-frames", "8"]) == 2
    text = capsys.readouterr().err
    assert f"--num-frames is 8, but {exported} was exported for clips of 4 frames of 32 × 32 pixels" in text
    with pytest.raises(ConfigError, match="which cannot be trained"):
        bench_train(TrainBenchConfig(str(exported)))


def test_a_runtime_that_is_not_installed_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t3d.bench.exported.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"runtimes contains onnx, whose packages are not installed: pip"):
        bench_model(quick(weights, runtimes=("onnx",)))


def test_another_process_measures_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "network.pt"
    torch.save(torch.nn.Conv3d(3, 64, 3, padding=1, bias=False), saved)
    job = {
        "kind": "torch",
        "path": str(saved),
        "precision": "fp32",
        "threads": 1,
        "shape": [1, 3, 16, 64, 64],
    }
    map_bytes = 4 * 64 * 16 * 64 * 64
    peak = peak_in_child(job)
    assert peak is not None
    assert map_bytes < peak < 4 * map_bytes + 20e6
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert peak_in_child(job) is None


def test_a_job_of_an_exported_file_or_of_a_training_step_runs(exported: Path, tmp_path: Path) -> None:
    shape = [2, 3, 4, 32, 32]
    job = {"kind": "exported", "path": str(exported), "precision": "fp32", "threads": 1, "shape": shape}
    assert measure(job) >= 0
    saved = tmp_path / "network.pt"
    torch.save(create_model("densenet3d_tiny", num_classes=2, options=SMALL), saved)
    job |= {
        "kind": "torch",
        "path": str(saved),
        "train": True,
        "checkpointing": "layers",
        "channels_last": True,
    }
    assert measure(job) >= 0


def test_memory_is_measured_for_each_row_that_works(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[dict[str, object]] = []

    def peak(job: dict[str, object]) -> int:
        jobs.append(job)
        assert Path(str(job["path"])).exists()
        return 123

    monkeypatch.setattr("t3d.bench.finish.peak_in_child", peak)
    result = bench_model(quick(weights, memory=True, runtimes=("torch",), precision=("fp32",)))
    assert [row.memory for row in result.rows] == [123, 123]
    assert [job["channels_last"] for job in jobs] == [False, True]
    assert [job["shape"] for job in jobs] == [[1, 3, 4, 32, 32]] * 2


def test_training_steps_are_timed(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t3d.bench.train.has_bf16", lambda _: False)
    words = ["--batch-size", "2", "--no-memory", "--seconds", "0.001", "--peers", "--threads", "1", "--json"]
    assert main(["bench", "train", str(weights), *words]) == 0
    result = BenchResult.from_json(json.loads(capsys.readouterr().out))
    assert [(row.network, row.setting) for row in result.rows] == [
        (str(weights), "eager"),
        (str(weights), "eager, channels last"),
        (str(weights), "eager, channels last, recompute layers"),
        (str(weights), "eager, channels last, recompute blocks"),
        (f"{weights}, textbook", "eager"),
    ]
    forward = work_of(create_model("densenet3d_tiny", num_classes=2, options=SMALL), (3, 4, 32, 32))
    assert {row.macs for row in result.rows} == {3 * forward.macs}
    assert {row.batch for row in result.rows} == {2}


def test_a_step_computes_gradients_and_keeps_the_weights() -> None:
    torch.manual_seed(0)
    net = create_model("densenet3d_tiny", num_classes=2, options=SMALL)
    before = net.get_classifier().weight.detach().clone()  # type: ignore[operator]
    loss = train_step(net, torch.randn(2, 3, 4, 32, 32), bf16=False)()
    assert 0 < loss < 10
    assert net.get_classifier().weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    torch.testing.assert_close(net.get_classifier().weight, before)


def test_the_table_has_a_row_per_way(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--runtimes", "torch", "--precision", "fp32", "--no-memory", "--seconds", "0.001"]
    assert main(["bench", "model", str(weights), *words]) == 0
    text = capsys.readouterr().out
    assert "clips of 4 × 32 × 32" in text
    assert text.count("eager") >= 2
    assert "measured peaks: 100 GFLOP/s in fp32" in text
