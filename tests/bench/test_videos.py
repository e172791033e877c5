from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t3d.bench.config import DecodeBenchConfig, GrowthConfig, PredictBenchConfig
from t3d.bench.decode import bench_decode
from t3d.bench.growth import GrowthPoint, GrowthResult, bench_growth, relative_costs
from t3d.bench.predict import bench_predict
from t3d.bench.prediction_steps import STEPS
from t3d.bench.result import Machine
from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.errors import ConfigError
from t3d.evaluation.lanes import Independent, computed
from t3d.evaluation.predictor import Predictor
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.report.plots import growth_figure, save_figure
from t3d.timing import Timing
from t3d.video.encode import write_video

SMALL = {"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8, "bottleneck": 1}
MACHINE = Machine("CPU", 1, 0.0, 2, {})


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 20 and 9 frames."""
    root = tmp_path_factory.mktemp("films")
    for name, count in (("long", 20), ("short", 9)):
        frames = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 48), dtype=np.uint8)
        write_video(root / f"{name}.mp4", frames)
    return root


@pytest.fixture(scope="module")
def weights(films: Path) -> Path:
    path = films.parent / "w.safetensors"
    spec = ClipSpec(num_frames=8, stride=1, size=32, resize=32)
    card = ModelCard("densenet3d_tiny", SMALL, ("a", "b"), spec)
    save_model(create_model("densenet3d_tiny", num_classes=2, options=SMALL), path, card=card)
    return path


@pytest.mark.long
def test_a_prediction_is_divided_into_steps(
    weights: Path, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "predict", str(weights), str(films), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["steps"]) == set(STEPS)
    assert all(seconds > 0 for seconds in (*result["steps"].values(), result["startup"], result["total"]))
    assert (result["videos"], result["clips"], result["bad"]) == (2, 3, [])
    assert result["videos_per_second"] == pytest.approx(2 / result["total"])


def test_the_steps_score_the_clips_of_a_prediction(
    weights: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t3d.bench.predict._startup", lambda _: 1.0)
    predicted = list(Predictor(str(weights)).many([films]))
    result = bench_predict(PredictBenchConfig(str(weights), (str(films),)))
    assert result.clips == sum(each.clips for each in predicted)
    few = bench_predict(PredictBenchConfig(str(weights), (str(films),), count=1))
    assert few.videos == 1


def test_the_network_computes_the_batches_of_a_prediction_on_lanes(
    weights: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: dict[str, list[list[int]]] = {}

    def recorded(place: str) -> Callable[..., Iterator[Any]]:
        def compute(function: Any, items: Iterable[Any]) -> Iterator[Any]:
            assert isinstance(function, Independent)  # so that each core may compute a part of a batch
            for batch, vectors in computed(function, items):
                batches.setdefault(place, []).append(batch.videos.tolist())
                yield batch, vectors

        return compute

    monkeypatch.setattr("t3d.bench.predict._startup", lambda _: 1.0)
    for place in ("t3d.bench.prediction_steps", "t3d.evaluation.clip_stream"):
        monkeypatch.setattr(f"{place}.computed", recorded(place))
    for number in range(10):
        name = "long" if number == 0 else "short"
        shutil.copy(films / f"{name}.mp4", tmp_path / f"{number}.mp4")
    result = bench_predict(PredictBenchConfig(str(weights), (str(tmp_path),)))
    steps, predicted = batches.values()
    assert predicted == [[0, 0, *range(1, 7)], [7], [8, 9]]
    assert steps == 2 * predicted  # the first time, to prepare the network
    assert result.clips == 11


def test_a_bad_video_is_reported(
    weights: Path,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("t3d.bench.predict._startup", lambda _: 1.0)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    assert main(["bench", "predict", str(weights), str(films), str(bad)]) == 1
    assert f"could not be read: {bad}" in " ".join(capsys.readouterr().out.split())
    assert main(["bench", "decode", str(films), str(bad), "--seconds", "0.001"]) == 1
    assert f"could not be read: {bad}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(ConfigError, match="videos: not one of 1 could be read"):
        bench_predict(PredictBenchConfig(str(weights), (str(bad),)))
    with pytest.raises(ConfigError, match="videos: not one of 1 could be read"):
        bench_decode(DecodeBenchConfig((str(bad),)))


@pytest.mark.parametrize("command", ["predict RUN", "decode"])
def test_no_videos_are_an_error(
    command: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.replace("RUN", str(weights)).split()
    assert main(["bench", *words, str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_readers_return_the_same_number_of_frames(films: Path) -> None:
    result = bench_decode(DecodeBenchConfig((str(films),), num_frames=8, clips=2, seconds=1e-3))
    rows = {(row.reader, row.order): row for row in result.rows}
    assert set(rows) >= {("T3D", "in order"), ("PyAV", "in order"), ("T3D", "random clips")}
    assert {row.frames for key, row in rows.items() if key[1] == "in order"} == {29}
    assert rows["T3D", "random clips"].frames == 2 * 2 * 8
    assert rows["T3D", "in order"].relative == 1.0
    peer, own = rows["PyAV", "in order"], rows["T3D", "in order"]
    assert peer.relative == pytest.approx(own.time.median / peer.time.median)
    assert (result.videos, result.frames) == (2, 29)


def point(axis: str, label: str, macs: float, seconds: float | None) -> GrowthPoint:
    time = None if seconds is None else Timing(seconds, seconds, seconds, 3)
    return GrowthPoint(axis, label, macs, time, 1000)


def test_growth_says_where_it_is_not_linear(tmp_path: Path) -> None:
    points = (
        point("frames", "8", 1e9, 2.0),
        point("frames", "16", 2e9, 2.1),
        point("frames", "32", 4e9, 4.0),
        point("frames", "64", 8e9, None),
        point("side", "112", 1e9, 1.0),
        point("side", "160", 2e9, 2.2),
        point("batch", "1", 1e9, 1.0),
    )
    result = GrowthResult("net", "scoring", points, MACHINE)
    assert relative_costs(result.of("frames")) == pytest.approx([2.0, 1.05, 1.0])
    assert result.axes == ["frames", "side"]
    frames, side = result.sentences()
    assert "2.00 times at 8 what" in frames
    assert "16" not in frames
    assert side == "side: linear in the work, within 15%"
    figure = growth_figure(result)
    assert len(figure.axes) == 4
    save_figure(figure, tmp_path / "growth.svg")
    assert (tmp_path / "growth.svg").read_text().count("<svg") == 1


def test_growth_is_measured_point_by_point(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[dict[str, object]] = []

    def peak(job: dict[str, object]) -> int | None:
        jobs.append(job)
        return None if job["shape"] == (2, 3, 16, 112, 112) else 7

    monkeypatch.setattr("t3d.bench.growth.peak_in_child", peak)
    monkeypatch.setattr("t3d.bench.growth.FRAMES", 4)
    monkeypatch.setattr("t3d.bench.growth.SIZE", 32)
    config = GrowthConfig("t3d_tiny", None, (2, 4), (32,), (1, 2), ("densenet3d_tiny",), seconds=1e-3)
    result = bench_growth(config)
    assert [(each.axis, each.label) for each in result.points] == [
        ("frames", "2"),
        ("frames", "4"),
        ("side", "32"),
        ("batch", "1"),
        ("batch", "2"),
        ("network", "densenet3d_tiny"),
    ]
    assert all(each.time is not None and each.memory == 7 for each in result.points)
    assert result.points[4].macs == 2 * result.points[3].macs
    assert jobs[4]["shape"] == (2, 3, 4, 32, 32)


def test_a_point_that_does_not_fit_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("t3d.bench.growth.free_bytes", lambda: 0)
    words = ["--frames", "8", "--sides", "32", "--batches", "2", "--depths", "t3d_tiny"]
    assert main(["bench", "growth", "t3d_tiny", *words]) == 1
    assert capsys.readouterr().out.count("failed") == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("t3d_tinny", "unknown model 't3d_tinny'"),
        ("t3d_tiny --out plot.txt", "--out is plot.txt; the plot is a picture"),
        ("t3d_tiny --frames 0", "--frames is 0; it must be at least 1"),
        ("t3d_tiny --threads 0", "--threads is 0"),
    ],
)
def test_mistakes_are_explained(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "growth", *words.split()]) == 2
    assert message in capsys.readouterr().err
