"""Exported files: complete, equal to the network, and taken wherever weights are tested or used."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.frames import FrameStore
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, ExportError, ManifestError, WriteError
from t3d.evaluation.comparison import compare
from t3d.evaluation.config import CompareConfig, PredictConfig, TestConfig
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.run_test import run_test
from t3d.export import run as run_module
from t3d.export import trace as trace_module
from t3d.export.clips import clips_of_run, random_clips, real_clips
from t3d.export.config import ExportConfig
from t3d.export.run import ExportResult, export_model
from t3d.io.files import content_digest
from t3d.io.locks import alone_in
from t3d.models.registry import create_model
from t3d.models.weights import load_model, save_model
from t3d.runtime.choice import candidates
from t3d.runtime.exported import ExportedModel
from t3d.runtime.formats import ENDINGS
from t3d.runtime.load import by_file, load, read_model_card
from t3d.runtime.openvino_file import import_openvino, no_usage_reports, openvino_core
from t3d.timing import Call, Rounds, Timed
from t3d.video.encode import write_video

with no_usage_reports():
    pytest.importorskip("openvino")

CLASSES = ("jump", 'run, "fast" & <slow>', "坐")
SMALL: dict[str, object] = {"width": 0.125, "block_config": [1, 1, 1, 1]}
SPEC = ClipSpec(num_frames=4, stride=1, size=32, resize=32, tail="pad", segments=2)
FP32 = Compute(precision="fp32", workers=0)


def save(path: Path, *, spec: ClipSpec = SPEC, **card: Any) -> Path:
    torch.manual_seed(1)
    net = create_model("resnet3d18", num_classes=3, options=SMALL)
    nn.init.normal_(net.get_classifier().weight, std=1.0)
    save_model(net, path, card=ModelCard("resnet3d18", SMALL, CLASSES, spec, **card))
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five films in folders of classes."""
    root = tmp_path_factory.mktemp("films")
    for i, name in enumerate(["jump/a", "jump/b", "坐/c d", "坐/e", "坐/f"]):
        generator = torch.Generator().manual_seed(i)
        coarse = torch.randint(0, 256, (9, 3, 4, 5), generator=generator).float()
        frames = nn.functional.interpolate(coarse, (36, 40), mode="bilinear").to(torch.uint8)
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / f"{name}.mp4", frames)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """Weights in the folder of a run that was trained on one of the films."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "config.yaml").touch()
    (folder / "train.csv").write_text(f"path,label\n{films / '坐/e.mp4'},坐\n", encoding="utf-8")
    return save(folder / "best.safetensors")


@pytest.fixture(scope="module")
def openvino_result(weights: Path, films: Path) -> ExportResult:
    return export_model(ExportConfig(str(weights), videos=str(films), workers=0))


@pytest.fixture(scope="module")
def onnx_result(weights: Path) -> ExportResult:
    return export_model(ExportConfig(str(weights), "onnx"))


@pytest.fixture(params=["openvino", "onnx"])
def exported(request: pytest.FixtureRequest) -> Path:
    result: ExportResult = request.getfixturevalue(f"{request.param}_result")
    return result.files[0]


def test_the_files_are_next_to_the_weights_and_nothing_else_is(
    weights: Path, openvino_result: ExportResult, onnx_result: ExportResult
) -> None:
    assert openvino_result.files == (weights.with_suffix(".xml"), weights.with_suffix(".bin"))
    assert onnx_result.files == (weights.with_suffix(".onnx"),)
    names = {entry.name for entry in weights.parent.iterdir() if not entry.name.endswith("pt2")}
    run = {"config.yaml", "train.csv", "best.safetensors"}
    assert names == run | {"best.xml", "best.bin", "best.onnx"}


def test_tested_videos_of_the_training_are_reported(openvino_result: ExportResult) -> None:
    (warning,) = openvino_result.warnings
    assert warning == "1 of 5 tested videos is also in the training list (1 same file)."


def test_card_and_scores_are_those_of_the_network_for_any_batch(weights: Path, exported: Path) -> None:
    net, card = load_model(weights)
    model, own = load(exported, compute=FP32)
    assert own == card == read_model_card(exported)
    assert isinstance(model, ExportedModel)
    assert model.stamp.source == content_digest(weights)
    assert model.precision == "fp32"
    clips = torch.randn(5, 3, 8, 32, 32)
    with torch.inference_mode():
        wanted = torch.stack([net(clips[:, :, :4]), net(clips[:, :, 4:])]).mean(0)
    for part in (slice(0, 1), slice(0, 3), slice(0, 5)):
        scores = model(clips[part])
        assert scores.dtype == torch.float32
        assert ((scores - wanted[part]).norm() / wanted[part].norm()) < 1e-5


def test_testing_and_predicting_give_what_torch_gives(weights: Path, exported: Path, films: Path) -> None:
    by_torch = run_test(TestConfig(str(weights), str(films), compute=FP32))
    result = run_test(TestConfig(str(exported), str(films), compute=FP32))
    assert result.scores.paths == by_torch.scores.paths
    np.testing.assert_allclose(result.scores.video_probs, by_torch.scores.video_probs, atol=1e-4)
    np.testing.assert_allclose(result.scores.clip_probs, by_torch.scores.clip_probs, atol=1e-4)
    assert result.single.video_top1 == by_torch.single.video_top1
    predictor = Predictor(exported, compute=FP32)
    for prediction, row in zip(predictor.many([films]), by_torch.scores.video_probs, strict=True):
        np.testing.assert_allclose(prediction.probs, sorted(row, reverse=True), atol=1e-4)
        assert set(prediction.classes) == set(CLASSES)
    with pytest.raises(ConfigError, match="computes scores, not features"):
        predictor.embed(films / "jump/a.mp4")


_WITHOUT_TORCH = """
import sys
from pathlib import Path
import numpy as np
import t3d
from t3d.cli.main import main

xml, onnx, run, films, out = sys.argv[1:]
assert main(["predict", xml, films, "--out", out]) == 0
assert main(["predict", onnx, films, "--json", "--per-clip"]) == 0
assert main(["predict", run, films, "--out", out + ".csv"]) == 0
for path in (xml, onnx):
    model, card = t3d.load(path)
    clip = card.clip
    shape = (2, 3, clip.segments * clip.num_frames, clip.size, clip.size)
    assert model.scores(np.zeros(shape, np.float32)).shape == (2, len(card.classes))
    frames = np.zeros((20, 40, 50, 3), np.uint8)
    loaded = t3d.load(path)
    assert abs(sum(loaded.predict(frames).probs) - 1) < 1e-6
    first = sorted(Path(films).rglob("*.mp4"))[0]
    with t3d.Video(first) as video:
        frames = video.images_at(range(len(video)))
    from_file, (from_array,) = loaded.predict(first), loaded.predict([frames])
    np.testing.assert_allclose(from_array.probs, from_file.probs, atol=1e-4)
    assert from_file.label in str(from_file)
    assert "data:image/jpeg" in from_file._repr_html_()
    assert t3d.to_table([from_file, from_array]).num_rows == 2
    assert loaded.predict_timeline(first).path == str(first)
for name in ("torch", "sklearn", "scipy", "matplotlib", "ray"):
    assert name not in sys.modules, name
"""


def test_exported_files_are_used_without_importing_torch(
    openvino_result: ExportResult,
    onnx_result: ExportResult,
    copied: Path,
    speeds: list[float],
    films: Path,
    tmp_path: Path,
) -> None:
    """Importing torch takes longer than classifying a video. Run folders whose choice is known need none."""
    speeds.append(3.0)
    load(copied)  # measures
    out = tmp_path / "out.jsonl"
    words = map(str, (openvino_result.files[0], onnx_result.files[0], copied.parent, films, out))
    program = [sys.executable, "-c", _WITHOUT_TORCH, *words]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    by_openvino = {record["path"]: record for record in map(json.loads, out.read_text().splitlines())}
    by_onnx = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(by_openvino) == len(by_onnx) == 5
    for record in by_onnx:
        other = by_openvino[str(Path(record["path"]).resolve())]
        assert len(record["per_clip"]) == record["clips"] == other["clips"]
        for name, prob in record["classes"].items():  # OpenVINO may compute in bfloat16
            assert other["classes"][name] == pytest.approx(prob, abs=0.05)


def test_a_file_of_predictions_resumes_with_the_same_exported_file_only(
    exported: Path, weights: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out.jsonl")
    words = [str(films), "--out", out, "--workers", "0"]
    assert main(["predict", str(exported), *words]) == 0
    assert main(["predict", str(exported), *words]) == 0
    assert "0 predicted now, 5 earlier" in capsys.readouterr().out
    assert main(["predict", str(weights), *words]) == 2
    assert "predictions of other weights" in capsys.readouterr().err


def test_a_comparison_takes_exported_files(weights: Path, openvino_result: ExportResult, films: Path) -> None:
    path = openvino_result.files[0]
    config = CompareConfig((str(weights), str(path)), videos=str(films), compute=FP32)
    plain, exact = compare(config).rows
    assert exact.accuracy == plain.accuracy
    assert exact.cost.gmac == plain.cost.gmac > 0
    assert exact.cost.megabytes == pytest.approx(openvino_result.rows[-1].megabytes)
    assert exact.cost.ms_per_clip > 0


def test_the_result_has_what_a_user_decides_by(openvino_result: ExportResult) -> None:
    plain, *others = openvino_result.rows
    assert (plain.runtime, plain.precision, plain.difference) == ("torch", "fp32", None)
    exact = next(row for row in others if (row.runtime, row.precision) == ("openvino", "fp32"))
    assert exact.difference is not None
    assert exact.difference.clips == 5
    assert exact.difference.relative < 1e-5
    assert exact.difference.same_top == 1
    sizes = [path.stat().st_size for path in openvino_result.files]
    assert exact.megabytes == pytest.approx(sum(sizes) / 1e6)
    assert all(row.milliseconds > 0 for row in openvino_result.rows)
    assert openvino_result.real
    assert plain.metrics is not None
    assert exact.metrics is not None
    assert exact.metrics.best_by == plain.metrics.best_by
    assert (
        json.loads(json.dumps(openvino_result.to_json()))["rows"][0]["metrics"]["top1"]
        == plain.metrics.best_by
    )


def test_clips_of_another_shape_or_type_are_refused(exported: Path) -> None:
    model, _ = load(exported, compute=FP32)
    with pytest.raises(ConfigError, match=r"2 × 3 × 4 × 32 × 32; .* B × 3 × 8 × 32 × 32"):
        model(torch.zeros(2, 3, 4, 32, 32))
    with pytest.raises(ConfigError, match=r"torch\.uint8; .*divide 8-bit pixels by 255"):
        model(torch.zeros(2, 3, 8, 32, 32, dtype=torch.uint8))


def test_runtime_device_and_precision_must_go_with_the_file(
    weights: Path, openvino_result: ExportResult, onnx_result: ExportResult
) -> None:
    xml, onnx = openvino_result.files[0], onnx_result.files[0]
    assert isinstance(load(xml, runtime="openvino", compute=FP32)[0], ExportedModel)
    with pytest.raises(ConfigError, match=r"`runtime` is onnx, but openvino computes .*; remove `runtime`"):
        load(xml, runtime="onnx")
    assert load(weights, runtime="onnx", compute=FP32)[0].path == onnx  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="computes on the CPU"):
        load(xml, compute=Compute(device="cuda"))
    with pytest.raises(ConfigError, match=r"ONNX Runtime computes .* in fp32"):
        load(onnx, compute=Compute(precision="bf16"))
    with pytest.raises(ConfigError, match="runtime is 'tensorrt'"):
        load(xml, runtime="tensorrt")  # type: ignore[arg-type]
    for config in (TestConfig, PredictConfig):
        with pytest.raises(ConfigError, match="runtime is 'x'"):
            config("net", "videos", runtime="x")  # type: ignore[arg-type]


@pytest.fixture
def copied(weights: Path, openvino_result: ExportResult, tmp_path: Path) -> Path:
    """Weights with their OpenVINO export, which a test may change."""
    for path in (weights, *openvino_result.files):
        shutil.copy(path, tmp_path)
    return tmp_path / weights.name


@pytest.fixture
def speeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """How many times as fast the exported file seems to be, for the next measurements; an empty cache."""
    monkeypatch.setenv("T3D_RUNTIME_CACHE", str(tmp_path / "choices"))
    wanted: list[float] = []

    def measured(calls: Mapping[str, Call], rounds: Rounds) -> Timed:
        assert rounds.fewest > 1
        for call in calls.values():
            call()
        torch_seconds = 0.001 * wanted.pop(0)
        seconds = dict.fromkeys(calls, 0.001) | {next(iter(calls)): torch_seconds}
        return Timed({name: [3 * each, each, 2 * each] for name, each in seconds.items()}, {})

    monkeypatch.setattr("t3d.runtime.measure.alternate", measured)
    return wanted


def test_auto_uses_the_faster_of_torch_and_the_export_and_measures_once(
    copied: Path, speeds: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds += [3.0, 1.05]
    model, card = load(copied, compute=FP32)
    assert isinstance(model, ExportedModel)
    assert (model.precision, card.classes) == ("fp32", CLASSES)
    note = "t3d: OpenVINO computes best.xml in fp32, 3.0 times as fast as PyTorch"
    assert note in capsys.readouterr().err
    assert isinstance(load(copied, compute=FP32)[0], ExportedModel)
    assert capsys.readouterr().err == ""
    assert len(speeds) == 1  # the second time the choice was known
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert not isinstance(load(copied, compute=FP32)[0], ExportedModel)
    assert "t3d: PyTorch computes in fp32; best.xml is not faster" in capsys.readouterr().err


def test_auto_keeps_the_precision(copied: Path, speeds: list[float]) -> None:
    speeds += [3.0, 3.0]
    for precision in ("fp32", "bf16"):
        model, _ = load(copied, compute=Compute(precision=precision, workers=0))  # type: ignore[arg-type]
        assert isinstance(model, ExportedModel)
        assert model.precision == precision


def test_without_a_place_for_the_choice_it_is_measured_every_time(
    copied: Path, speeds: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("T3D_RUNTIME_CACHE", str(tmp_path / "file" / "below"))
    speeds += [3.0, 3.0]
    for _ in range(2):
        assert isinstance(load(copied, compute=FP32)[0], ExportedModel)
    assert not speeds


@pytest.mark.parametrize("change", ["weights", "xml", "bin", "no bin", "int8"])
def test_auto_never_uses_a_file_that_is_not_the_exact_model(
    copied: Path, speeds: list[float], change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    xml, weights = copied.with_suffix(".xml"), copied.with_suffix(".bin")
    if change == "weights":
        save(copied, provenance={"note": "trained again"})
    elif change == "xml":
        xml.write_bytes(xml.read_bytes()[:500])
    elif change == "bin":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif change == "no bin":
        weights.unlink()
    else:
        xml.write_text(xml.read_text().replace("&quot;fp32&quot;", "&quot;int8&quot;"))
    for _ in range(2):
        assert not isinstance(load(copied, compute=FP32)[0], ExportedModel)
    note = "best.xml is not an export of the weights in best.safetensors"
    assert (note in capsys.readouterr().err) == (change in ("weights", "xml", "bin"))
    assert not speeds


@pytest.mark.parametrize("known", [False, True])
def test_auto_computes_in_torch_if_the_runtime_is_broken(
    known: bool,
    copied: Path,
    speeds: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if known:
        speeds.append(3.0)
        assert isinstance(load(copied, compute=FP32)[0], ExportedModel)

    def broken(path: Path, _: Compute) -> None:
        raise ConfigError(f"{path}: this format needs OpenVINO")

    monkeypatch.setattr("t3d.runtime.load.OpenVINOModel", broken)
    assert not isinstance(load(copied, compute=FP32)[0], ExportedModel)
    assert "best.xml: this format needs OpenVINO; PyTorch computes instead" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="needs OpenVINO"):
        load(copied, runtime="openvino", compute=FP32)


def test_auto_ignores_a_file_that_cannot_be_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert candidates(copied, FP32) == [copied.with_suffix(".xml")]
    monkeypatch.setattr("os.access", lambda path, _: Path(path).suffix != ".bin")  # root may read any file
    assert candidates(copied, FP32) == []


def test_a_required_export_must_exist_and_be_of_the_same_weights(copied: Path) -> None:
    with pytest.raises(ConfigError, match=r"no .*best\.onnx; export the run with `format` onnx"):
        load(copied, runtime="onnx")
    save(copied, provenance={"note": "trained again"})
    with pytest.raises(
        ConfigError, match=r"best\.xml was not exported from .*best.*; export the run again with `format`"
    ):
        load(copied, runtime="openvino")


def test_figures_that_others_repeat_do_not_depend_on_a_measurement() -> None:
    assert by_file("run", "auto") == by_file("best.safetensors", "auto") == "torch"
    assert by_file("best.xml", "auto") == "auto"
    assert by_file("run", "onnx") == "onnx"


def test_predictions_use_auto_and_tests_do_not(copied: Path, speeds: list[float], films: Path) -> None:
    speeds.append(3.0)
    predictor = Predictor(copied, compute=FP32)
    assert isinstance(predictor.model, ExportedModel)
    by_torch = run_test(TestConfig(str(copied), str(films), compute=FP32))
    exact = Predictor(copied, compute=FP32, runtime="torch")
    rows = by_torch.scores.video_probs
    for one, other, row in zip(predictor.many([films]), exact.many([films]), rows, strict=True):
        np.testing.assert_allclose(one.probs, other.probs, atol=1e-4)
        np.testing.assert_array_equal(other.probs, sorted(row, reverse=True))
    assert torch.equal(predictor.embed(films / "jump/a.mp4"), exact.embed(films / "jump/a.mp4"))


def test_all_models_share_one_core() -> None:
    """Deleting a core can leave a signal stack that does not exist, see `openvino_core`."""
    assert openvino_core(Path()) is openvino_core(Path())


def test_bfloat16_is_used_where_it_is_asked_for(openvino_result: ExportResult) -> None:
    path = openvino_result.files[0]
    model, _ = load(path, compute=Compute(precision="bf16"))
    assert isinstance(model, ExportedModel)
    assert model.precision == "bf16"
    exact, _ = load(path, compute=FP32)
    clips = torch.randn(2, 3, 8, 32, 32)
    assert ((model(clips) - exact(clips)).norm() / exact(clips).norm()) < 5e-2


@pytest.mark.parametrize("which", ["openvino", "onnx"])
def test_damaged_files_are_refused_by_name(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    result: ExportResult = request.getfixturevalue(f"{which}_result")
    for path in result.files:
        whole = path.read_bytes()
        for size in (0, 10, len(whole) // 2, len(whole) - 3):
            for other in result.files:
                shutil.copy(other, tmp_path)
            (tmp_path / path.name).write_bytes(whole[:size])
            with pytest.raises(CheckpointError, match=r"best\.(xml|bin|onnx): .*export the run again"):
                load(tmp_path / result.files[0].name)
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
    if which == "openvino":
        shutil.copy(result.files[0], tmp_path)
        (tmp_path / "best.bin").write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"best\.bin: the file is incomplete, or not the one"):
            load(tmp_path / "best.xml")
        (tmp_path / "best.bin").unlink()
        with pytest.raises(CheckpointError, match=r"best\.bin is missing"):
            load(tmp_path / "best.xml")


def test_files_of_other_programs_are_refused(tmp_path: Path) -> None:
    openvino = import_openvino(tmp_path)
    x = openvino.opset13.parameter([2], np.float32)
    openvino.serialize(
        openvino.Model([openvino.opset13.relu(x)], [x]), tmp_path / "other.xml", tmp_path / "other.bin"
    )
    with pytest.raises(CheckpointError, match=r"other\.xml: `t3d export` did not write this file"):
        load(tmp_path / "other.xml")
    with pytest.raises(CheckpointError, match="no such run folder or weights file"):
        load(tmp_path / "missing.xml")


def test_a_file_is_not_replaced_without_overwrite_and_a_wrong_name_is_refused_first(
    openvino_result: ExportResult, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "trace", pytest.fail)
    with pytest.raises(ConfigError, match=r"best\.xml already exists; choose another `out`"):
        export_model(ExportConfig(str(weights)))
    (tmp_path / "a.bin").touch()
    with pytest.raises(ConfigError, match=r"a\.bin already exists"):
        export_model(ExportConfig(str(weights), out=str(tmp_path / "a.xml")))
    with pytest.raises(ConfigError, match=r"out is a\.xml; a file of format onnx must end in \.onnx"):
        ExportConfig(str(weights), "onnx", out="a.xml")
    with pytest.raises(ConfigError, match=r"`int8` is set and `format` is onnx"):
        ExportConfig(str(weights), "onnx", int8="videos")
    assert openvino_result.files[0].exists()


@pytest.mark.parametrize("form", ["openvino", "torch"])
def test_a_full_disk_is_reported_and_leaves_no_file(
    form: Any, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands for the disk. Python itself writes ONNX files."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / f"a{ENDINGS[form]}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(WriteError) as caught:
            export_model(ExportConfig(str(weights), form, out=str(out)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value).startswith(f"{out}: cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []


def test_a_weights_file_is_never_replaced_by_its_export(weights: Path, tmp_path: Path) -> None:
    source = shutil.copy(weights, tmp_path / "a.bin")
    with pytest.raises(ConfigError, match=r"a\.bin is the weights file itself.*choose another `out`"):
        export_model(ExportConfig(str(source), overwrite=True))
    assert source.read_bytes() == weights.read_bytes()


def test_a_folder_that_cannot_be_written_to_is_refused_before_the_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "trace", pytest.fail)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"out: the folder .*file/below cannot be created"):
        export_model(ExportConfig(str(weights), out=str(tmp_path / "file/below/a.xml")))
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write to any folder
    with pytest.raises(ConfigError, match=r"out: the folder .* cannot be read and written"):
        export_model(ExportConfig(str(weights), out=str(tmp_path / "a.xml")))


def test_two_exports_do_not_write_one_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "trace", pytest.fail)
    out = tmp_path / "a.xml"
    with alone_in(out), pytest.raises(ConfigError, match=r"another run is writing to .*a\.xml \(process"):
        export_model(ExportConfig(str(weights), out=str(out)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_export_keeps_the_old_file_and_leaves_no_other(
    number: int, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if it is stopped last, while the accuracy is measured."""

    def stopped(*_: object) -> None:
        (temporary,) = (entry for entry in copied.parent.iterdir() if entry.is_dir())
        assert {entry.name for entry in temporary.iterdir()} == {"best.xml", "best.bin"}
        os.kill(os.getpid(), number)

    files = {path.name: path.read_bytes() for path in copied.parent.iterdir()}
    assert set(files) == {"best.safetensors", "best.xml", "best.bin"}
    monkeypatch.setattr(run_module, "_measured", stopped)
    assert main(["export", str(copied), "--overwrite"]) == 128 + number
    assert "stopped the export; no file was written or replaced" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in copied.parent.iterdir()} == files


def test_a_torch_export_is_checked_but_never_loaded_later(weights: Path) -> None:
    result = export_model(ExportConfig(str(weights), "torch"))
    (path,) = result.files
    texts = {"t3d.card": "", "t3d.export": ""}
    network = torch.export.load(path, extra_files=texts).module()
    assert ModelCard.from_json(texts["t3d.card"]) == load_model(weights)[1]
    assert network(torch.zeros(3, 3, 8, 32, 32)).shape == (3, 3)
    assert network(torch.zeros(1, 3, 8, 32, 32).expand(4097, -1, -1, -1, -1)).shape == (4097, 3)
    with pytest.raises(CheckpointError, match=r"best\.pt2: T3D does not load \.pt2 files.*can run code"):
        load(path)


def test_an_export_that_differs_leaves_no_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = trace_module.to_openvino

    def changed(graph: Any, net: Any) -> Any:
        model = convert(graph, net)
        openvino = import_openvino(tmp_path)
        scores = openvino.opset13.multiply(model.outputs[0].get_node().input_value(0), np.float32(1.001))
        return openvino.Model([scores], model.get_parameters())

    monkeypatch.setattr(run_module, "to_openvino", changed)
    with pytest.raises(ExportError, match=r"differ from the network's by 1\.\de-03 .*not written"):
        export_model(ExportConfig(str(weights), out=str(tmp_path / "out/a.xml")))
    assert list((tmp_path / "out").iterdir()) == []


class _Odd(nn.Module):
    """An operation that OpenVINO does not know."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(x)


class _Branching(nn.Module):
    """A network whose operations depend on pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(x.sum() > 0) else -x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (_Odd(), r"ResNet3D cannot be exported: OpenVINO failed: .*special_airy_ai"),
        (_Branching(), r"ResNet3D cannot be exported: torch\.export failed: .*data-dependent"),
    ],
)
def test_an_unsupported_operation_is_reported_and_leaves_no_file(
    layer: nn.Module, message: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_odd(*_: Any, **__: Any) -> Any:
        net, card = load_model(weights)
        net.set_submodule("fc", nn.Sequential(net.get_classifier(), layer))
        return net, card

    monkeypatch.setattr(run_module, "load_classifier", load_odd)
    with pytest.raises(ExportError, match=message):
        export_model(ExportConfig(str(weights), out=str(tmp_path / "a.xml")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "form", "options"),
    [("openvino", "openvino", {}), ("nncf", "openvino", {"int8": "."}), ("onnxscript", "onnx", {})],
)
def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    package: Any,
    form: Any,
    options: dict[str, Any],
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    out = str(tmp_path / f"a{ENDINGS[form]}")
    with pytest.raises(ConfigError, match=r'pip install "t3d\[export\]"'):
        export_model(ExportConfig(str(weights), form, out=out, **options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("package", "name"), [("openvino", "best.xml"), ("onnxruntime", "best.onnx")])
def test_a_missing_runtime_is_reported(
    package: str,
    name: str,
    weights: Path,
    openvino_result: ExportResult,
    onnx_result: ExportResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert openvino_result.files
    assert onnx_result.files
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf'{name}: this format needs .*: pip install "t3d\[export\]"'):
        load(weights.with_name(name))


def test_openvino_sends_no_usage_reports() -> None:
    from openvino.tools.ovc import convert_impl, telemetry_utils

    for module in (convert_impl, telemetry_utils):
        assert module.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_int8_needs_enough_videos(
    weights: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "trace", pytest.fail)
    config = ExportConfig(str(weights), int8=str(films), out=str(tmp_path / "a.xml"))
    with pytest.raises(ManifestError, match=r"int8 needs at least 32 videos .*this list has 5"):
        export_model(config)
    many = tmp_path / "many {a}"  # braces mean nothing in a path
    many.mkdir()
    for i in range(33):
        (many / f"{i}.mp4").touch()
    with pytest.raises(ManifestError, match=r"0 of 33 could be read \(first error: .*0 bytes"):
        export_model(replace(config, int8=str(many)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["many {a}"]


@pytest.mark.long
def test_an_int8_export_is_calibrated_measured_and_says_so(
    weights: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for i in range(32):
        shutil.copy(films / "jump/a.mp4" if i % 2 else films / "坐/e.mp4", many / f"{i}.mp4")
    out = tmp_path / "a.xml"
    words = ["export", str(weights), "--int8", str(many), "--out", str(out), "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "measure its accuracy on labeled videos" in printed.err
    result = json.loads(printed.out)  # NNCF would print its progress, too
    row = result["rows"][-1]
    assert row["precision"].startswith("int8 and")
    assert result["clips"] == "real"
    assert 0 < row["difference"]["relative"] < 0.2
    assert row["difference"]["clips"] == 16
    model, card = load(out, compute=FP32)
    assert isinstance(model, ExportedModel)
    assert model.precision == "int8 and fp32"
    assert card.classes == CLASSES
    assert "FakeQuantize" in out.read_text(encoding="utf-8")


def test_an_int8_model_that_is_less_accurate_is_reported(openvino_result: ExportResult) -> None:
    plain = openvino_result.rows[0]
    assert plain.metrics is not None
    worse = replace(
        plain,
        precision="int8 and fp32",
        metrics=replace(plain.metrics, video_top1=plain.metrics.best_by - 0.02),
    )  # type: ignore[call-arg]
    config = ExportConfig("net", int8="videos")
    (warning,) = run_module._warnings(config, [plain, worse])
    assert "2.0 points less accurate than fp32" in warning
    same = replace(plain, precision="int8 and fp32")
    assert list(run_module._warnings(config, [plain, same])) == []


def test_random_clips_are_the_same_every_time() -> None:
    assert torch.equal(random_clips(SPEC, 2), random_clips(SPEC, 2))
    assert random_clips(SPEC, 2).shape == (2, 8, 3, 32, 32)


def test_a_model_of_a_run_is_checked_on_clips_of_its_training(
    weights: Path, films: Path, tmp_path: Path
) -> None:
    store = FrameStore(SPEC)
    (clip,) = real_clips(Manifest.from_files([films / "坐/e.mp4"]), store, SPEC, most=1, title="Reading")[0]
    clips = clips_of_run(weights, store, SPEC, most=4)
    assert clips is not None
    assert torch.equal(clips, clip[None])
    alone = tmp_path / "best.safetensors"
    assert clips_of_run(alone, store, SPEC, most=4) is None
    (tmp_path / "config.yaml").touch()
    (tmp_path / "train.csv").write_text(f"path,label\n{tmp_path / 'gone.mp4'},jump\n")
    assert clips_of_run(alone, store, SPEC, most=4) is None
