from __future__ import annotations

import itertools
import json
import multiprocessing
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import t3d
from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.clips.arrays import NAME
from t3d.data.clips.frames import FrameStore
from t3d.data.clips.views import Views
from t3d.data.index import VideoIndex
from t3d.data.manifest.manifest import Manifest
from t3d.device import Compute
from t3d.errors import CheckpointError, ConfigError, ManifestError, VideoError
from t3d.evaluation.config import Reading, TestConfig
from t3d.evaluation.parts import Part
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.protocol import Protocol
from t3d.evaluation.run_test import TestResult, run_test
from t3d.evaluation.scoring import IN_PROCESS, score_videos
from t3d.models.registry import create_model
from t3d.models.weights import load_model, save_model
from t3d.prepare.index import index_videos
from t3d.prepare.shards import write_shards
from t3d.report.result import print_result, write_result
from t3d.video.encode import write_video
from t3d.video.video import Video

pytestmark = pytest.mark.usefixtures("work_here")

CLASSES = ("jump", "run, fast", "坐")
SPEC = ClipSpec(num_frames=8, stride=1, size=64, resize=64, tail="pad")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net whose scores differ from video to video."""
    torch.manual_seed(1)
    net = create_model("densenet3d_tiny", num_classes=3)
    torch.nn.init.normal_(net.get_classifier().weight, std=1.0)
    path = tmp_path_factory.mktemp("net") / "model.safetensors"
    save_model(net, path, card=ModelCard("densenet3d_tiny", classes=CLASSES, clip=SPEC))
    return path


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of classes with five good films, and two bad ones next to them."""
    root = tmp_path_factory.mktemp("films")
    for i, (name, length) in enumerate(
        [("jump/a", 5), ("jump/b", 8), ("坐/c d", 20), ("坐/e", 33), ("坐/f", 16)]
    ):
        generator = torch.Generator().manual_seed(i)
        coarse = torch.randint(0, 256, (length, 3, 4, 5), generator=generator).float()
        frames = torch.nn.functional.interpolate(coarse, (64, 80), mode="bilinear").to(torch.uint8)
        (root / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / "set" / f"{name}.mp4", frames)
    (root / "bad").mkdir()
    (root / "bad/empty.mp4").touch()
    (root / "bad/text.mp4").write_text("no video")
    return root


def result_of(weights: Path, videos: str | Path, **options: Any) -> TestResult:
    return run_test(TestConfig(str(weights), str(videos), **{"compute": Compute(workers=0), **options}))


def good(films: Path) -> list[Path]:
    return sorted((films / "set").rglob("*.mp4"))


def test_a_prediction_equals_the_test_bit_for_bit(weights: Path, films: Path) -> None:
    net, card = load_model(weights)
    predictor = Predictor(weights, compute=IN_PROCESS)
    for path in good(films):
        prediction = predictor(path)
        scores = score_videos(net, Manifest.from_files([path]), Protocol(card.clip))
        order = sorted(range(3), key=lambda k: -scores.video_probs[0, k])
        assert prediction.path == str(path)
        assert prediction.classes == tuple(CLASSES[k] for k in order)
        assert prediction.probs == tuple(scores.video_probs[0, order])
        assert prediction.clips == len(scores.clip_probs)
        assert prediction.error is None
        assert sum(prediction.probs) == pytest.approx(1)


def test_predictions_of_many_are_those_of_the_test_of_the_same_videos(weights: Path, films: Path) -> None:
    outcome = result_of(weights, films / "set", compute=IN_PROCESS)
    predictions = list(Predictor(weights, compute=IN_PROCESS).many(outcome.scores.paths))
    assert outcome.scores.classes == CLASSES
    assert [prediction.path for prediction in predictions] == list(outcome.scores.paths)
    for row, prediction in enumerate(predictions):
        probs = dict(zip(prediction.classes, prediction.probs, strict=True))
        assert [probs[name] for name in CLASSES] == outcome.scores.video_probs[row].tolist()
        assert prediction.clips == int((outcome.scores.clip_video == row).sum())
    right = [p.classes[0] == Path(p.path).parent.name for p in predictions]
    assert outcome.metrics.video_top1 == pytest.approx(np.mean(right))


def test_other_batches_change_a_prediction_by_rounding_only(weights: Path, films: Path) -> None:
    paths = good(films)
    alone = [Predictor(weights, compute=IN_PROCESS)(path) for path in paths]
    for batch_size, workers in ((1, 0), (3, 2), (64, 0)):
        predictor = Predictor(weights, compute=Compute("auto", "fp32", batch_size, workers))
        for one, other in zip(alone, predictor.many(paths), strict=True):
            assert one.classes == other.classes
            assert one.clips == other.clips
            np.testing.assert_allclose(one.probs, other.probs, atol=1e-6, rtol=0)


def test_predictions_keep_the_order_of_the_input(weights: Path, films: Path) -> None:
    paths = good(films)
    asked = [paths[3], paths[0], films / "bad/empty.mp4", paths[3], paths[1]]
    predictions = list(Predictor(weights, compute=Compute(precision="fp32", workers=0)).many(asked))
    assert [prediction.path for prediction in predictions] == [str(path) for path in asked]
    first, again = predictions[0], predictions[3]
    assert replace(first, probs=()) == replace(again, probs=())
    np.testing.assert_allclose(first.probs, again.probs, atol=1e-6, rtol=0)  # two places in the batches
    others = [predictions[i].probs for i in (1, 4)]
    assert all(np.ptp([first.probs, other], 0).max() > 1e-5 for other in others)


def test_bad_files_among_good_ones_say_why(weights: Path, films: Path) -> None:
    absent = films / "absent.mp4"
    paths = [films / "bad/empty.mp4", good(films)[0], absent, films / "bad/text.mp4"]
    empty, fine, missing, text = Predictor(weights).many(paths)
    assert fine.error is None
    assert fine.classes
    for prediction in (empty, missing, text):
        assert prediction.error
        assert (prediction.classes, prediction.probs, prediction.clips) == ((), (), 0)
    assert "no such file" in missing.error.lower()  # type: ignore[union-attr]
    with pytest.raises(VideoError) as caught:
        Predictor(weights)(absent)
    assert caught.value.path == str(absent)


def test_a_folder_is_replaced_by_its_videos(weights: Path, films: Path) -> None:
    predictor = Predictor(weights)
    predictions = list(predictor.many([films / "set", good(films)[0]]))
    assert [prediction.path for prediction in predictions] == [
        str(path) for path in [*good(films), good(films)[0]]
    ]
    with pytest.raises(VideoError, match="is a folder"):
        predictor(films / "set")
    with pytest.raises(ManifestError, match="no videos given"):
        predictor.many([])
    (films / "nothing").mkdir(exist_ok=True)
    with pytest.raises(ManifestError, match="no video in this folder"):
        predictor.many([films / "nothing"])


def test_relative_paths_and_strings_are_accepted(
    weights: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(films / "set" / "jump")
    predictor = Predictor(weights)
    assert predictor("a.mp4") == predictor(films / "set/jump/a.mp4")


@pytest.mark.parametrize("threads", ["one_thread", "two_threads"])
def test_a_long_list_answers_as_it_goes(
    weights: Path,
    films: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    threads: str,
) -> None:
    request.getfixturevalue(threads)
    opened: list[Path] = []
    true = FrameStore.open

    def counted(store: FrameStore, path: Path) -> object:
        opened.append(path)
        return true(store, path)

    monkeypatch.setattr(FrameStore, "open", counted)
    paths = list(itertools.islice(itertools.cycle([good(films)[0], films / "bad/empty.mp4"]), 41))
    answers = Predictor(weights, compute=Compute(batch_size=2, workers=0)).many(paths)
    first = next(answers)
    assert len(opened) < 25  # a few batches are read ahead, not the list
    rest = list(answers)
    assert [answer.path for answer in (first, *rest)] == [str(path) for path in paths]
    assert [answer.error is None for answer in (first, *rest)] == [i % 2 == 0 for i in range(41)]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_list_that_is_left_in_the_middle_leaves_no_thread_or_process(
    weights: Path, films: Path, workers: int
) -> None:
    answers = Predictor(weights, compute=Compute(batch_size=1, workers=workers)).many(good(films) * 5)
    next(answers)
    answers.close()  # type: ignore[attr-defined] # it is a generator
    assert torch.get_num_threads() == 2
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith(("t3d lane", "t3d read"))
    ]
    assert not multiprocessing.active_children()


def test_weights_and_devices_that_cannot_be_used_are_refused(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        Predictor(tmp_path / "absent.safetensors")
    with pytest.raises(ConfigError, match="toaster"):
        Predictor(weights, compute=Compute("toaster"))


# --- the test's own ways ------------------------------------------------------------------------------------


def test_a_cache_is_filled_by_a_test_and_changes_no_score(
    tmp_path: Path, weights: Path, films: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = result_of(weights, films / "set")
    for workers in (2, 0):
        cached = result_of(
            weights,
            films / "set",
            reading=Reading(cache=str(tmp_path / "cache")),
            compute=Compute(workers=workers),
        )
        np.testing.assert_allclose(cached.scores.video_probs, plain.scores.video_probs, atol=1e-2)
        assert len(list((tmp_path / "cache").iterdir())) == 5

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr("t3d.data.clips.frames.Video", refuse)
    again = result_of(weights, films / "set", reading=Reading(cache=str(tmp_path / "cache")))
    np.testing.assert_array_equal(again.scores.video_probs, plain.scores.video_probs)


def test_the_tail_may_be_chosen_for_a_test(weights: Path, films: Path) -> None:
    clips = {
        tail: np.bincount(result_of(weights, films / "set", tail=tail).scores.clip_video).tolist()  # type: ignore[arg-type]
        for tail in (None, "drop", "shift")
    }
    assert clips == {None: [1, 1, 3, 5, 2], "drop": [1, 1, 2, 4, 2], "shift": [1, 1, 3, 5, 2]}


def as_json(result: TestResult) -> dict[str, Any]:
    """Return the metrics as a file holds them: two classes have no top-5."""
    metrics = json.loads(json.dumps(asdict(result.metrics)))
    assert metrics.pop("video_top5") is metrics.pop("clip_top5") is None
    return metrics


@pytest.mark.filterwarnings("ignore:Glyph")  # 坐, in the confusion matrix
def test_a_test_may_average_many_views(
    weights: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, card = load_model(weights)
    outcome = result_of(weights, films / "set", views=Views(clips=4, crops=3), compute=IN_PROCESS)
    assert np.bincount(outcome.scores.clip_video).tolist() == [4] * 5
    manifest = Manifest.from_files(outcome.scores.paths)
    scores = score_videos(net, manifest, Protocol(card.clip, views=Views(clips=4, crops=3)))
    np.testing.assert_array_equal(outcome.scores.video_probs, scores.video_probs)
    plain = result_of(weights, films / "set", compute=IN_PROCESS)
    assert not np.isclose(plain.scores.video_probs, scores.video_probs, rtol=1e-2, atol=0).all(1).any()
    # A figure says what it is the figure of.
    write_result(outcome, tmp_path / "many")
    write_result(plain, tmp_path / "plain")
    many, paper = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("many", "plain"))
    assert many == as_json(outcome) | {"views": {"clips": 4, "crops": 3}}
    assert paper == as_json(plain)
    print_result(outcome)
    print_result(plain)
    assert capsys.readouterr().out.count("clips: 4, crops: 3") == 1


@pytest.mark.parametrize(
    ("tail", "views", "message"),
    [
        ("pad", {"clips": 4}, "`tail` is pad and `clips` is 4.*leave out one"),
        (None, {"clips": 0}, "clips is 0"),
        (None, {"crops": 4}, "crops is 4"),
    ],
)
def test_impossible_views_are_refused_before_any_file_is_read(
    tail: Any, views: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TestConfig("absent.safetensors", "absent", tail=tail, views=Views(**views))


def test_views_that_the_weights_cannot_take_are_refused_before_videos_are_read(tmp_path: Path) -> None:
    spec = replace(SPEC, segments=2)
    card = ModelCard("densenet3d_tiny", classes=CLASSES, clip=spec)
    save_model(create_model("densenet3d_tiny", num_classes=3), tmp_path / "w.safetensors", card=card)
    with pytest.raises(ConfigError, match="2 segments"):
        result_of(tmp_path / "w.safetensors", "absent", views=Views(clips=2))


@pytest.mark.parametrize("cached", [False, True])
def test_too_many_bad_videos_stop_a_test_and_few_are_reported(
    tmp_path: Path, weights: Path, films: Path, cached: bool
) -> None:
    table = tmp_path / "test.csv"
    rows = [f"{path},{path.parent.name}" for path in good(films)] + [f"{films}/bad/text.mp4,jump"]
    table.write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    cache = str(tmp_path / "cache") if cached else None
    with pytest.raises(ManifestError, match=r"(?s)1 of 6 videos \(16\.7%\).*max_bad.*bad/text\.mp4"):
        result_of(weights, table, reading=Reading(cache=cache))
    outcome = result_of(weights, table, reading=Reading(cache=cache, max_bad=0.2))
    assert (outcome.metrics.videos, outcome.metrics.bad) == (5, 1)
    assert [Path(video.path).name for video in outcome.scores.bad] == ["text.mp4"]


def test_an_index_names_the_videos_and_a_shard_gives_the_same(
    weights: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.from_files([films / "set"])
    index_videos(manifest, tmp_path / "films.parquet", workers=1)
    write_shards(manifest, VideoIndex.read(tmp_path / "films.parquet"), tmp_path / "shards", workers=1)
    plain = {
        Path(p.path).stem.replace(" ", "_"): p
        for p in Predictor(weights, compute=IN_PROCESS).many(good(films))
    }
    for index in ("films.parquet", "shards/index.parquet"):
        words = ["predict", str(weights), "--index", str(tmp_path / index), "--json", "--top", "9"]
        assert main([*words, "--precision", "fp32", "--workers", "0"]) == 0
        predictions = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len(predictions) == len(plain) == 5
        for line in predictions:
            wanted = plain[Path(line["path"]).stem.rpartition("-")[2].replace(" ", "_")]
            # The index lists the videos in another order, so that other clips share their batches.
            assert tuple(line["classes"]) == wanted.classes
            np.testing.assert_allclose([*line["classes"].values()], wanted.probs, atol=1e-6, rtol=0)
    assert main(["predict", str(weights)]) == 2
    assert "no video" in capsys.readouterr().err


# --- frames in memory, and features -------------------------------------------------------------------------


@pytest.mark.parametrize("channels_last", [False, True])
def test_frames_in_memory_are_classified_as_their_file(
    weights: Path, films: Path, channels_last: bool
) -> None:
    predictor = Predictor(weights)
    path = films / "set/坐/e.mp4"
    frames = Video(path)[:]
    want = predictor(path)
    got = predictor(frames.permute(0, 2, 3, 1).numpy() if channels_last else frames)
    assert got == replace(want, path=got.path)
    assert got.clips == 5
    assert torch.equal(predictor.embed(frames), predictor.embed(path))


def test_features_are_the_mean_input_of_the_classifier(weights: Path, films: Path) -> None:
    predictor = Predictor(weights, compute=Compute(precision="fp32", workers=0))
    model, card = load_model(weights)
    path = films / "set/坐/e.mp4"
    with torch.inference_mode():
        features = model.forward_features(t3d.load_clips(path, card.clip))
        want = features.mean((2, 3, 4)).mean(0)
    got = predictor.embed(path)
    assert got.shape == (model.num_features,)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    with pytest.raises(VideoError, match=r"empty\.mp4"):
        predictor.embed(films / "bad/empty.mp4")
    with pytest.raises(VideoError, match="is a folder"):
        predictor.embed(films / "set")


def test_features_of_segments_are_averaged(tmp_path: Path, films: Path) -> None:
    net = create_model("densenet3d_tiny", num_classes=3).eval()
    spec = replace(SPEC, segments=2, num_frames=4)
    save_model(net, tmp_path / "w.safetensors", card=ModelCard("densenet3d_tiny", classes=CLASSES, clip=spec))
    predictor = Predictor(tmp_path / "w.safetensors", compute=Compute(precision="fp32", workers=0))
    path = films / "set/坐/e.mp4"
    clips = t3d.load_clips(path, spec)
    assert clips.shape == (1, 3, 8, 64, 64)
    with torch.inference_mode():
        parts = [net.forward_features(clips[:, :, at : at + 4]).mean((2, 3, 4)) for at in (0, 4)]
    torch.testing.assert_close(predictor.embed(path), torch.cat(parts).mean(0))


# --- one call for one video or several ----------------------------------------------------------------------


def test_a_loaded_model_predicts_and_can_still_be_unpacked(weights: Path, films: Path) -> None:
    loaded = t3d.load(weights, compute=IN_PROCESS)
    model, card = loaded
    assert card.classes == CLASSES
    assert model is loaded.predictor.model
    path = films / "set/坐/e.mp4"
    want = Predictor(weights, compute=IN_PROCESS)(path)
    assert loaded.predict(path) == want
    assert loaded.predict(str(path)).label == want.classes[0]
    assert torch.equal(loaded.embed(path), Predictor(weights, compute=IN_PROCESS).embed(path))
    assert loaded.predict_timeline(path) is not None


def test_a_list_of_videos_in_any_form(weights: Path, films: Path) -> None:
    predictor = Predictor(weights, compute=IN_PROCESS)
    path, bad = films / "set/坐/e.mp4", films / "bad/text.mp4"
    frames = Video(path)[:]
    one = predictor(path)
    results = predictor.predict([path, bad, frames, Part(str(path), 0.0, 0.5), Video(path)])
    assert [each.path for each in results] == [str(path), str(bad), NAME, str(path), str(path)]
    assert results[1].error
    for each in (results[0], results[2], results[4]):
        assert each.classes == one.classes
        np.testing.assert_allclose(each.probs, one.probs, atol=1e-6, rtol=0)
    assert results[3].span == (0.0, 0.5)
    assert predictor.predict(Part(str(path), 0.0, 0.5)) == results[3]
    assert [each.path for each in predictor.predict((path, bad))] == [str(path), str(bad)]
    assert len(predictor.predict([films / "set"])) == 5
    assert predictor.predict([]) == []
    with pytest.raises(VideoError, match=r"text\.mp4"):
        predictor.predict(bad)
    with pytest.raises(VideoError, match=r"text\.mp4"):
        predictor.predict(Part(str(bad)))


def test_frames_sampled_by_time_score_as_their_file(tmp_path: Path, films: Path) -> None:
    torch.manual_seed(1)
    net = create_model("densenet3d_tiny", num_classes=3)
    spec = replace(SPEC, stride=None, fps=8.0)
    save_model(net, tmp_path / "w.safetensors", card=ModelCard("densenet3d_tiny", classes=CLASSES, clip=spec))
    predictor = Predictor(tmp_path / "w.safetensors", compute=IN_PROCESS)
    path = films / "set/坐/e.mp4"
    with Video(path) as video:
        frames, rate = video[:], video.metadata.average_fps
    want = predictor.predict(path)
    got = predictor.predict(frames.permute(0, 2, 3, 1).numpy(), fps=rate)
    assert got.clips == want.clips
    np.testing.assert_allclose(got.probs, want.probs, atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="frames per second as `fps`"):
        predictor.predict(frames)


def test_one_timeline(weights: Path, films: Path) -> None:
    predictor = Predictor(weights, compute=IN_PROCESS)
    path = films / "set/坐/e.mp4"
    rules = t3d.TimelineConfig(window=0, threshold=0.1, min_length=0)
    (want,) = predictor.timelines(path, rules)
    assert isinstance(want, t3d.Timeline)
    got = predictor.predict_timeline(path, rules)
    assert got.segments == want.segments
    frames = Video(path)[:]
    assert predictor.predict_timeline(frames, rules, fps=25).segments == want.segments
    with pytest.raises(ConfigError, match="`fps`"):
        predictor.predict_timeline(frames)
    with pytest.raises(VideoError, match=r"empty\.mp4"):
        predictor.predict_timeline(films / "bad/empty.mp4")
    with pytest.raises(ConfigError, match="no class 'rest'"):
        predictor.predict_timeline("absent.mp4", t3d.TimelineConfig(background=("rest",)))


# --- what is printed ----------------------------------------------------------------------------------------


def test_classes_below_the_threshold_are_not_printed(
    weights: Path, films: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = films / "set/坐/e.mp4"
    prediction = Predictor(weights, compute=IN_PROCESS)(path)
    words = ["predict", str(weights), str(path), "--workers", "0", "--precision", "fp32"]
    limit = (prediction.probs[0] + prediction.probs[1]) / 2
    assert main([*words, "--threshold", str(limit)]) == 0
    assert capsys.readouterr().out.split("\t")[1:] == [f"{prediction.label} {prediction.probability:.1%}\n"]
    assert main([*words, "--threshold", str(limit), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["classes"]) == [prediction.label]
    assert main([*words, "--threshold", "1", "--per-clip"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1 + prediction.clips
    assert all(row.endswith("\tnone above 100 %") for row in rows)
    for wrong in (["--threshold", "50"], ["--threshold", "0.5", "--out", "a.jsonl"]):
        assert main([*words, *wrong]) == 2
