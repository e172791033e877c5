"""`t3d fit`: from a folder to a tested model; it continues where it stopped, and refuses what cannot work."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from t3d.cli.fit import same_again
from t3d.cli.main import main
from t3d.data.manifest.manifest import Manifest
from t3d.data.split_lists import Shares
from t3d.device import Compute
from t3d.errors import ConfigError, ManifestError, StoppedError, T3DError
from t3d.evaluation.predictor import Predictor
from t3d.fit import look as look_module
from t3d.fit import run as run_module
from t3d.fit.config import FitConfig
from t3d.fit.folder import FitFolder
from t3d.fit.result import FitResult
from t3d.fit.run import run_fit
from t3d.models.weights import load_model
from t3d.runtime.load import read_model_card

SHARES = Shares(val_fraction=0.2, test_fraction=0.2)


def config_of(clips: Path, out: Path, teacher: str, **options: object) -> FitConfig:
    small = {"epochs": 1, "size": 32, "export": False, "shares": SHARES, "compute": Compute(workers=0)}
    return FitConfig(str(clips), out=str(out), teacher=teacher, **(small | options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(
    clips: Path, teacher: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FitResult, list[str]]:
    """A whole fit that was stopped once and continued, and the sentences that it printed."""
    printed: list[str] = []
    config = config_of(clips, tmp_path_factory.mktemp("fitted") / "fit", teacher)

    def stop(_: object) -> None:
        raise StoppedError("stopped", 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "train_network", stop)
        with pytest.raises(StoppedError):
            run_fit(config, say=printed.append)
    return run_fit(config, say=printed.append), printed


def test_every_part_is_there(fitted: tuple[FitResult, list[str]]) -> None:
    result, printed = fitted
    folder = FitFolder(result.config.out)
    assert result.counts == {"train": (6, 6), "val": (2, 2), "test": (2, 2)}
    assert result.test.metrics.videos == 2
    assert [name for name, _ in result.lines()] == ["frames", "network", "both"]
    assert result.orders is not None
    assert [row.order for row in result.orders.rows] == ["normal", "shuffled", "static"]
    for name in ("frames", "network", "both"):
        assert folder.candidate(name).last.is_file()
    assert folder.model.last.is_file()
    assert not folder.cache.exists()
    assert json.loads(folder.result.read_text())["winner"] == result.winner
    assert any("10 videos of 2 classes (blue 5, red 5)" in line for line in printed)
    assert any("No recording is in two lists" in line for line in printed)


def test_no_recording_is_in_two_lists(fitted: tuple[FitResult, list[str]]) -> None:
    lists = FitFolder(fitted[0].config.out).read_lists(("blue", "red"))
    sources = [set(part.sources()) for part in lists.values()]
    assert not set.intersection(sources[0], sources[1])
    assert not set.intersection(sources[2], sources[0] | sources[1])


def test_the_winner_is_the_model(fitted: tuple[FitResult, list[str]]) -> None:
    result, _ = fitted
    lines = dict(result.lines())
    best = max(line.accuracy for line in lines.values())
    assert lines[result.winner].accuracy == best
    train, val = FitFolder(result.config.out).model.read_videos()
    if result.winner == "frames":
        assert (len(train), val) == (8, None)  # fitted again with the validation videos
    elif result.winner == "network":
        assert val is not None
        assert len(train) == 6
    else:
        card = read_model_card(result.model)
        assert card is not None
        assert card.architecture == "fused"


def test_the_model_predicts_what_was_tested(fitted: tuple[FitResult, list[str]]) -> None:
    result, _ = fitted
    predictor = Predictor(result.config.out, compute=Compute(workers=0))  # the folder of the fit is a model
    for path, scores in zip(result.test.scores.paths, result.test.scores.video_probs, strict=True):
        (prediction,) = predictor.many([path])
        best = int(scores.argmax())
        assert prediction.classes[0] == ("blue", "red")[best]
        assert prediction.probs[0] == pytest.approx(float(scores[best]), abs=1e-4)


def test_a_finished_fit_is_reported_again_without_training(
    fitted: tuple[FitResult, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = fitted
    monkeypatch.setattr(run_module, "train_network", lambda _: pytest.fail("trained again"))
    frames = FitFolder(result.config.out).candidate("frames").last.stat().st_mtime_ns
    weights = load_model(result.model)[0].state_dict()
    again = run_fit(replace(result.config, minutes=5), say=lambda _: None)
    assert FitFolder(result.config.out).candidate("frames").last.stat().st_mtime_ns == frames
    assert again.minutes > result.minutes
    assert again.winner == result.winner
    assert again.test.metrics.headline() == result.test.metrics.headline()
    for name, tensor in load_model(again.model)[0].state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_other_options_are_refused_in_the_same_folder(fitted: tuple[FitResult, list[str]]) -> None:
    config = fitted[0].config
    with pytest.raises(ConfigError, match="holds a fit with other options: epochs was 1, now 3"):
        run_fit(replace(config, epochs=3), say=lambda _: None)
    with pytest.raises(ConfigError, match="which is in the folder of videos"):
        replace(config, out=str(Path(config.videos) / "fit"))
    with pytest.raises(ConfigError, match="other files that no fit wrote"):
        run_fit(replace(config, out=str(Path(config.out) / "candidates")), say=lambda _: None)


def test_a_stopped_fit_continues(fitted: tuple[FitResult, list[str]]) -> None:
    _, printed = fitted  # the fixture stops the fit once, before the 3D network
    assert sum(line.startswith("3. Fitting a classifier on frames") for line in printed) == 1
    assert sum(line.startswith("4. Training the 3D network") for line in printed) == 2
    assert sum("Estimate: about" in line for line in printed) == 2
    assert sum("Continuing with the plan" in line for line in printed) == 1


def test_the_command_of_the_report_has_every_choice(
    fitted: tuple[FitResult, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = fitted
    words = shlex.split(same_again(result))
    assert words[:2] == ["t3d", "fit"]
    made: list[FitConfig] = []

    def remember(config: FitConfig, **_: object) -> FitResult:
        made.append(config)
        return result

    monkeypatch.setattr("t3d.fit.run.run_fit", remember)
    monkeypatch.setattr("t3d.report.fit_page.write_fit", lambda _, command, again: Path(command + again))
    monkeypatch.chdir(tmp_path)
    assert main(words[1:]) == 0
    expected = replace(
        result.config, out=f"{result.config.out}-again", clip_seconds=16 / result.plan.clip_fps
    )
    assert made == [expected]


@pytest.mark.long
def test_changed_videos_are_not_mixed_with_old_lists(clips: Path, teacher: str, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    rows = [f"{path},{path.parent.name}" for path in sorted(clips.rglob("*.mp4"))]
    table.write_text("\n".join(["path,label", *rows]))
    config = config_of(table, tmp_path / "fit [1]", teacher, candidates=("frames",))
    run_fit(config, say=lambda _: None)
    table.write_text("\n".join(["path,label", *rows[:-1], rows[-1].replace(",red", ",blue")]))
    with pytest.raises(ConfigError, match=r"red4\.mp4 has another label, time span or group"):
        run_fit(config, say=lambda _: None)
    table.write_text("\n".join(["path,label", *rows[:-1]]))
    with pytest.raises(ConfigError, match=r"red4\.mp4 is gone"):
        run_fit(config, say=lambda _: None)
    result = run_fit(replace(config, overwrite=True), say=lambda _: None)
    assert sum(videos for videos, _ in result.counts.values()) == 9


def test_a_typing_error_does_not_delete_a_fit(fitted: tuple[FitResult, list[str]], tmp_path: Path) -> None:
    config = replace(fitted[0].config, videos=str(tmp_path / "nowhere"), overwrite=True)
    with pytest.raises(ManifestError, match="nowhere"):
        run_fit(config, say=lambda _: None)
    assert FitFolder(config.out).model.last.is_file()
    assert FitFolder(config.out).finished(fitted[0].config) is None or FitFolder(config.out).result.is_file()


def test_lists_are_written_all_or_none(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FitFolder(tmp_path)
    videos = Manifest.from_folder(clips)
    write = Manifest.write_csv

    def fail_at_test(self: Manifest, path: Path, **options: bool) -> None:
        if len(self) == 1:
            raise OSError(28, "No space left on device", str(path))
        write(self, path, **options)

    monkeypatch.setattr(Manifest, "write_csv", fail_at_test)
    with pytest.raises(T3DError, match="No space left"):
        folder.write_lists({"train": videos, "test": videos.select([0])})
    assert folder.read_lists(videos.classes) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": ("frames", "frames")}, "give each name once"),
        ({"shares": Shares(val_fraction=0.0, test_fraction=0.2)}, "nothing to choose between candidates on"),
        ({"shares": Shares(val_fraction=0.2, test_fraction=0.0)}, "there is nothing to test on"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FitConfig("clips", **options)  # type: ignore[arg-type]


@pytest.mark.long
def test_time_spans_and_several_labels(clips: Path, teacher: str, tmp_path: Path) -> None:
    paths = sorted(clips.rglob("*.mp4"))
    rows = [
        f"{path},{'red|blue' if number % 5 == 0 else path.parent.name},0,0.3"
        for number, path in enumerate(paths)
    ]
    table = tmp_path / "list.csv"
    table.write_text("\n".join(["path,labels,start,end", *rows, f"{paths[0]},red,50,60"]))
    result = run_fit(config_of(table, tmp_path / "fit", teacher), say=lambda _: None)
    assert result.plan.candidates == ("network",)
    assert result.winner == "network"
    assert result.orders is None
    assert [failed.reason for failed in result.looked.bad] == [
        "its time span begins after the end of the file"
    ]
    assert sum(videos for videos, _ in result.counts.values()) == 10


def test_broken_videos_are_left_out_and_named(clips: Path, teacher: str, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    (tmp_path / "clips" / "red" / "cut.mp4").write_bytes((clips / "red" / "red0.mp4").read_bytes()[:200])
    shutil.copy(clips / "red" / "red1.mp4", tmp_path / "clips" / "red" / "twin.mp4")
    printed: list[str] = []
    config = config_of(tmp_path / "clips", tmp_path / "fit", teacher, candidates=("frames",))
    result = run_fit(config, say=printed.append)
    assert [Path(failed.path).name for failed in result.looked.bad] == ["cut.mp4"]
    assert result.looked.joined == 1
    assert any("1 file cannot be used and is left out" in line for line in printed)
    assert any("1 video is a copy or near-duplicate of another" in line for line in printed)
    lists = FitFolder(config.out).read_lists(("blue", "red"))
    homes = [
        name
        for name, part in lists.items()
        for entry in part
        if Path(entry.path).name in ("red1.mp4", "twin.mp4")
    ]
    assert len(homes) == 2
    assert len(set(homes)) == 1  # the copy is in the same list


def test_labels_that_cannot_be_learned(
    clips: Path, teacher: str, tmp_path: Path, write_videos: Callable[..., Path]
) -> None:
    def fit(videos: Path, **options: object) -> None:
        run_fit(config_of(videos, tmp_path / "fit", teacher, **options), say=lambda _: None)

    one = tmp_path / "one"
    shutil.copytree(clips / "red", one / "red")
    with pytest.raises(ManifestError, match="all 5 videos have the label 'red'; a classifier needs at least"):
        fit(one)
    shutil.copytree(clips / "blue", one / "Red")
    with pytest.raises(ManifestError, match="the classes 'Red' and 'red' differ only in case"):
        fit(one)
    alone = write_videos(tmp_path / "alone", per_class=1)
    few = "no recording can be held out for the test, because no class has two of them: "
    with pytest.raises(ManifestError, match=few + "2 videos are of 2 recordings. Add videos"):
        fit(alone)
    assert not list((tmp_path / "fit" / "index").glob("*"))  # nothing was read
    shutil.copy(alone / "red" / "red0.mp4", alone / "red" / "again.mp4")
    copies = "3 videos are of 2 recordings (1 is a copy or near-duplicate of another). Add videos"
    with pytest.raises(ManifestError, match=re.escape(copies)):
        fit(alone)
    named = "4 videos are of 2 recordings. If they are not, name recordings more finely"
    for path in clips.rglob("*[234].mp4"):
        target = tmp_path / "named" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.stem[-1] != "2":
            shutil.copy(path, target)
    with pytest.raises(ManifestError, match=named):
        fit(tmp_path / "named", source_pattern=r"(\w)\w*\d$")
    assert not (tmp_path / "fit" / "candidates").exists()


@pytest.mark.long
def test_three_videos_per_class_are_enough_to_start(
    teacher: str, tmp_path: Path, write_videos: Callable[..., Path]
) -> None:
    clips = write_videos(tmp_path / "clips", per_class=3)
    result = run_fit(config_of(clips, tmp_path / "fit", teacher), say=lambda _: None)
    assert result.counts == {"train": (2, 2), "val": (2, 2), "test": (2, 2)}
    assert any("Few videos were tested: 2 (recordings: 2)." in line for line in result.sentences())


@pytest.mark.long
def test_videos_without_labels_are_learned_from(
    clips: Path, teacher: str, tmp_path: Path, write_videos: Callable[..., Path]
) -> None:
    more = write_videos(tmp_path / "more", per_class=3, seed=1)
    shutil.copy(clips / "red" / "red0.mp4", more / "known.mp4")
    config = config_of(clips, tmp_path / "fit", teacher, unlabeled_videos=str(more))
    run_fit(config, say=lambda _: None)
    folder = FitFolder(config.out)
    train, _ = folder.candidate("network").read_videos()
    assert (~train.labeled).sum() in (6, 7)  # the copy is left out if its twin is held out
    held = {Path(entry.path).name for entry in Manifest.from_csv(folder.list_of("held_out"))}
    assert ("red0.mp4" in held) == ((~train.labeled).sum() == 6)


def test_the_command(clips: Path, teacher: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "fit")
    words = ["fit", str(clips), "--out", out, "--teacher", teacher, "--candidates", "frames", "--no-export"]
    assert main([*words, "--workers", "0", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["winner"] == "frames"
    page = (tmp_path / "fit" / "report.html").read_text()
    assert "Does the order of the frames matter?" in page
    assert "t3d predict" in page
    assert len(page) < 3_000_000
    assert main(["predict", out, str(clips / "red" / "red0.mp4"), "--workers", "0"]) == 0
    assert "red" in capsys.readouterr().out
    assert main(["fit", str(clips / "nowhere"), "--out", str(tmp_path / "other")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_reading_that_takes_longer_than_the_fit_may_is_refused_early(
    clips: Path, teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_module, "_MANY", 5)
    monkeypatch.setattr(look_module, "_SAMPLE", 2)
    ticks = iter([0, 10, 10, 1020])
    monkeypatch.setattr(look_module, "_clock", lambda: float(next(ticks)))
    with pytest.raises(ConfigError, match="reading the 10 videos of videos once takes about 1 h"):
        run_fit(config_of(clips, tmp_path / "fit", teacher), say=lambda _: None)


@pytest.mark.long
def test_videos_of_the_test_are_not_trained_on(
    clips: Path, teacher: str, tmp_path: Path, write_videos: Callable[..., Path]
) -> None:
    tested = write_videos(tmp_path / "tested", per_class=2, seed=5)
    shutil.copy(clips / "blue" / "blue1.mp4", tested / "blue" / "copy.mp4")
    config = config_of(clips, tmp_path / "fit", teacher, test=str(tested), candidates=("frames",))
    result = run_fit(config, say=lambda _: None)
    assert result.looked.shared == 1
    assert result.counts == {"train": (9, 9), "test": (5, 5)}
    assert "blue1.mp4" not in FitFolder(config.out).list_of("train").read_text()


@pytest.mark.long
def test_the_exported_model_is_the_one_to_use(fitted: tuple[FitResult, list[str]]) -> None:
    pytest.importorskip("openvino")
    result = run_fit(replace(fitted[0].config, export=True), say=lambda _: None)
    assert result.export is not None
    assert result.export.real  # checked on clips of the training videos
    assert result.not_exported == ""
    exported_file = Path(result.config.out) / "model" / "last.xml"
    path = result.test.scores.paths[0]
    (exported,) = Predictor(exported_file, compute=Compute(workers=0)).many([path])
    (plain,) = Predictor(result.model, compute=Compute(workers=0), runtime="torch").many([path])
    assert exported.probs[0] == pytest.approx(plain.probs[0], abs=1e-4)
    assert result.milliseconds > 0


def test_copies_with_different_labels_are_left_out(clips: Path, teacher: str, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    shutil.copy(clips / "red" / "red0.mp4", tmp_path / "clips" / "blue" / "copy.mp4")
    config = config_of(tmp_path / "clips", tmp_path / "fit", teacher, candidates=("frames",))
    result = run_fit(config, say=lambda _: None)
    assert sorted(Path(failed.path).name for failed in result.looked.bad) == ["copy.mp4", "red0.mp4"]
    assert "which has another label" in result.looked.bad[0].reason
    assert sum(videos for videos, _ in result.counts.values()) == 9


def test_a_missing_folder_is_the_first_error(fitted: tuple[FitResult, list[str]], tmp_path: Path) -> None:
    out = tmp_path / "new"
    for folder in (fitted[0].config.out, str(out)):
        with pytest.raises(ManifestError, match="nosuch: no such file or folder"):
            run_fit(FitConfig(str(tmp_path / "nosuch"), out=folder))
    assert not out.exists()
