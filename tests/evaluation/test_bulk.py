from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from t3d.card import ModelCard
from t3d.cli.main import main
from t3d.clip import ClipSpec
from t3d.data.soft_labels import read_soft_labels
from t3d.errors import CheckpointError, ConfigError, LostReaderError
from t3d.evaluation.bulk import PredictionFile, _block, _scorer, predictions, to_line
from t3d.evaluation.config import PredictConfig
from t3d.evaluation.parts import Part
from t3d.evaluation.prediction_rows import PredictionRows
from t3d.evaluation.predictor import Predictor
from t3d.evaluation.result import Prediction
from t3d.evaluation.scoring import IN_PROCESS
from t3d.models.registry import create_model
from t3d.models.weights import save_model
from t3d.video.encode import write_video
from t3d.workers.cluster import Cluster

CLASSES = ("jump", "run, fast", "坐")
GOOD = Prediction("/v/a.mp4", ("坐", "jump", "run, fast"), (0.5, 0.375, 0.125), clips=4)
BAD = Prediction("/v/b.mp4", error="is empty (0 bytes)")


def net(path: Path, seed: int, classes: tuple[str, ...] = CLASSES) -> Path:
    torch.manual_seed(seed)
    model = create_model("densenet3d_tiny", num_classes=len(classes))
    torch.nn.init.normal_(model.get_classifier().weight, std=1.0)
    spec = ClipSpec(num_frames=8, stride=1, size=32, resize=32, tail="pad")
    save_model(model, path, card=ModelCard("densenet3d_tiny", classes=classes, clip=spec))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return net(tmp_path_factory.mktemp("net") / "net.safetensors", 1)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for at in range(3):
        frames = torch.randint(0, 256, (9 + at, 3, 32, 32), generator=torch.Generator().manual_seed(at))
        write_video(folder / f"{at}.mp4", frames.to(torch.uint8))
    return folder


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_interrupted_file_is_resumed_at_its_end(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "new" / "all.jsonl"
    with PredictionFile(out, model=weights, top=2) as file:
        assert file.missing(["/v/b.mp4", "/v/a.mp4", "/v/b.mp4"]) == ["/v/b.mp4", "/v/a.mp4"]
        file.add(GOOD)
        assert lines(out)[0]["path"] == "/v/a.mp4"  # there before the file is closed
        file.add(BAD)
    assert [{**line, "weights": None} for line in lines(out)] == [
        {"path": "/v/a.mp4", "clips": 4, "classes": {"坐": 0.5, "jump": 0.375}, "weights": None},
        {"path": "/v/b.mp4", "error": "is empty (0 bytes)", "weights": None},
    ]
    with out.open("ab") as file:  # type: ignore[assignment]
        file.write(b'{"path": "/v/c.mp4", "cli')  # type: ignore[attr-defined]
    with PredictionFile(out, model=weights, top=2) as file:
        assert file.missing(["/v/a.mp4", "/v/b.mp4", "/v/c.mp4"]) == ["/v/b.mp4", "/v/c.mp4"]
        assert [line["path"] for line in lines(out)] == ["/v/a.mp4"]
        file.add(Prediction("/v/b.mp4", GOOD.classes, GOOD.probs, clips=1))
    assert [line["path"] for line in lines(out)] == ["/v/a.mp4", "/v/b.mp4"]
    assert [path.name for path in out.parent.iterdir()] == ["all.jsonl"]


def test_a_whole_file_is_not_written_again(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "all.jsonl"
    with PredictionFile(out, model=weights, top=3) as file:
        file.add(GOOD)
    before = out.stat()
    with PredictionFile(out, model=weights, top=3):
        pass
    after = out.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_files_of_others_are_refused_and_left_alone(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "all.jsonl"
    with PredictionFile(out, model=weights, top=2) as file:
        file.add(GOOD)
        with (
            pytest.raises(
                ConfigError, match=r"another run is writing to .*all\.jsonl \(process \d+ on .*\); wait"
            ),
            PredictionFile(out, model=weights, top=2),
        ):
            pass
    before = out.read_bytes()
    other = net(tmp_path / "other.safetensors", 2)
    for options, message in (
        ({"model": other, "top": 2}, "holds predictions of other weights; choose a new file"),
        (
            {"model": weights, "top": 3},
            "holds 2 classes per line, but .* would write 3; use `top` = 2",
        ),
    ):
        with pytest.raises(ConfigError, match=message), PredictionFile(out, **options):  # type: ignore[arg-type]
            pass
    assert out.read_bytes() == before
    for text in ("path,label\n", "[]\n", '{"path": "a.mp4"}\n'):
        out.write_text(text)
        with (
            pytest.raises(ConfigError, match=r"not a JSON object|holds a line that is not a prediction"),
            PredictionFile(out, model=weights, top=2),
        ):
            pass
        assert out.read_text() == text
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        PredictionFile(out, model=tmp_path / "none.safetensors", top=2)


def test_all_classes_are_written_by_default(tmp_path: Path) -> None:
    out, classes = tmp_path / "all.jsonl", tuple("abcdef")
    prediction = Prediction("/v/a.mp4", classes, (0.5, 0.1, 0.1, 0.1, 0.1, 0.1), clips=1)
    with PredictionFile(out, model=net(tmp_path / "net.safetensors", 1, classes)) as file:
        file.add(prediction)
    assert lines(out)[0]["classes"] == dict(zip(classes, prediction.probs, strict=True))


def test_a_table_of_predictions_is_resumed_at_its_end(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "all.csv"
    part = Prediction('/v/"c,d".mp4', GOOD.classes, (0.9, 0.1, 1e-9), clips=1, start=0.1, end=2.5)
    with PredictionFile(out, model=weights) as file:
        digest = file._weights
        file.add(GOOD)
        file.add(replace(BAD, error="two\nlines"))
        head = 'path,start,end,prediction,clips,weights,error,jump,"run, fast",坐'
        good = f"/v/a.mp4,,,坐,4,{digest},,0.375,0.125,0.5"
        assert out.read_text().splitlines() == [head, good, f"/v/b.mp4,,,,0,{digest},two lines,,,"]
    with out.open("ab") as stream:
        stream.write(b'"/v/""c,d"')  # the line that a kill cut short
    with PredictionFile(out, model=weights) as file:
        places = [Part(GOOD.path), Part(BAD.path), Part(part.path, 0.1, 2.5)]
        assert file.missing(places) == places[1:]
        assert out.read_text().splitlines() == [head, good]
        file.add(part)
    last = f'"/v/""c,d"".mp4",0.1,2.5,坐,1,{digest},,0.1,1e-09,0.9'
    assert out.read_text().splitlines() == [head, good, last]
    with PredictionFile(out, model=weights) as file:
        assert file.missing(places) == [Part(BAD.path)]
    soft = read_soft_labels(out)
    assert (soft.classes, len(soft), soft.videos[1].end) == (CLASSES, 2, 2.5)


def test_a_header_that_was_cut_short_is_written_again(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "all.csv"
    out.write_bytes(b"path,sta")
    with PredictionFile(out, model=weights) as file:
        file.add(GOOD)
    assert out.read_text().startswith("path,start,end,prediction,")
    assert len(read_soft_labels(out)) == 1


def test_tables_of_others_are_refused_and_left_alone(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "all.csv"
    with PredictionFile(out, model=weights) as file:
        file.add(GOOD)
    whole = out.read_text()
    other = net(tmp_path / "other.safetensors", 2)
    head, row = whole.splitlines()
    for text, model, message in (
        (whole, other, "holds predictions of other weights; choose a new file"),
        ("path,label\n", weights, r"all\.csv, line 1: has other columns \(path,label\)"),
        ("label", weights, "line 1: has other columns"),
        (whole + "/v/b.mp4,run\n", weights, "line 3: not a prediction"),
        (f"{head}\n{row.replace('0.125', 'x')}\n", weights, "line 2: not a prediction"),
    ):
        out.write_text(text)
        with pytest.raises(ConfigError, match=message), PredictionFile(out, model=model):
            pass
        assert out.read_text() == text


def test_line_breaks_do_not_fit_into_a_table(tmp_path: Path, weights: Path) -> None:
    with PredictionFile(tmp_path / "a.jsonl", model=weights) as file:
        assert file.missing(["/v/a\nb.mp4"]) == ["/v/a\nb.mp4"]
    with (
        PredictionFile(tmp_path / "a.csv", model=weights) as file,
        pytest.raises(ConfigError, match=r"has a line break.*write a \.jsonl file"),
    ):
        file.missing([Part("/v/a\nb.mp4")])
    with pytest.raises(CheckpointError, match=r"the class name .* has a line break"):
        PredictionRows(("a\nb", "c"), "single")


def test_a_row_of_several_labels_names_all_that_apply() -> None:
    rows = PredictionRows(("a", "b", "c"), "multi")
    record = {"path": "/v", "clips": 1, "classes": {"c": 0.9, "a": 0.5, "b": 0.1}, "weights": "f"}
    assert rows.header.startswith(b"path,start,end,predictions,")
    assert rows.encode(record) == b"/v,,,a|c,1,f,,0.5,0.1,0.9\n"
    assert rows.encode(record | {"classes": dict.fromkeys("abc", 0.1)}).split(b",")[3] == b"|"


def test_the_command_writes_the_same_soft_labels_as_json_and_csv(
    weights: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(weights), str(films), "--workers", "0", "--precision", "fp32", "--out"]
    soft = []
    for name in ("all.jsonl", "all.csv"):
        assert main([*words, str(tmp_path / name)]) == 0
        assert "3 videos; 3 predicted now" in capsys.readouterr().out
        soft.append(read_soft_labels(tmp_path / name))
    first, second = soft[0].with_classes(CLASSES), soft[1].with_classes(CLASSES)
    np.testing.assert_array_equal(first.probs, second.probs)
    assert first.videos.table.equals(second.videos.table)


def test_weights_that_change_while_they_are_loaded_write_nothing(tmp_path: Path) -> None:
    model = net(tmp_path / "net.safetensors", 1)
    out = tmp_path / "all.jsonl"
    with PredictionFile(out, model=model, top=2) as file:
        net(model, 2)  # a run saves
        with pytest.raises(CheckpointError, match=r"net\.safetensors: the weights changed while they were"):
            file.add(GOOD)
    assert lines(out) == []
    with PredictionFile(out, model=model, top=2) as file:
        file.add(GOOD)
        net(model, 3)  # after the first prediction, the weights are in memory
        file.add(replace(GOOD, path="/v/c.mp4"))
    assert len({line["weights"] for line in lines(out)}) == 1


def test_an_unfinished_run_is_not_used_on_a_cluster() -> None:
    with pytest.raises(ConfigError, match="`allow_unfinished` is set and `cluster` is ray"):
        PredictConfig("run", allow_unfinished=True, cluster=Cluster("ray"))


def test_a_machine_of_a_cluster_gets_whole_batches_of_videos() -> None:
    """Else it would form other batches than one machine, and scores would differ by rounding."""
    assert [_block(size) for size in (1, 8, 10, 64, 100)] == [64, 64, 60, 64, 100]


def test_predictions_made_here_are_the_predictors_own(weights: Path, films: Path) -> None:
    paths = [str(path) for path in sorted(films.iterdir())]
    results = list(predictions(PredictConfig(str(weights), compute=IN_PROCESS), paths))
    assert results == list(Predictor(weights, compute=IN_PROCESS).many(paths))


def test_the_command(weights: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, empty = tmp_path / "all.jsonl", tmp_path / "empty.mp4"
    empty.touch()
    words = ["predict", str(weights), str(films), str(empty), "--workers", "0", "--precision", "fp32"]
    assert main([*words, "--out", str(out)]) == 1
    output = capsys.readouterr()
    assert output.out == f"{out}: 4 videos; 3 predicted now, 0 earlier, 1 could not be read\n"
    assert f"t3d: {empty}: is empty (0 bytes)" in output.err
    first = lines(out)
    assert main([*words, "--json"]) == 1
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line | {"weights": first[0]["weights"]} for line in printed] == first
    assert main([*words, "--out", str(out), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"videos": 4, "predicted": 0, "bad": 1}
    assert lines(out) == first
    assert main([*words[:3], "--out", str(out)]) == 0
    assert "3 videos; 0 predicted now, 3 earlier" in capsys.readouterr().out
    assert main([*words, "--out", str(out), "--top", "1"]) == 2
    assert "holds 3 classes per line, but this command would write 1" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_a_killed_run_loses_at_most_a_line(
    weights: Path,
    films: Path,
    tmp_path: Path,
    killed_at: Callable[..., None],
) -> None:
    (tmp_path / "many").mkdir()
    for at in range(10):
        (tmp_path / "many" / f"{at}.mp4").hardlink_to(films / f"{at % 3}.mp4")
    out = tmp_path / "all.jsonl"
    words = ["predict", str(weights), str(tmp_path / "many"), "--out", str(out), "--workers", "0"]
    words += ["--precision", "fp32", "--batch-size", "4"]
    killed_at("t3d.io.journal:Journal.add", 7, lambda: main(words))  # in the second batch of videos
    before = out.read_bytes().splitlines(keepends=True)
    assert len(before) == 6
    with out.open("ab") as file:
        file.write(before[0][:40])  # as if it had died while it wrote the line
    assert main(words) == 0
    after = out.read_bytes().splitlines(keepends=True)
    assert after[: len(before)] == before
    assert len(after) == len({line["path"] for line in lines(out)}) == 10


def test_a_dead_reader_is_the_death_of_the_process_and_other_errors_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reading:
        def many(self, paths: list[str]) -> list[Prediction]:
            raise LostReaderError("died", "retry") if paths[0] == "dead" else RuntimeError(paths[0])

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr("t3d.evaluation.bulk.os._exit", leave)
    score = _scorer(Reading)  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        score(["dead"])
    with pytest.raises(RuntimeError, match="another"):
        score(["another"])


def test_a_line_has_the_most_probable_class_or_the_error() -> None:
    assert to_line(GOOD, top=9)["classes"] == {"坐": 0.5, "jump": 0.375, "run, fast": 0.125}
    assert to_line(BAD, top=9) == {"path": "/v/b.mp4", "error": "is empty (0 bytes)"}


def test_a_signal_reports_how_many_predictions_are_kept(
    weights: Path,
    films: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "all.jsonl"
    words = ["predict", str(weights), str(films), "--out", str(out), "--workers", "0", "--top", "1"]
    add = PredictionFile.add
    with monkeypatch.context() as patch:

        def adding(self: PredictionFile, prediction: Prediction) -> None:
            if len(lines(out)) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            add(self, prediction)

        patch.setattr(PredictionFile, "add", adding)
        assert main(words) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == (
        f"t3d: SIGTERM stopped the predictions; 2 of 3 are kept in {out}. Run the same command again to "
        "continue\n"
    )
    assert main(words) == 0
    assert capsys.readouterr().out == (f"{out}: 3 videos; 1 predicted now, 2 earlier, 0 could not be read\n")
