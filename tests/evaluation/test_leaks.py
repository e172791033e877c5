"""Tested videos that training has seen: found, counted, and left out of a second figure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from t3d.cli.main import main
from t3d.data.inspect.nearby import Listed
from t3d.data.inspect.shared import Compared, SharedRow, SharedRows
from t3d.data.manifest.manifest import Manifest
from t3d.evaluation.figures import FEW_RESAMPLES
from t3d.evaluation.leaks import (
    compared_lists,
    measure_without,
    overlap_sentences,
    overlaps,
    shared_with_run,
    sharing_sentence,
    uncompared_sentence,
)
from t3d.evaluation.metrics import Metrics
from t3d.evaluation.run_test import TestResult
from t3d.evaluation.scores import Scores
from t3d.evaluation.task import measure
from t3d.prepare.index import index_videos
from t3d.training.logging import read_log
from t3d.video.encode import write_video

pytestmark = pytest.mark.usefixtures("work_here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of two classes to train on, and four to test on.

    Of the four, one is in the training list, one is a copy of another of its files, and one is of a group
    that it has.
    """
    folder = tmp_path_factory.mktemp("leaks")
    rng = np.random.default_rng(0)
    for name in ("r1", "r2", "r3", "b1", "b2", "new", "tape"):
        frames = rng.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
        write_video(folder / f"{name}.mp4", torch.from_numpy(frames))
    (folder / "copy.mp4").write_bytes((folder / "b2.mp4").read_bytes())
    head = "path,label,source\n"
    (folder / "train.csv").write_text(
        head + "r1.mp4,red,r1\nr2.mp4,red,r2\nr3.mp4,red,T\nb1.mp4,blue,b1\nb2.mp4,blue,b2\n"
    )
    (folder / "test.csv").write_text(head + "r1.mp4,red,r1\nnew.mp4,red,n\ntape.mp4,red,T\ncopy.mp4,blue,c\n")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    options = {
        "--data.train": folder / "train.csv",
        "--data.val": folder / "test.csv",
        "--out": folder / "run",
        "--model.name": "densenet3d_tiny",
        "--model.options": json.dumps({"block_config": [1, 1], "growth_rate": 4, "stem_channels": 8}),
        "--clip.num_frames": 8,
        "--clip.stride": 1,
        "--clip.size": 32,
        "--clip.resize": 32,
        "--data.workers": 0,
        "--optim.epochs": 1,
        "--optim.batch_size": 2,
    }
    words = [str(word) for pair in options.items() for word in pair]
    assert main(["train", *words]) == 0
    return folder / "run"


def shared(*rows: int, tested: Compared | None = None, trained: Compared | None = None) -> SharedRows:
    return SharedRows(
        tuple(SharedRow(row, "file", f"{row}.mp4", f"{row}.mp4") for row in rows),
        tested=tested or Compared(4),
        trained=trained or Compared(1000),
    )


def scores() -> Scores:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    return Scores(("a", "b"), probs, np.arange(4), probs, np.array([0, 0, 0, 1]), tuple("wxyz"), ())


def test_a_run_folder_knows_its_videos(folder: Path, run: Path) -> None:
    tested = Manifest.from_csv(folder / "test.csv")
    for model in (run, run / "last.safetensors"):
        shared = shared_with_run(str(model), tested, None)
        assert list(shared) == ["training", "validation"]
        assert [(row.row, row.reason) for row in shared["training"].rows] == [
            (0, "file"),
            (2, "group"),
            (3, "bytes"),
        ]
        assert len(shared["validation"]) == 4
    assert shared_with_run(str(folder / "elsewhere.safetensors"), tested, None) == {}


def test_a_test_says_how_many_figures_rest_on_shared_videos(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["test", str(run), str(folder / "test.csv"), "--workers", "0"]
    assert main(command) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "3 of 4 test videos are also in the training list or share a group with a training video (1 same "
        "file, 1 same bytes, 1 same group)."
    ) in text
    command_of_index = f"t3d prepare index {folder} --unlabeled --out {folder}/index.parquet"
    assert text.count("Near-duplicates were not looked for") == 1
    assert f"Create it with `{command_of_index}`." in text
    assert "of 1 videos, 95% interval" in text
    assert "All 4 test videos are also in the validation list (4 same file)." in text
    assert "No video is left to measure without them." in text
    assert main([*command, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)["shared"]
    training = {name: line["training"][name] for name in ("videos", "of", "file", "bytes", "group", "near")}
    assert training == {"videos": 3, "of": 4, "file": 1, "bytes": 1, "group": 1, "near": 0}
    assert line["training"]["without"]["videos"] == 1
    assert line["validation"]["without"] is None


def test_a_training_measures_its_validation_without_shared_videos(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line for line in read_log(run / "log.jsonl") if line["kind"] == "val"]
    assert [line["videos_without_shared"] for line in lines] == [1]
    # Known scores: only the second video, which is not shared, is wrong.
    probs = np.array([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
    known = replace(scores(), classes=("blue", "red"), clip_probs=probs, video_probs=probs)
    known = replace(known, labels=np.array([1, 1, 1, 0]))
    monkeypatch.setattr("t3d.training.run.score_videos", lambda *_, **__: known)
    measured = Mock(side_effect=measure)
    monkeypatch.setattr("t3d.training.run.measure", measured)
    assert main(["train", "--resume", str(run), "--optim.epochs", "2"]) == 0
    text = capsys.readouterr().out
    assert "3 of 4 validation videos are also in the training list or share a group" in text
    assert "; without shared videos " in text
    # Validations are frequent, so the bootstrap of a mean average precision is shorter than in a test.
    measured.assert_called_once_with(known, resamples=FEW_RESAMPLES)
    last = [line for line in read_log(run / "log.jsonl") if line["kind"] == "val"][-1]
    without = measure_without(known, shared(0, 2, 3))
    assert isinstance(without, Metrics)
    assert (last["top1"], last["top1_without_shared"]) == (0.75, without.video_top1) == (0.75, 0.0)


def test_a_probe_reports_shared_videos(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lists = [str(folder / "train.csv"), str(folder / "test.csv")]
    command = ["probe", *lists, "--model", str(run), "--workers", "0"]
    assert main(command) == 0
    assert "3 of 4 test videos are also in the training list" in " ".join(capsys.readouterr().out.split())


def test_a_probe_compares_with_the_run_of_its_model(
    folder: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The probe learns from other videos than it tests on, but the model has seen one of these."""
    (folder / "own.csv").write_text("path,label\nr2.mp4,red\nr3.mp4,red\nb1.mp4,blue\n")
    (folder / "asked.csv").write_text("path,label\nr1.mp4,red\nb2.mp4,blue\n")
    lists = [str(folder / "own.csv"), str(folder / "asked.csv")]
    assert main(["probe", *lists, "--model", str(run), "--workers", "0", "--json"]) == 0
    shared = json.loads(capsys.readouterr().out)["shared"]
    counts = {name: (line["videos"], line["of"]) for name, line in shared.items()}
    assert counts == {"training": (0, 2), "model training": (2, 2), "model validation": (2, 2)}


def test_figures_without_shared_videos() -> None:
    rest = measure_without(scores(), shared(1))
    assert isinstance(rest, Metrics)
    assert (rest.videos, rest.correct) == (3, 3)
    assert measure_without(scores(), shared(0, 1, 2, 3)) is None
    (overlap,) = overlaps(scores(), {"training": shared(1)})
    result = TestResult(measure(scores()), scores(), overlaps=(overlap,))
    assert result.sentences()[-2].startswith("Without them: 100.0% (3 of 3 videos, 95% interval ")
    several = replace(scores(), labels=np.eye(4, 2, dtype=np.int8), targets="multi")
    assert measure_without(several, shared(0, 1)) is None  # no class applies to those left


def test_videos_that_were_not_compared_are_reported() -> None:
    names = {"tested": "test", "other": "training"}
    nothing = sharing_sentence(shared(), **names)
    assert nothing.startswith("None of the 4 test videos occurs in the training list (same file, bytes or")
    near = SharedRows(
        (SharedRow(0, "near", "a.mp4", "b.mp4", 0.1),), Compared(4, hashed=4), Compared(9, hashed=9)
    )
    assert (
        sharing_sentence(near, **names)
        == "1 of 4 test videos looks like a training video (1 near-duplicate)."
    )
    assert uncompared_sentence(shared(), **names).startswith("Near-duplicates were not looked for: ")
    whole = Compared(4, hashed=4)
    partly = shared(tested=whole, trained=Compared(1000, hashed=1))
    assert sharing_sentence(partly, **names).endswith("the training list (same file, bytes or group).")
    assert uncompared_sentence(partly, **names) == (
        "Near-duplicates of 999 training videos were not looked for: they are unreadable, not in the index, "
        "or show hardly any detail."
    )
    both = uncompared_sentence(
        shared(0, tested=Compared(4, hashed=3), trained=Compared(1000, hashed=1)), **names
    )
    assert both.startswith("Near-duplicates of 1 test video and 999 training videos were not looked for")
    complete = shared(tested=whole, trained=Compared(1000, hashed=1000))
    assert sharing_sentence(complete, **names).endswith(
        "in the training list or looks like one of its videos."
    )
    assert not uncompared_sentence(complete, **names)


@pytest.mark.parametrize("hashed", [0, 100])
def test_missing_training_videos_are_not_claimed_to_be_compared(hashed: int) -> None:
    trained = Compared(1000, missing=900, hashed=hashed)
    compared = shared(tested=Compared(4, hashed=4 if hashed else 0), trained=trained)
    overlap = overlaps(scores(), {"training": compared})[0]
    first, note = overlap_sentences([overlap])
    assert first == (
        "None of the 4 test videos was found in the training list, but the comparison is incomplete."
    )
    assert note.startswith("900 of 1,000 training videos are not on this machine and were not compared.")
    assert ("Near-duplicates" in note) == (not hashed)
    line = overlap.to_json()["compared"]
    assert line["other"] == {"videos": 1000, "missing": 900, "hashed": hashed}


def test_an_index_next_to_the_lists_is_used(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command in the message creates it, and training, test and probe find it there."""
    (folder / "other.csv").write_text("path,label\nnew.mp4,red\nr1.mp4,red\n")
    command = ["test", str(run), str(folder / "other.csv"), "--workers", "0", "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)["shared"]["training"]["compared"]
    assert (report["tested"]["hashed"], report["other"]["hashed"]) == (0, 0)
    words = ["prepare", "index", str(folder), "--unlabeled", "--out", str(folder / "index.parquet")]
    try:
        assert main([*words, "--workers", "1"]) == 0
        capsys.readouterr()
        assert main(command) == 0
        report = json.loads(capsys.readouterr().out)["shared"]["training"]["compared"]
        assert (report["tested"]["hashed"], report["other"]["hashed"]) == (2, 5)
        lists = [str(folder / "train.csv"), str(folder / "other.csv")]
        assert main(["probe", *lists, "--model", str(run), "--workers", "0"]) == 0
        assert "Near-duplicates" not in capsys.readouterr().out
        resumed = tmp_path / "run"
        shutil.copytree(run, resumed)
        assert main(["train", "--resume", str(resumed), "--optim.epochs", "9"]) == 0
        assert "Near-duplicates" not in capsys.readouterr().out
        # A file that has changed since is not compared by its old hash; another file is not an index.
        (folder / "new.mp4").write_bytes((folder / "tape.mp4").read_bytes() + b"more")
        assert main(command) == 0
        report = json.loads(capsys.readouterr().out)["shared"]["training"]["compared"]
        assert (report["tested"]["hashed"], report["other"]["hashed"]) == (1, 5)
        (folder / "index.parquet").write_bytes(b"something else")
        assert main(command) == 0
    finally:
        (folder / "index.parquet").unlink(missing_ok=True)


def test_the_index_of_a_fit_is_used(folder: Path, run: Path, tmp_path: Path) -> None:
    fit = tmp_path / "fit"
    shutil.copytree(run, fit / "model")
    (fit / "fit.json").write_text("{}")
    tested = Manifest.from_csv(folder / "test.csv")
    shared = shared_with_run(str(fit), tested, None)
    assert shared["training"].tested.hashed == 0
    index_videos(tested, fit / "index" / "videos.parquet", workers=1)
    for model in (fit, fit / "model", fit / "model" / "last.safetensors"):
        shared = shared_with_run(str(model), tested, None)
        assert shared["training"].tested.hashed == 4


def test_an_index_of_videos_without_detail_is_not_asked_for_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        frames = torch.full((9, 3, 32, 32), 50 if name == "a" else 90, dtype=torch.uint8)
        write_video(tmp_path / f"{name}.mp4", frames)
    lists = [Listed(Manifest.from_files([tmp_path / f"{name}.mp4"]), "") for name in ("a", "b")]
    names = {"tested": "test", "other": "training"}
    without = compared_lists(lists[0], {"training": lists[1]}, None)["training"]
    assert "needs an index with the perceptual hashes" in uncompared_sentence(without, **names)
    index_videos(Manifest.from_files([tmp_path]), tmp_path / "index.parquet", workers=1)
    shared = compared_lists(lists[0], {"training": lists[1]}, None)["training"]
    assert uncompared_sentence(shared, **names) == (
        "Near-duplicates were not looked for: all test or all training videos are unreadable, or show hardly "
        "any detail."
    )
